"""How well a query and a memory token fit: the scores that soft, stacked and hard reads share."""

from jaxtyping import Float
from torch import Tensor, nn

from regard import functional


class AdditiveScore(nn.Module):
    """`e_tn = vᵀ tanh(W q_t + U m_n + b)` (Bahdanau et al. 2015)."""

    def __init__(self, query_width: int, memory_width: int, hidden_width: int, bias: bool = False) -> None:
        super().__init__()
        self.query = nn.Linear(query_width, hidden_width, bias=bias)
        self.memory = nn.Linear(memory_width, hidden_width, bias=False)
        self.vector = nn.Linear(hidden_width, 1, bias=False)

    def forward(self, query: Float[Tensor, "B T Dq"], memory: Float[Tensor, "B N Dm"]) -> Float[Tensor, "B T N"]:
        return functional.additive_scores(self.query(query), self.memory(memory), self.vector.weight[0])
