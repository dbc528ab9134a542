"""The question side: what a question is to whoever reads with it, and what makes that of word numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from regard.attention import ShapeError
from regard.errors import UserError

Recurrence = Literal["gru", "lstm"]


@dataclass(frozen=True)
class Words:
    """All questions about a batch of pictures, `Q` a picture.

    Attributes:
        tokens: one vector a word, zero where there is none, whatever is given there.
        mask: True = a word.
        summary: one vector a question.
        numbers: the words' numbers; None where a question is no words.
    """

    tokens: Float[Tensor, "B Q L D"]
    mask: Bool[Tensor, "B Q L"]
    summary: Float[Tensor, "B Q D"]
    numbers: Int[Tensor, "B Q L"] | None = None

    def __post_init__(self) -> None:
        # Here once for every encoder and core: what fills up a question may hold NaN.
        object.__setattr__(self, "tokens", self.tokens.masked_fill(~self.mask[..., None], 0.0))

    def flat(self) -> tuple[Float[Tensor, "M L D"], Bool[Tensor, "M L"]]:
        """The words of every question as a sequence of its own, and which of them are words."""
        return self.tokens.flatten(0, 1), self.mask.flatten(0, 1)

    def apart(self, joint: Float[Tensor, "M ..."]) -> Float[Tensor, "B Q ..."]:
        """The inverse of `flat` for what was made of every question."""
        return joint.unflatten(0, tuple(self.mask.shape[:2]))


class Embedding(nn.Module):
    """Words as vectors, and which of them are words.

    Args:
        words: how many words the vocabulary has, the one that fills up short questions included.
        width: width of a vector; default 300.
        padding: the number that fills up short questions; its vector is zero.
        vectors: vectors to start from, `(words, width)`, such as GloVe's.
        frozen: whether the vectors stay as they are.
        dropout: probability of dropping an entry of a vector in training.
    """

    def __init__(
        self,
        words: int,
        width: int = 300,
        padding: int = 0,
        vectors: Float[Tensor, "V E"] | None = None,
        frozen: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if vectors is not None and tuple(vectors.shape) != (words, width):
            raise UserError(
                f"the words' vectors have shape {tuple(vectors.shape)}, expected ({words}, {width}): one for each word "
                "of the vocabulary, in its order, and embedding_width as wide"
            )
        self.padding = padding
        self.vectors = nn.Embedding(words, width, padding_idx=padding)
        if vectors is not None:
            with torch.no_grad():
                self.vectors.weight.copy_(vectors)[padding] = 0.0
        self.vectors.requires_grad_(not frozen)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, questions: Int[Tensor, "B Q L"], mask: Bool[Tensor, "B Q L"] | None = None
    ) -> tuple[Float[Tensor, "B Q L E"], Bool[Tensor, "B Q L"]]:
        mask = questions != self.padding if mask is None else mask & (questions != self.padding)
        return self.dropout(self.vectors(questions)), mask


class BagOfWords(nn.Module):
    """A question as the sum of its words' vectors (Zhou et al., "Simple Baseline for Visual Question Answering", 2015).

    Args:
        words: how many words the vocabulary has, the one that fills up short questions included.
        width: width of a word and of the summary.
        padding, vectors, frozen, dropout: as of `Embedding`.

    Shapes:
        questions `(B, Q, L)`, mask `(B, Q, L)` with True = a word; default: all but `padding`. Gives `Words`.
    """

    def __init__(
        self,
        words: int,
        width: int = 1024,
        padding: int = 0,
        vectors: Float[Tensor, "V E"] | None = None,
        frozen: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embed = Embedding(words, width, padding, vectors, frozen, dropout)
        self.width = width

    def forward(self, questions: Int[Tensor, "B Q L"], mask: Bool[Tensor, "B Q L"] | None = None) -> Words:
        embedded, there = self.embed(questions, mask)
        tokens = embedded.masked_fill(~there[..., None], 0.0)
        return Words(tokens, there, tokens.sum(2), questions)


class PlacedWords(nn.Module):
    """Words, each scaled by a vector of its place in the question, are added up; a small network mixes the sum.

    Position encoding as in Sukhbaatar et al., "End-To-End Memory Networks", NeurIPS 2015, section 4.1, but learned. The
    questions of a batch that are the same are encoded once.

    Args:
        words: how many words the vocabulary has, the one that fills up short questions included.
        length: most words `L` in a question, counted with what fills it up.
        width: width `D` of a word and of the summary.
        padding, vectors, frozen, dropout: as of `Embedding`.

    Attributes:
        longest: most words in a question.

    Shapes:
        questions `(B, Q, L)`, mask `(B, Q, L)` with True = a word; default: all but `padding`. Gives `Words`.

    Raises:
        ShapeError: a question is longer than `length`.
    """

    def __init__(
        self,
        words: int,
        length: int,
        width: int = 96,
        padding: int = 0,
        vectors: Float[Tensor, "V E"] | None = None,
        frozen: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embed = Embedding(words, width, padding, vectors, frozen, dropout)
        if vectors is None:
            # Small, so that words that were not asked yet hardly disturb those that were.
            drawn = torch.empty(words - 1, width).normal_(std=0.03)
            with torch.no_grad():
                self.embed.vectors.weight[torch.arange(words) != padding] = drawn
        self.place = nn.Parameter(1 + torch.randn(length, width) * 0.1)
        self.mix = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.width = width
        self.longest = length

    def forward(self, questions: Int[Tensor, "B Q L"], mask: Bool[Tensor, "B Q L"] | None = None) -> Words:
        length = questions.shape[2]
        if length > self.longest:
            raise ShapeError(
                f"PlacedWords got questions of {length} words, expected at most {self.longest}: ask shorter ones, "
                "or build it with a greater length=."
            )
        padding = self.embed.padding
        numbers = questions if mask is None else questions.masked_fill(~mask, padding)
        distinct, which = numbers.flatten(0, 1), None
        if not torch.compiler.is_compiling():  # how many are distinct would be a size that no graph knows
            distinct, which = torch.unique(distinct, dim=0, return_inverse=True)
        tokens = self.embed(distinct[None])[0][0] * self.place[:length]  # (distinct, L, D); zero where no word is
        summary = tokens.sum(1) / 3
        summary = summary + self.mix(summary)  # (distinct, D)
        if which is not None:
            tokens, summary = tokens.index_select(0, which), summary.index_select(0, which)
        sizes = tuple(questions.shape[:2])
        return Words(tokens.unflatten(0, sizes), numbers != padding, summary.unflatten(0, sizes), numbers)


class Recurrent(nn.Module):
    """A recurrent network over sequences with holes: they change nothing, at either end or in between.

    It runs over the words as if they stood side by side. Nothing is packed, so that it exports and needs no lengths on
    the host.

    Args:
        in_width: width of a token.
        width: width of a state; both directions together if there are two.
        recurrence: `"lstm"` or `"gru"`.
        layers: how many layers.
        bidirectional: whether a second network reads from the end.

    Shapes:
        tokens `(M, L, E)`, mask `(M, L)` with True = there is one. Gives the states behind every token, zero where
        there is none, and behind the last one (and the first, of a second direction): `(M, L, D)` and `(M, D)`.

    Raises:
        UserError: the recurrence is unknown, or an odd width is to be shared by two directions.
    """

    def __init__(
        self, in_width: int, width: int, recurrence: Recurrence = "lstm", layers: int = 1, bidirectional: bool = False
    ) -> None:
        super().__init__()
        if recurrence not in get_args(Recurrence):
            raise UserError(f"there is no recurrence {recurrence!r}: choose one of {', '.join(get_args(Recurrence))}")
        if bidirectional and width % 2:
            raise UserError(f"two directions cannot share a width of {width}: give an even width")
        kind = nn.LSTM if recurrence == "lstm" else nn.GRU
        directions = 2 if bidirectional else 1
        self.layers = nn.ModuleList(
            nn.ModuleList(
                kind(in_width if layer == 0 else width, width // directions, batch_first=True)
                for _ in range(directions)
            )
            for layer in range(layers)
        )

    def forward(
        self, tokens: Float[Tensor, "M L E"], mask: Bool[Tensor, "M L"]
    ) -> tuple[Float[Tensor, "M L D"], Float[Tensor, "M D"]]:
        length = mask.sum(1, keepdim=True)  # (M, 1)
        order, back = side_by_side(mask)  # behind the last token a network that looks back alone may do as it likes
        place = torch.arange(mask.shape[1], device=mask.device)  # (L,)
        backwards = torch.where(place < length, length - 1 - place, place)  # (M, L), its own inverse
        x = ends = take(tokens, order)  # (M, L, E)
        for layer in self.layers:
            forwards, *reverse = cast(nn.ModuleList, layer)
            states = [run_recurrent(forwards, x)]
            last = [states[0]]
            for network in reverse:
                read = run_recurrent(network, take(x, backwards))
                states.append(take(read, backwards))
                last.append(read)
            x, ends = torch.cat(states, 2), torch.cat(last, 2)  # (M, L, D)
        summary = take(ends, (length - 1).clamp(min=0))[:, 0].masked_fill(length == 0, 0.0)  # (M, D)
        return take(x, back).masked_fill(~mask[..., None], 0.0), summary


def run_recurrent(network: nn.Module, x: Float[Tensor, "M L E"]) -> Float[Tensor, "M L D"]:
    """Return the states of a recurrent network; on a CPU in single precision, whatever autocast says.

    oneDNN has no LSTM in bfloat16 for processors without AVX-512, and torch does not do without it there.
    """
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return network(x.float())[0]
    return network(x)[0]


def side_by_side(mask: Bool[Tensor, "M L"]) -> tuple[Int[Tensor, "M L"], Int[Tensor, "M L"]]:
    """The places of the tokens in their order, then those of the holes; and the permutation that leads back."""
    tokens, holes = mask.cumsum(1), (~mask).cumsum(1)
    back = torch.where(mask, tokens - 1, tokens[:, -1:] + holes - 1)  # (M, L), where each one goes
    place = torch.arange(mask.shape[1], device=mask.device).expand_as(back)
    return torch.empty_like(back).scatter(1, back, place), back


def take(x: Float[Tensor, "M L D"], index: Int[Tensor, "M I"]) -> Float[Tensor, "M I D"]:
    """The tokens at those places."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))


