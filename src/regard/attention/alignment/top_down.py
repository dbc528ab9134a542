"""Top-down attention."""

from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention.contract import Paper, Read
from regard.attention.offering import MapFact


class TopDownRead(Read):
    """Top-down attention: a gated layer scores every memory token, an image's region, side by side with the query.

        f(x) = tanh(W x + b) ⊙ sigmoid(W' x + b')
        a_tn = softmax over n of wᵀ f([m_n; q_t])
        c_t  = Σ_n a_tn m_n

    What makes it bottom-up is the memory, the regions of an object detector, normalised to length one by many. The
    paper's captioner scores with `AdditiveRead` instead; this is its model of visual question answering.

    Paper: Anderson, He, Buehler, Teney, Johnson, Gould, Zhang, "Bottom-Up and Top-Down Attention for Image Captioning
    and Visual Question Answering", CVPR 2018, section 3.3.

    Args:
        query_width: width `Dq` of a query.
        memory_width: width `Dm` of a memory token, and of the context.
        hidden_width: width of the gated layer; default 512, the paper's choice.

    Shapes:
        query `(B, T, Dq)`, memory `(B, N, Dm)`, mask `(B, N)` or `(B, T, N)` with True = takes part.
        Gives the context `(B, T, Dm)`.

    Maps:
        attention: `(batch, query, key)`, sums to one over the keys.

    Raises:
        ShapeError: a width, a batch size or the mask does not fit.
    """

    name: ClassVar[str] = "top_down"
    aliases: ClassVar[tuple[str, ...]] = ("butd", "bottom_up_top_down", "top_down_attention")
    paper: ClassVar[Paper] = Paper(
        "Bottom-Up and Top-Down Attention for Image Captioning and Visual Question Answering",
        "Anderson et al.",
        "CVPR",
        2018,
    )
    formula: ClassVar[str] = "c_t = Σ_n softmax_n(wᵀ f([m_n; q_t])) m_n, f(x) = tanh(W x + b) ⊙ σ(W' x + b')"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "2*(Q + M + 1)*A + A"
    letters: ClassVar[dict[str, str]] = {"Q": "query_width", "M": "memory_width", "A": "hidden_width"}
    placement: ClassVar[str] = "between a question and the regions of an image"

    def __init__(self, query_width: int, memory_width: int, hidden_width: int = 512) -> None:
        super().__init__()
        self.query_width = query_width
        self.memory_width = memory_width
        self.hidden_width = hidden_width
        # [W; W'], cut into what multiplies the query and what multiplies the memory: no pair is ever put together.
        self.query = nn.Linear(query_width, 2 * hidden_width)
        self.memory = nn.Linear(memory_width, 2 * hidden_width, bias=False)
        self.vector = nn.Linear(hidden_width, 1, bias=False)

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
        memory, undefined = functional.exclude_nonfinite(memory, mask)
        pairs = self.query(query)[:, :, None] + self.memory(memory)[:, None]  # (B, T, N, 2A)
        content, gate = pairs.chunk(2, -1)  # (B, T, N, A) each
        scores = self.vector(content.tanh() * gate.sigmoid())[..., 0]  # (B, T, N)
        weights = functional.masked_softmax(scores, mask)  # (B, T, N)
        weights = self.offer("attention", weights)
        return functional.mark_undefined(functional.read(weights, memory), undefined)  # (B, T, Dm)
