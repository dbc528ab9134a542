"""Reads that models use beside the mechanisms of the library."""

from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from regard.attention import Read
from regard.attention.offering import MapFact


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
        share = mask.to(memory.dtype)
        share = share / share.sum(-1, keepdim=True).clamp(min=1)  # (B, #T, N)
        return (share @ memory).expand(-1, query.shape[1], -1)  # (B, T, Dm)
