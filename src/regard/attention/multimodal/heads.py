"""Multi-head attention as a part of the blocks of this family."""

from collections.abc import Callable

from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention.offering import Request


class MultiHead(nn.Module):
    """`W_o concat_i softmax((W_q^i q)ᵀ (W_k^i m) / √d) W_v^i m`, and its map for whoever asks (Vaswani et al. 2017).

    Args:
        width: width `D` of the query and of what is given.
        memory_width: width `Dm` of a memory token.
        heads: number of heads `h`; must divide `width`.
    """

    def __init__(self, width: int, memory_width: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or width % heads != 0:
            raise ValueError(f"{heads} heads do not divide the width {width}: choose heads that do.")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(memory_width, width)
        self.value = nn.Linear(memory_width, width)
        self.output = nn.Linear(width, width)

    def forward(
        self,
        query: Float[Tensor, "B T D"],
        memory: Float[Tensor, "B N Dm"],
        mask: Bool[Tensor, "B #T N"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], Callable[[Request], Tensor]]:
        q, k, v = self.split(self.query(query)), self.split(self.key(memory)), self.split(self.value(memory))
        heads = None if mask is None else mask[:, None]  # (B, 1, #T, N)

        def weights(request: Request) -> Tensor:
            part = heads if heads is None or heads.shape[2] == 1 else request.pick(heads, queries=2)
            rows = request.pick(q, heads=1, queries=2)
            return functional.scaled_dot_product_weights(rows, request.pick(k, heads=1), part)  # (B, h, T, N)

        read = functional.scaled_dot_product_attention(q, k, v, heads)  # (B, h, T, d)
        return self.output(read.transpose(1, 2).flatten(2)), weights

    def split(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B h N d"]:
        """The heads' parts of every token."""
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)


def feed_forward(width: int, hidden_width: int) -> nn.Sequential:
    """`W2 relu(W1 x + b1) + b2` on every token alone."""
    return nn.Sequential(nn.Linear(width, hidden_width), nn.ReLU(), nn.Linear(hidden_width, width))
