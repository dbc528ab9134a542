"""Vision-language models of `transformers`, with the interface of all others: asked, answering, and watched."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from regard.attention import Attention, offering
from regard.attention.layout import map_to_tokens
from regard.attention.offering import MapFact, Request
from regard.errors import UserError
from regard.models.naming import one_line
from regard.models.vqa.model import Answering, Vocabulary
from regard.models.vqa.sight import Sight
from regard.models.vqa.view import View


class PictureAttention(Attention):
    """The attention of a model of `transformers` to the picture, shown as every other is.

    Maps:
        attention: of every word to the picture's patches, `(batch, layer, heads, query, key)`, a row a question of a
            picture. What is missing to a sum of one is what goes to the words, or to the token of the whole picture.
    """

    name: ClassVar[str] = "picture_attention"
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact(
            "attention", ("batch", "layer", "heads", "query", "key"), fixed="transformers computes and uses it inside"
        ),
    )

    def show(self, layers: tuple[Tensor, ...], grid: tuple[int, int], words: int) -> None:
        """Offer what every layer's words give to the patches, which are the last keys.

        Args:
            layers: the weights of each layer, `(B·Q, h, tokens, keys)`, words first.
            grid: of the patches.
            words: how many words there are.
        """
        patches = grid[0] * grid[1]

        def stack(request: Request) -> Tensor:
            return torch.stack([request.pick(one[:, :, :words, -patches:], heads=1, queries=2) for one in layers], 1)

        with offering.over_grid(grid):
            self.offer("attention", stack)


class ViltAnswering(Answering):
    """ViLT: one transformer over the words of a question and the patches of a picture, and a classifier of answers.

    Patches keep their order and all of them take part, where `transformers` shuffles them: their attention lies on the
    picture then, and the answers are the same.

    Paper: Kim, Son, Kim, "ViLT: Vision-and-Language Transformer Without Convolution or Region Supervision", ICML 2021.

    Args:
        model: a `transformers.ViltForQuestionAnswering`, such as `from_pretrained("dandelin/vilt-b32-finetuned-vqa")`.
        vocabulary: its tokenizer; only `answer` needs it.
        answers: the answers' texts; default the labels of the model's configuration.
        view: as of `Answering`; what `model` was trained to take: a picture whose sides are multiples of its patches'.

    Shapes:
        pictures `(B, 3, H, W)`, questions `(B, L)` or `(B, Q, L)`, mask of their shape with True = a word.
        Gives the answers' logits `(B, answers)` or `(B, Q, answers)`.
    """

    def __init__(
        self,
        model: nn.Module,
        vocabulary: Vocabulary | None = None,
        answers: Sequence[str] | None = None,
        view: Callable[[Any], Tensor] | None = None,
    ) -> None:
        from transformers import ViltForQuestionAnswering

        if not isinstance(model, ViltForQuestionAnswering):
            raise UserError(f"ViltAnswering got a {type(model).__name__}, expected a ViltForQuestionAnswering")
        config: Any = model.config  # `Any`: what it holds is declared as one of many things
        labels = config.id2label
        super().__init__(vocabulary, [labels[at] for at in sorted(labels)] if answers is None else answers, view)
        self.model = model
        self.config = config
        self.attention = PictureAttention()
        self.loss = "soft"
        self.independent = True
        self.longest = config.max_position_embeddings

    @classmethod
    def fetch(
        cls, checkpoint: str | Path, answers: Sequence[str] | None, view: View, weights: bool = True
    ) -> "ViltAnswering":
        """The model of a checkpoint, with its tokenizer.

        Args:
            checkpoint: its name on the Hugging Face Hub, or a folder.
            answers: those that it is to choose among; where they are not the checkpoint's own, the classifier is fresh.
            view: what it sees of a picture.
            weights: whether they are wanted too, or the architecture alone.

        Raises:
            UserError: it cannot be had, or does not take pictures of that size.
        """
        config = fetched("AutoConfig", checkpoint)
        own = [config.id2label[at] for at in sorted(config.id2label)]
        other = {"id2label": dict(enumerate(answers)), "ignore_mismatched_sizes": True} if answers else {}
        model, fresh = with_weights(
            "ViltForQuestionAnswering", checkpoint, weights, **(other if list(answers or own) != own else {})
        )
        _require_patches(view.size, config.patch_size)
        answering = cls(model, tokenizer_of(checkpoint), answers, view)
        answering.fresh = fresh
        return answering

    def see(self, pictures: Float[Tensor, "B 3 H W"]) -> Sight:
        parts = self.model.vilt.embeddings
        patches: Tensor = parts.patch_embeddings(pictures)  # (B, D, h, w)
        side = self.config.image_size // self.config.patch_size
        places = parts.position_embeddings[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        places = F.interpolate(places, size=patches.shape[2:], mode="bilinear", align_corners=True)
        whole = (parts.cls_token + parts.position_embeddings[:, :1]).expand(len(patches), -1, -1)
        tokens = torch.cat((whole, map_to_tokens(patches + places)), 1)  # (B, 1 + h·w, D)
        return Sight(parts.dropout(tokens), grid=(patches.shape[2], patches.shape[3]))

    def read(
        self, sight: Sight, questions: Int[Tensor, "B Q L"], mask: Bool[Tensor, "B Q L"] | None
    ) -> Float[Tensor, "B Q answers"]:
        each, asked, there = _asked(sight, questions, mask, self.config.pad_token_id or 0)
        watched = offering.listening()
        given = self.model(
            input_ids=asked,
            attention_mask=there,
            image_embeds=each.tokens,
            pixel_mask=there.new_ones(each.tokens.shape[:2]),
            output_attentions=watched,
        )
        if watched and sight.grid is not None:
            self.attention.show(given.attentions, sight.grid, asked.shape[1])
        return given.logits.unflatten(0, questions.shape[:2])


class BlipAnswering(Answering):
    """BLIP: the question reads the picture, and every answer is as likely as a decoder finds its words.

        logit of an answer = Σ_k log p(word k of it; the words before, the question, the picture)

    A decoder could say anything; among given answers, as here, the paper ranks them likewise. Every question is decoded
    with every answer: give some hundreds, not all of a language. It is trained as the paper trains it, on the words of
    the answers that people gave, weighted by how many gave each.

    Paper: Li, Li, Xiong, Hoi, "BLIP: Bootstrapping Language-Image Pre-training for Unified Vision-Language
    Understanding and Generation", ICML 2022, section 5.4.

    Args:
        model: a `transformers.BlipForQuestionAnswering`, such as `from_pretrained("Salesforce/blip-vqa-base")`.
        answer_words: every answer's numbers of words, `(answers, K)`: the first one is the decoder's start, the last
            one its end, and the model's padding fills up the shorter ones.
        vocabulary: its tokenizer; only `answer` needs it.
        answers: the answers' texts; only `answer` needs them.
        view: as of `Answering`.

    Shapes:
        pictures `(B, 3, H, W)`, questions `(B, L)` or `(B, Q, L)`, mask of their shape with True = a word.
        Gives the answers' log-likelihoods `(B, answers)` or `(B, Q, answers)`.
    """

    answer_words: Int[Tensor, "answers K"]

    def __init__(
        self,
        model: nn.Module,
        answer_words: Int[Tensor, "answers K"],
        vocabulary: Vocabulary | None = None,
        answers: Sequence[str] | None = None,
        view: Callable[[Any], Tensor] | None = None,
    ) -> None:
        from transformers import BlipForQuestionAnswering

        if not isinstance(model, BlipForQuestionAnswering):
            raise UserError(f"BlipAnswering got a {type(model).__name__}, expected a BlipForQuestionAnswering")
        super().__init__(vocabulary, answers, view)
        self.model = model
        self.config: Any = model.config  # `Any`: as in ViltAnswering
        self.attention = PictureAttention()
        self.register_buffer("answer_words", answer_words)
        self.loss = "likelihood"
        self.independent = False
        self.longest = self.config.text_config.max_position_embeddings

    @classmethod
    def fetch(
        cls, checkpoint: str | Path, answers: Sequence[str] | None, view: View, weights: bool = True
    ) -> "BlipAnswering":
        """The model of a checkpoint, with its tokenizer.

        Args:
            checkpoint, view, weights: as of `ViltAnswering.fetch`.
            answers: those that are ranked.

        Raises:
            UserError: as `ViltAnswering.fetch`, or there are no answers.
        """
        if not answers:
            raise UserError("BLIP ranks answers and has none of its own: give at least one")
        model, fresh = with_weights("BlipForQuestionAnswering", checkpoint, weights)
        _require_patches(view.size, model.config.vision_config.patch_size)
        tokenizer, text = tokenizer_of(checkpoint), model.config.text_config
        said = [
            torch.tensor([text.bos_token_id, *tokenizer.encode(answer, add_special_tokens=False), text.sep_token_id])
            for answer in answers
        ]
        answering = cls(model, pad_sequence(said, True, text.pad_token_id), tokenizer, answers, view)
        answering.fresh = fresh
        return answering

    def see(self, pictures: Float[Tensor, "B 3 H W"]) -> Sight:
        side = self.config.vision_config.patch_size
        grid = (pictures.shape[2] // side, pictures.shape[3] // side)
        own = self.config.vision_config.image_size
        resized = tuple(pictures.shape[2:]) != (own, own)
        encoded = self.model.vision_model(pixel_values=pictures, interpolate_pos_encoding=resized)
        return Sight(encoded.last_hidden_state, grid=grid)

    def read(
        self, sight: Sight, questions: Int[Tensor, "B Q L"], mask: Bool[Tensor, "B Q L"] | None
    ) -> Float[Tensor, "B Q answers"]:
        padding = self.config.text_config.pad_token_id
        each, asked, there = _asked(sight, questions, mask, padding)
        watched = offering.listening()
        read = self.model.text_encoder(
            input_ids=asked,
            attention_mask=there,
            encoder_hidden_states=each.tokens,
            encoder_attention_mask=there.new_ones(each.tokens.shape[:2]),
            output_attentions=watched,
        )
        if watched and sight.grid is not None:
            self.attention.show(read.cross_attentions, sight.grid, asked.shape[1])
        M, A = len(asked), len(self.answer_words)
        said = self.answer_words.expand(M, -1, -1).flatten(0, 1)  # (M·A, K)
        states, there = (x[:, None].expand(-1, A, *x.shape[1:]).flatten(0, 1) for x in (read.last_hidden_state, there))
        logits = self.model.text_decoder(
            input_ids=said[:, :-1],
            attention_mask=(said[:, :-1] != padding).long(),
            encoder_hidden_states=states,
            encoder_attention_mask=there,
            use_cache=False,
        ).logits  # (M·A, K - 1, words)
        following = said[:, 1:]
        likelihood = logits.log_softmax(2).gather(2, following[..., None])[..., 0]
        likelihood = likelihood.masked_fill(following == padding, 0.0).sum(1)  # (M·A,)
        return likelihood.reshape(*questions.shape[:2], A)


# `Any`: what transformers gives, by the name of its class.
def fetched(kind: str, checkpoint: str | Path, weights: bool = True, **arguments: Any) -> Any:
    """What a class of `transformers` makes of a checkpoint.

    Args:
        kind: the name of the class, such as `"AutoModel"`.
        checkpoint: its name on the Hugging Face Hub, or a folder.
        weights: whether a model comes with its weights, or with random ones.
        arguments: of `from_pretrained`.

    Raises:
        UserError: it cannot be had.
    """
    import transformers

    make: Any = getattr(transformers, kind)
    hub = "checkpoints come from the Hugging Face Hub, its cache on this machine (HF_HOME), or a folder"
    with one_line(f"{str(checkpoint)!r} cannot be had, and {hub}"), _quiet():
        if weights:
            return make.from_pretrained(checkpoint, **arguments)
        config = transformers.AutoConfig.from_pretrained(checkpoint, **arguments)
        return make.from_config(config) if hasattr(make, "from_config") else make(config)


def tokenizer_of(checkpoint: str | Path) -> Any:
    """The tokenizer of a checkpoint: a `Vocabulary`.

    Raises:
        UserError: it cannot be had.
    """
    return fetched("AutoTokenizer", checkpoint)


def colours_of(
    checkpoint: str, mean: Sequence[float] | None = None, deviation: Sequence[float] | None = None
) -> dict[str, list[float]]:
    """By which mean and deviation a checkpoint's pictures are normalised, unless both are said.

    Raises:
        UserError: it cannot be had.
    """
    if mean is not None and deviation is not None:
        return {"mean": list(mean), "deviation": list(deviation)}
    settings = fetched("AutoImageProcessor", checkpoint)
    return {"mean": list(mean or settings.image_mean), "deviation": list(deviation or settings.image_std)}


# `Any`: as of `fetched`.
def with_weights(kind: str, checkpoint: str | Path, weights: bool, **arguments: Any) -> tuple[Any, list[str]]:
    """A model, and the names of the weights that its checkpoint lacks, which are random then.

    Its numbers are as wide as those of other models, in whatever precision the checkpoint keeps them.
    """
    if not weights:
        return fetched(kind, checkpoint, False, **arguments).to(torch.get_default_dtype()), []
    model, report = fetched(kind, checkpoint, output_loading_info=True, **arguments)
    return model.to(torch.get_default_dtype()), sorted(
        {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the tables and bars that transformers shows of every loading; those of a download stay."""
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging as theirs

    level, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity_error()
    if bars:
        theirs.disable_progress_bar()
        enable_progress_bars()
    try:
        yield
    finally:
        theirs.set_verbosity(level)
        if bars:
            theirs.enable_progress_bar()


def _require_patches(size: int, patch: int) -> None:
    if size % patch:
        raise UserError(
            f"size={size} is no whole number of patches of {patch} pixels: take {size // patch * patch or patch}"
        )


def _asked(
    sight: Sight, questions: Int[Tensor, "B Q L"], mask: Bool[Tensor, "B Q L"] | None, padding: int
) -> tuple[Sight, Int[Tensor, "M L"], Int[Tensor, "M L"]]:
    """Every question with its picture, and where it has words, as numbers."""
    there = questions != padding if mask is None else mask
    return sight.repeated(questions.shape[1]), questions.flatten(0, 1), there.flatten(0, 1).long()
