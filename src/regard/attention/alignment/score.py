"""How well a query and a memory token fit: the scores that soft, stacked and hard reads share."""

from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor, nn

from regard import functional

DotKind = Literal["dot", "general", "scaled_dot"]
ScoreKind = Literal["additive", "dot", "general", "scaled_dot"]


class AdditiveScore(nn.Module):
    """`e_tn = vᵀ tanh(W q_t + U m_n + b)` (Bahdanau et al. 2015)."""

    def __init__(self, query_width: int, memory_width: int, hidden_width: int, bias: bool = False) -> None:
        super().__init__()
        self.query = nn.Linear(query_width, hidden_width, bias=bias)
        self.memory = nn.Linear(memory_width, hidden_width, bias=False)
        self.vector = nn.Linear(hidden_width, 1, bias=False)

    def forward(self, query: Float[Tensor, "B T Dq"], memory: Float[Tensor, "B N Dm"]) -> Float[Tensor, "B T N"]:
        return functional.additive_scores(self.query(query), self.memory(memory), self.vector.weight[0])


class DotScore(nn.Module):
    """A product of query and memory token.

        dot         e_tn = q_tᵀ m_n          (Luong et al. 2015; equal widths)
        general     e_tn = (W q_t)ᵀ m_n      (Luong et al. 2015)
        scaled_dot  e_tn = q_tᵀ m_n / √D     (Vaswani et al. 2017; equal widths)

    Attributes:
        query: the projection `W` of the query to the memory's width, or the identity.
        scale: the factor of the product.
    """

    def __init__(self, query_width: int, memory_width: int, kind: DotKind = "scaled_dot") -> None:
        super().__init__()
        if kind not in get_args(DotKind):
            raise ValueError(f"there is no product {kind!r}: choose one of {', '.join(get_args(DotKind))}.")
        if kind != "general" and query_width != memory_width:
            raise ValueError(
                f"score={kind!r} multiplies query and memory of one width, got {query_width} and {memory_width}: "
                "take score='general', which projects the query."
            )
        self.query = nn.Linear(query_width, memory_width, bias=False) if kind == "general" else nn.Identity()
        if isinstance(self.query, nn.Linear):
            # Vectors of unit variance get scores of unit variance: wider ones start with a saturated softmax.
            nn.init.normal_(self.query.weight, std=(query_width * memory_width) ** -0.5)
        self.scale = memory_width**-0.5 if kind == "scaled_dot" else 1.0

    def forward(self, query: Float[Tensor, "B T Dq"], memory: Float[Tensor, "B N Dm"]) -> Float[Tensor, "B T N"]:
        return functional.dot_scores(self.query(query), memory, self.scale)


def make_score(
    kind: ScoreKind, query_width: int, memory_width: int, hidden_width: int | None = None, bias: bool = False
) -> AdditiveScore | DotScore:
    """The score of that name.

    Args:
        kind: `"additive"`, `"dot"`, `"general"` or `"scaled_dot"`.
        query_width: width `Dq` of a query.
        memory_width: width `Dm` of a memory token.
        hidden_width: width of the additive score's network; default `memory_width`. The products have none.
        bias: whether the additive score's network has a bias.

    Raises:
        ValueError: there is no such score, or it does not take these widths.
    """
    if kind == "additive":
        return AdditiveScore(query_width, memory_width, memory_width if hidden_width is None else hidden_width, bias)
    if kind not in get_args(ScoreKind):
        raise ValueError(f"there is no score {kind!r}: choose one of {', '.join(get_args(ScoreKind))}.")
    if hidden_width is not None:
        raise ValueError(f"score={kind!r} has no hidden layer: leave hidden_width out, or take score='additive'.")
    return DotScore(query_width, memory_width, kind)