class QuestionEncoder(nn.Module):
    """A question as a recurrent network reads it: its state behind every word, and behind the last one.

    Args:
        words: how many words the vocabulary has, the one that fills up short questions included.
        width: width of a state; both directions together if there are two.
        embedding_width: width of a word's vector; default 300.
        recurrence: `"lstm"`, the default, or `"gru"`.
        layers: how many layers.
        bidirectional: whether a second network reads from the end.
        padding, vectors, frozen, dropout: as of `Embedding`.

    Shapes:
        questions `(B, Q, L)`, mask `(B, Q, L)` with True = a word; default: all but `padding`. Gives `Words`; of a
        question without words, zeros.
    """

    def __init__(
        self,
        words: int,
        width: int = 1024,
        embedding_width: int = 300,
        recurrence: Recurrence = "lstm",
        layers: int = 1,
        bidirectional: bool = False,
        padding: int = 0,
        vectors: Float[Tensor, "V E"] | None = None,
        frozen: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embed = Embedding(words, embedding_width, padding, vectors, frozen, dropout)
        self.recurrent = Recurrent(embedding_width, width, recurrence, layers, bidirectional)
        self.width = width

    def forward(self, questions: Int[Tensor, "B Q L"], mask: Bool[Tensor, "B Q L"] | None = None) -> Words:
        embedded, there = self.embed(questions, mask)
        tokens, summary = self.recurrent(embedded.flatten(0, 1), there.flatten(0, 1))
        sizes = tuple(there.shape[:2])
        return Words(tokens.unflatten(0, sizes), there, summary.unflatten(0, sizes), questions)


class QuestionVector(nn.Module):
    """Questions that come as vectors, such as the eleven bits of sort-of-CLEVR: one word each, its own summary.

    Args:
        in_width: width `E` of a question.
        width: of what a network of two layers makes of it, with a GELU between them; default None: it stays as it is.

    Attributes:
        width: width `D` of a word and of the summary.

    Shapes:
        questions `(B, Q, E)`, mask `(B, Q, 1)` with True = is asked; default: all are. Gives `Words` of one word.
    """

    def __init__(self, in_width: int, width: int | None = None) -> None:
        super().__init__()
        self.width = in_width if width is None else width
        self.mix = (
            nn.Identity()
            if width is None
            else nn.Sequential(nn.Linear(in_width, width), nn.GELU(), nn.Linear(width, width))
        )

    def forward(self, questions: Float[Tensor, "B Q E"], mask: Bool[Tensor, "B Q 1"] | None = None) -> Words:
        if mask is None:
            mask = questions.new_ones(1, 1, 1, dtype=torch.bool).expand(*questions.shape[:2], 1)
        summary = self.mix(questions)
        return Words(summary[:, :, None], mask, summary)


class HuggingFaceQuestion(nn.Module):
    """A question as an encoder of `transformers` reads it; its first token stands for the whole.

    Args:
        encoder: a `transformers` model that gives `last_hidden_state`, such as `AutoModel.from_pretrained(...)`.
        padding: the number that fills up short questions; default the encoder's own, or 0.
        frozen: whether the encoder stays as it is, in evaluation mode.

    Attributes:
        fresh: the names of the weights that its checkpoint lacked, and that are random.

    Shapes:
        questions `(B, Q, L)`, mask `(B, Q, L)` with True = a token; default: all but `padding`. Gives `Words`.
    """

    fresh: Sequence[str] = ()

    def __init__(self, encoder: nn.Module, padding: int | None = None, frozen: bool = False) -> None:
        super().__init__()
        config = getattr(encoder, "config", None)
        if config is None or not hasattr(config, "hidden_size"):
            raise UserError(
                f"HuggingFaceQuestion got a {type(encoder).__name__}, expected an encoder of transformers: "
                "AutoModel.from_pretrained(...), for example"
            )
        self.encoder = encoder
        self.padding: int = getattr(config, "pad_token_id", None) or 0 if padding is None else padding
        self.width = config.hidden_size
        self.longest: int | None = getattr(config, "max_position_embeddings", None)
        self.frozen = frozen
        if frozen:
            encoder.requires_grad_(False)
            encoder.eval()

    def train(self, mode: bool = True) -> "HuggingFaceQuestion":
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, questions: Int[Tensor, "B Q L"], mask: Bool[Tensor, "B Q L"] | None = None) -> Words:
        mask = questions != self.padding if mask is None else mask
        there = mask.flatten(0, 1)
        read = self.encoder(input_ids=questions.flatten(0, 1), attention_mask=there.long()).last_hidden_state
        tokens = read.masked_fill(~there[..., None], 0.0)  # (B·Q, L, D)
        first = take(tokens, there.to(torch.uint8).argmax(1, keepdim=True))[:, 0]  # (B·Q, D)
        sizes = tuple(mask.shape[:2])
        return Words(tokens.unflatten(0, sizes), mask, first.unflatten(0, sizes), questions)
