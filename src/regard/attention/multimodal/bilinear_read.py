"""What the readers of this family share that score a pair of query and memory token by a bilinear fusion of the two."""

from abc import abstractmethod
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention.contract import Read
from regard.attention.offering import MapFact


class BilinearRead(Read):
    """`c_t = [Σ_n a^1_tn m_n; ...; Σ_n a^G_tn m_n]` with `a^g_tn = softmax over n of e^g_tn`; a mechanism gives `e`."""

    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "glimpse", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N"
    placement: ClassVar[str] = "between an encoded question and the regions or cells of an image"

    def __init__(self, query_width: int, memory_width: int, glimpses: int) -> None:
        super().__init__()
        self.query_width = query_width
        self.memory_width = memory_width
        self.glimpses = glimpses

    @property
    def context_width(self) -> int:
        return self.glimpses * self.memory_width

    @abstractmethod
    def scores(
        self, query: Float[Tensor, "B T Q"], memory: Float[Tensor, "B N M"], mask: Bool[Tensor, "B #T N"] | None
    ) -> Float[Tensor, "B G T N"]:
        """How well every token fits every query, once a glimpse; what the mask leaves out is masked afterwards."""

    def forward(
        self,
        query: Float[Tensor, "B T Q"],
        memory: Float[Tensor, "B N M"],
        mask: Bool[Tensor, "B *T N"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        mask = self.check(query, memory, mask)
        memory, undefined = functional.exclude_nonfinite(memory, mask)
        scores = self.scores(query, memory, mask)  # (B, G, T, N)
        weights = functional.masked_softmax(scores, None if mask is None else mask[:, None])  # (B, G, T, N)
        weights = self.offer("attention", weights.to(memory.dtype))
        context = (weights @ memory[:, None]).transpose(1, 2).flatten(2)  # (B, T, G·M)
        return functional.mark_undefined(context, undefined)


def require_positive(**numbers: int) -> None:
    """Refuse sizes below one."""
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name}={number} is less than one: give a positive number.")


def scoring(width: int, hidden_width: int, glimpses: int) -> nn.Sequential:
    """`W2 relu(W1 z + b1)`: two convolutions of size one. The softmax would cancel a second bias."""
    return nn.Sequential(nn.Linear(width, hidden_width), nn.ReLU(), nn.Linear(hidden_width, glimpses, bias=False))
