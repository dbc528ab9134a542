"""The question guides what is seen, over positions and channels; or the picture what is read of the question."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from regard.attention import AdditiveRead, Attention, HardRead, SpatialSoftmaxPooling
from regard.attention.alignment.hard import Estimator
from regard.attention.alignment.score import AdditiveScore
from regard.attention.contract import Paper
from regard.attention.offering import MapFact
from regard.models.vqa.core import Core, Loss
from regard.models.vqa.sight import Sight
from regard.models.vqa.words import Words


class GuidedChannels(Attention):
    """Every channel weighed by its mean over the tokens and by the query.

        β_c = softmax over c of wᵀ tanh(w' s_c + W q + b)        with s the mean of the memory

    Maps:
        channel: `(batch, query, channel)`, sums to one over the channels.
    """

    name: ClassVar[str] = "guided_channels"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("channel", ("batch", "query", "channel"), ("channel",)),)

    def __init__(self, query_width: int, hidden_width: int) -> None:
        super().__init__()
        self.score = AdditiveScore(query_width, 1, hidden_width, bias=True)

    def forward(self, query: Float[Tensor, "B Q Dq"], mean: Float[Tensor, "B D"]) -> Float[Tensor, "B Q D"]:
        weights = self.score(query, mean[..., None]).softmax(-1)
        return self.offer("channel", weights)


class QuestionChannelSpatial(Core):
    """Question-guided channel and spatial attention: first what to look for, then where.

        β = softmax over channels of w_cᵀ tanh(w' s + W_c q + b_c)             with s the mean of the tokens
        α = softmax over tokens of w_sᵀ tanh(W_v (β ∘ v_n) + W_s q + b_s)
        z = [Σ_n α_n β ∘ v_n; q]

    Paper: Chen, Zhang, Xiao, Nie, Shao, Liu, Chua, "SCA-CNN: Spatial and Channel-wise Attention in Convolutional
    Networks for Image Captioning", CVPR 2017, equations 4 to 7, in its better order, channels first. There the state
    of a captioner guides; here the question.

    Args:
        sight_width: width `D` of a picture's token.
        words_width: width of the questions.
        hidden_width: width of both scoring networks; default 512, the paper's.

    Class attributes:
        channels, positions: whether it weighs them; of what it does not weigh it takes the mean, or all.
    """

    name: ClassVar[str] = "question_channel_spatial"
    paper: ClassVar[Paper] = Paper(
        "SCA-CNN: Spatial and Channel-wise Attention in Convolutional Networks for Image Captioning",
        "Chen et al.",
        "CVPR",
        2017,
    )
    loss: ClassVar[Loss] = "consensus"
    channels: ClassVar[bool] = True
    positions: ClassVar[bool] = True

    def __init__(self, sight_width: int, words_width: int, hidden_width: int = 512) -> None:
        super().__init__()
        self.channel = GuidedChannels(words_width, hidden_width) if self.channels else None
        self.spatial = AdditiveRead(words_width, sight_width, hidden_width, bias=True) if self.positions else None
        self.joint_width = sight_width + words_width

    def forward(self, sight: Sight, words: Words) -> Float[Tensor, "B Q J"]:
        question = words.summary
        scale = None if self.channel is None else self.channel(question, sight.mean())  # (B, Q, D)
        if self.spatial is None:
            seen = sight.mean()[:, None]  # (B, 1, D)
            seen = seen.expand(-1, question.shape[1], -1) if scale is None else seen * scale
        elif scale is None:
            with sight.looking():
                seen = self.spatial(question, sight.tokens, sight.mask)  # (B, Q, D)
        else:  # every question sees tokens of its own
            each = sight.repeated(question.shape[1])
            with sight.looking():
                seen = self.spatial(
                    question.flatten(0, 1)[:, None], each.tokens * scale.flatten(0, 1)[:, None], each.mask
                )
            seen = words.apart(seen[:, 0])  # (B, Q, D)
        return torch.cat((seen, question), 2)


class QuestionSpatial(QuestionChannelSpatial):
    """Question-guided spatial attention alone: `α` of `QuestionChannelSpatial`, with `β = 1`."""

    name: ClassVar[str] = "question_spatial"
    channels: ClassVar[bool] = False


class QuestionChannel(QuestionChannelSpatial):
    """Question-guided channel attention alone: `β` of `QuestionChannelSpatial`, times the mean of the tokens."""

    name: ClassVar[str] = "question_channel"
    positions: ClassVar[bool] = False


class QuestionHard(Core):
    """Question-guided hard attention: one token is looked at, drawn in training, the likeliest in evaluation.

        z = [v_s; q]        with s ~ softmax over n of wᵀ tanh(W q + U v_n)

    Paper: Xu et al., "Show, Attend and Tell: Neural Image Caption Generation with Visual Attention", ICML 2015, section
    4.1, where the state of a captioner guides; here the question.

    Args:
        sight_width: width of a picture's token.
        words_width: width of the questions.
        hidden_width: width of the scoring network; default 512.
        estimator: how the scores learn, as `HardRead` has it. Default `"gumbel"`, which trains with any loss; the
            paper's `"score_function"` needs `offering.recording_choices()` around the forward pass.
        temperature: of the Gumbel softmax; default 1.
    """

    name: ClassVar[str] = "question_hard"
    paper: ClassVar[Paper] = HardRead.paper
    loss: ClassVar[Loss] = "consensus"

    def __init__(
        self,
        sight_width: int,
        words_width: int,
        hidden_width: int = 512,
        estimator: Estimator = "gumbel",
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.spatial = HardRead(
            words_width, sight_width, hidden_width=hidden_width, estimator=estimator, temperature=temperature
        )
        self.joint_width = sight_width + words_width

    def forward(self, sight: Sight, words: Words) -> Float[Tensor, "B Q J"]:
        with sight.looking():
            seen = self.spatial(words.summary, sight.tokens, sight.mask)
        return torch.cat((seen, words.summary), 2)


class Alternating(Core):
    """Alternating co-attention: the question guides the look at the picture, and that the reading of the words.

        attend(X; g) = Σ_i a_i x_i        with a = softmax over i of wᵀ tanh(W_x x_i + W_g g)
        s = attend(words; 0),  v = attend(picture; s),  q = attend(words; v),  z = [v; q]

    Paper: Lu, Yang, Batra, Parikh, "Hierarchical Question-Image Co-Attention for Visual Question Answering", NeurIPS
    2016, section 3.3, on one level of the question.

    Args:
        sight_width: width of a picture's token.
        words_width: width of a word.
        hidden_width: width of the scoring networks; default 512, the paper's.
    """

    name: ClassVar[str] = "alternating_co_attention"
    paper: ClassVar[Paper] = Paper(
        "Hierarchical Question-Image Co-Attention for Visual Question Answering", "Lu et al.", "NeurIPS", 2016
    )
    loss: ClassVar[Loss] = "consensus"
    reads_words: ClassVar[bool] = True

    def __init__(self, sight_width: int, words_width: int, hidden_width: int = 512) -> None:
        super().__init__()
        self.summarize = SpatialSoftmaxPooling(None, words_width, hidden_width)
        self.look = AdditiveRead(words_width, sight_width, hidden_width)
        self.listen = AdditiveRead(sight_width, words_width, hidden_width)
        self.joint_width = sight_width + words_width

    def forward(self, sight: Sight, words: Words) -> Float[Tensor, "B Q J"]:
        tokens, mask = words.flat()
        summary = words.apart(self.summarize(None, tokens, mask)[:, 0])  # (B, Q, D)
        with sight.looking():
            seen = self.look(summary, sight.tokens, sight.mask)  # (B, Q, D)
        heard = words.apart(self.listen(seen.flatten(0, 1)[:, None], tokens, mask)[:, 0])
        return torch.cat((seen, heard), 2)


class ImageGuided(Core):
    """Image-guided attention: the picture says which words count.

        z = [v; Σ_t a_t q_t]        with a = softmax over t of wᵀ tanh(W_q q_t + W_v v), v the mean of the tokens

    Paper: Lu et al., NeurIPS 2016, the last step of alternating co-attention alone, guided by the whole picture: what
    the picture does to the question, where `question_spatial` has what the question does to the picture.

    Args:
        sight_width: width of a picture's token.
        words_width: width of a word.
        hidden_width: width of the scoring network; default 512, the paper's.
    """

    name: ClassVar[str] = "image_guided"
    paper: ClassVar[Paper] = Alternating.paper
    loss: ClassVar[Loss] = "consensus"
    reads_words: ClassVar[bool] = True

    def __init__(self, sight_width: int, words_width: int, hidden_width: int = 512) -> None:
        super().__init__()
        self.listen = AdditiveRead(sight_width, words_width, hidden_width)
        self.joint_width = sight_width + words_width

    def forward(self, sight: Sight, words: Words) -> Float[Tensor, "B Q J"]:
        seen = sight.mean()[:, None].expand(-1, words.summary.shape[1], -1)  # (B, Q, D)
        heard = words.apart(self.listen(seen.flatten(0, 1)[:, None], *words.flat())[:, 0])
        return torch.cat((seen, heard), 2)


class ImageChannel(Core):
    """Image-guided channel attention: the picture says which channels of the question count.

        z = [v; β ∘ q]        with β = softmax over channels of wᵀ tanh(w' q + W v + b), v the mean of the tokens

    Paper: Chen et al., CVPR 2017, equations 6 and 7, the other way round: `question_channel` with picture and question
    exchanged, as `image_guided` is `question_spatial`.

    Args:
        sight_width: width of a picture's token.
        words_width: width of the questions.
        hidden_width: width of the scoring network; default 512, the paper's.
    """

    name: ClassVar[str] = "image_channel"
    paper: ClassVar[Paper] = QuestionChannelSpatial.paper
    loss: ClassVar[Loss] = "consensus"

    def __init__(self, sight_width: int, words_width: int, hidden_width: int = 512) -> None:
        super().__init__()
        self.channel = GuidedChannels(sight_width, hidden_width)
        self.joint_width = sight_width + words_width

    def forward(self, sight: Sight, words: Words) -> Float[Tensor, "B Q J"]:
        seen = sight.mean()[:, None].expand(-1, words.summary.shape[1], -1)  # (B, Q, D)
        weights = self.channel(seen.flatten(0, 1)[:, None], words.summary.flatten(0, 1))  # (B·Q, 1, P)
        return torch.cat((seen, words.summary * words.apart(weights[:, 0])), 2)
