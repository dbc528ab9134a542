"""Any `Read` of the library as a core: what its mechanisms are compared by."""

from collections.abc import Mapping
from inspect import signature
from typing import Any, ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from regard import functional
from regard.attention import Read, mechanisms
from regard.attention.contract import Paper
from regard.attention.offering import MapFact
from regard.errors import UserError
from regard.models.blocks import ReadBlocks
from regard.models.vqa.core import Core, Loss
from regard.models.vqa.sight import Sight
from regard.models.vqa.words import Words

SEE_EACH_OTHER = ("bilinear_attention", "co_attention", "guided", "location_aware")
"""Mechanisms whose queries see each other: these are given one question at a time."""


class MeanRead(Read):
    """No attention: every query gets the mean of the memory. What attention is compared with.

    Args:
        query_width: width `Dq` of a query, which changes nothing.
        memory_width: width `Dm` of a memory token, and of the context.

    Shapes:
        as every `Read`. Gives `(B, T, Dm)`.
    """

    maps: ClassVar[tuple[MapFact, ...]] = ()

    def __init__(self, query_width: int, memory_width: int) -> None:
        super().__init__()
        self.query_width = query_width
        self.memory_width = memory_width

    @property
    def context_width(self) -> int:
        return self.memory_width

    def forward(
        self,
        query: Float[Tensor, "B T Dq"],
        memory: Float[Tensor, "B N Dm"],
        mask: Bool[Tensor, "B *T N"] | None = None,
    ) -> Float[Tensor, "B T Dm"]:
        mask = self.check(query, memory, mask)
        if mask is None:
            return memory.mean(1, keepdim=True).expand(-1, query.shape[1], -1)  # (B, T, Dm)
        memory, undefined = functional.exclude_nonfinite(memory, mask)
        share = mask.to(memory.dtype)
        share = share / share.sum(-1, keepdim=True).clamp(min=1)  # (B, #T, N)
        return functional.mark_undefined(share @ memory, undefined).expand(-1, query.shape[1], -1)  # (B, T, Dm)


class Reader(Core):
    """One mechanism of the library between question and picture, in pre-norm residual blocks.

        q <- q + P read(norm(q), norm(v)), q <- q + W2 gelu(W1 norm(q))        in each block
        z  = norm(q)

    Paper: that of the mechanism; of reading what a query weighs, Bahdanau et al., ICLR 2015.

    Args:
        sight_width: width of a picture's token.
        words_width: width of the questions, and of `z`.
        read: short name of a `Read` that a query guides, such as `"additive"` or `"multi_head_cross"`;
            `regard.catalog()` lists them. `"mean"` is no attention.
        arguments: its own arguments behind the widths of query and memory.
        blocks: how often a question reads; default 1.
        expansion: of the hidden layers; default 2.
        dropout: of what is added to a residual; default 0.

    Raises:
        UserError: there is no such `Read`, or no query guides it, or there are no blocks.
    """

    name: ClassVar[str] = "reader"
    paper: ClassVar[Paper] = mechanisms["additive"].paper
    loss: ClassVar[Loss] = "consensus"

    def __init__(
        self,
        sight_width: int,
        words_width: int,
        read: str = "additive",
        arguments: Mapping[str, Any] | None = None,
        blocks: int = 1,
        expansion: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        guided = {name: kind for name, kind in mechanisms.items() if issubclass(kind, Read) and _takes_a_query(kind)}
        guided["mean"] = MeanRead
        if read not in guided:
            raise UserError(f"no question can guide {read!r}: choose a Read among {', '.join(sorted(guided))}")
        if blocks < 1:
            raise UserError(f"blocks={blocks}: a question reads at least once")
        # `Any`: which arguments a mechanism takes depends on its name; a wrong one is its TypeError.
        build: Any = guided[read]
        reads: list[Read] = [build(words_width, sight_width, **(arguments or {})) for _ in range(blocks)]
        context_width = reads[0].context_width
        self.read = ReadBlocks(reads, words_width, sight_width, context_width, expansion, dropout)
        self.one_at_a_time = read in SEE_EACH_OTHER
        self.joint_width = words_width

    def forward(self, sight: Sight, words: Words) -> Float[Tensor, "B Q J"]:
        questions = words.summary
        if self.one_at_a_time:
            sight, questions = sight.repeated(questions.shape[1]), questions.flatten(0, 1)[:, None]
        with sight.looking():
            joint = self.read(questions, sight.tokens, sight.mask)
        return words.apart(joint[:, 0]) if self.one_at_a_time else joint


def _takes_a_query(kind: type[Read]) -> bool:
    return next(iter(signature(kind).parameters)) == "query_width"
