"""Local attention."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention.alignment.score import DotKind, DotScore
from regard.attention.contract import Paper, Read
from regard.attention.offering import MapFact

Position = Literal["predictive", "monotonic"]


class LocalRead(Read):
    """Luong's local attention: every query predicts a position in the memory, and reads a window around it.

        p_t  = S sigmoid(v_pᵀ tanh(W_p q_t)),  S the length of the memory
        e_tn = (W q_t)ᵀ m_n
        a_tn = softmax over |n − p_t| ≤ D of e_tn,  times exp(−(n − p_t)² / (2 (D/2)²))
        c_t  = Σ_n a_tn m_n

    The tokens are counted from one, as the words of the paper's sentences. The Gaussian is what teaches the position;
    nothing makes up for what it takes, so the weights of a query sum to less than one. `S` reaches to the last token
    that takes part, so that padding changes nothing.

    Paper: Luong, Pham, Manning, "Effective Approaches to Attention-based Neural Machine Translation", EMNLP 2015,
    section 3.2.

    Args:
        query_width: width `Dq` of a query.
        memory_width: width `Dm` of a memory token, and of the context.
        radius: `D`, how far the window reaches to either side; default 10, the paper's choice.
        position: `"predictive"`, local-p, the default; `"monotonic"`, local-m, the paper's other form: `p_t = t`, query
            `t` of those given reads around token `t`, without the Gaussian and without what predicts the position.
        score: `"general"`, the default, which the paper found best here; `"dot"` or `"scaled_dot"`, of equal widths.
        hidden_width: width of the network that predicts the position; default `query_width`.

    Shapes:
        query `(B, T, Dq)`, memory `(B, N, Dm)`, mask `(B, N)` or `(B, T, N)` with True = takes part.
        Gives the context `(B, T, Dm)`, zero where the window holds nothing that takes part.

    Maps:
        attention: `(batch, query, key)`, zero outside of the window; sums to less than one over the keys, with
            `"monotonic"` to one, or to zero where the window holds nothing.

    Raises:
        ValueError: the score or the position is unknown, the score needs equal widths, or the radius is below one.
        ShapeError: a width, a batch size or the mask does not fit.
    """

    name: ClassVar[str] = "local"
    aliases: ClassVar[tuple[str, ...]] = ("local_attention", "luong_local")
    paper: ClassVar[Paper] = Paper(
        "Effective Approaches to Attention-based Neural Machine Translation", "Luong et al.", "EMNLP", 2015
    )
    formula: ClassVar[str] = (
        "c_t = Σ_|n−p|≤D softmax_n((W q_t)ᵀ m_n) exp(−2 (n−p)²/D²) m_n, p = S σ(v_pᵀ tanh(W_p q_t))"
    )
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "query", "key")),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "Q*M + (Q + 1)*A"
    letters: ClassVar[dict[str, str]] = {"Q": "query_width", "M": "memory_width", "A": "hidden_width"}
    deviations: ClassVar[tuple[str, ...]] = ('score="scaled_dot": the product is divided by √D, Vaswani et al. 2017',)
    placement: ClassVar[str] = "between a decoder's state and an encoded sentence or recording"

    def __init__(
        self,
        query_width: int,
        memory_width: int,
        radius: int = 10,
        position: Position = "predictive",
        score: DotKind = "general",
        hidden_width: int | None = None,
    ) -> None:
        super().__init__()
        self.query_width = query_width
        self.memory_width = memory_width
        self.radius = radius
        self.position = position
        self.hidden_width = query_width if hidden_width is None else hidden_width
        self.score = DotScore(query_width, memory_width, score)
        if position == "predictive":
            self.hidden = nn.Linear(query_width, self.hidden_width, bias=False)
            self.vector = nn.Linear(self.hidden_width, 1, bias=False)

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
        places = torch.arange(1, memory.shape[1] + 1, device=query.device)  # (N,)
        distance = places - self.centre(query, places, mask)  # (B, T, N)
        window = distance.abs() <= self.radius  # (B, T, N)
        weights = functional.masked_softmax(self.score(query, memory), window if mask is None else window & mask)
        if self.position == "predictive":
            weights = weights * torch.exp(-2 * (distance / self.radius).square()).to(weights.dtype)  # (B, T, N)
        weights = self.offer("attention", weights)
        return functional.mark_undefined(functional.read(weights, memory), undefined)  # (B, T, Dm)

    def centre(
        self, query: Float[Tensor, "B T Dq"], places: Tensor, mask: Bool[Tensor, "B #T N"] | None
    ) -> Float[Tensor, "B T 1"]:
        """Where every query looks, in at least single precision: bfloat16 counts to 256 only."""
        dtype = torch.promote_types(query.dtype, torch.float32)
        if self.position == "monotonic":
            steps = torch.arange(1, query.shape[1] + 1, device=query.device, dtype=dtype)  # (T,)
            return steps[:, None].expand(query.shape[0], -1, 1)
        length = places[-1] if mask is None else (places * mask).amax(-1, keepdim=True)  # () or (B, #T, 1)
        return length * self.vector(self.hidden(query).tanh()).to(dtype).sigmoid()  # (B, T, 1)
