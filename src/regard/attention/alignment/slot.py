"""Slot attention."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention.contract import Paper, Read
from regard.attention.offering import MapFact


class SlotAttention(Read):
    """Slot attention: slots compete for the tokens of the memory, and take up what they have won, several times.

        s     = μ + exp(log σ) ⊙ ε, with ε drawn from the normal distribution for every slot
        a_sn <- softmax over the slots of (W_q norm(s_s))ᵀ (W_k norm(m_n)) / √d       three times, as all that follows
        w_sn <- (a_sn + δ) / Σ_n (a_sn + δ)
        s_s  <- GRU(state: s_s, input: Σ_n w_sn W_v norm(m_n))
        s_s  <- s_s + W_2 relu(W_1 norm(s_s) + b_1) + b_2

    It takes no query: its slots are its own, and which of them takes which part of the memory is left to the draw `ε`.
    In training it is drawn for every sample anew. In evaluation it is the buffer `noise`, drawn when the module is
    built, so that the same memory gives the same slots; draw that anew for other ones.

    Paper: Locatello, Weissenborn, Unterthiner, Mahendran, Heigold, Uszkoreit, Dosovitskiy, Kipf, "Object-Centric
    Learning with Slot Attention", NeurIPS 2020, algorithm 1.

    Args:
        memory_width: width `Dm` of a memory token.
        slots: how many slots; default 7, the paper's choice for up to six objects and a background.
        width: width `d` of a slot, and of the context; default 64, the paper's choice.
        hidden_width: width of the network's hidden layer; default `2 * width`, the paper's choice.
        iterations: how often the slots read; default 3, the paper's choice.
        eps: `δ`, which keeps a slot that won nothing from dividing by zero; default 1e-8, the paper's choice.

    Shapes:
        memory `(B, N, Dm)`, mask `(B, N)` or `(B, 1, N)` with True = takes part. Gives the slots `(B, slots, d)`.
        Of a memory of which nothing takes part, they are zero.

    Maps:
        attention: `a` of the last iteration, `(batch, slot, key)`, sums to one over the slots.

    Raises:
        ValueError: there is no slot or no iteration.
        ShapeError: the width of the memory or the mask does not fit.
    """

    name: ClassVar[str] = "slot"
    paper: ClassVar[Paper] = Paper("Object-Centric Learning with Slot Attention", "Locatello et al.", "NeurIPS", 2020)
    formula: ClassVar[str] = "s <- GRU(s, Σ_n w_n v_n), w_n ∝ softmax_slots(q_s · k_n / √d) + δ; s <- s + mlp(norm(s))"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "slot", "key"), ("slot",)),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "2*M*D + D*D + (6*D + 6)*D + (2*D + 1)*A + D + 2*M + 6*D"
    letters: ClassVar[dict[str, str]] = {"M": "memory_width", "D": "width", "A": "hidden_width"}
    placement: ClassVar[str] = "between an encoder with position embeddings and a decoder that draws every slot"

    noise: Tensor

    def __init__(
        self,
        memory_width: int,
        slots: int = 7,
        width: int = 64,
        hidden_width: int | None = None,
        iterations: int = 3,
        eps: float = 1e-8,
    ) -> None:
        super().__init__()
        self.memory_width = memory_width
        self.query_width = width  # of its own slots
        self.slots = slots
        self.width = width
        self.hidden_width = 2 * width if hidden_width is None else hidden_width
        self.iterations = iterations
        self.eps = eps
        self.mean = nn.Parameter(torch.randn(width) * width**-0.5)
        self.log_deviation = nn.Parameter(torch.randn(width) * width**-0.5)
        self.register_buffer("noise", torch.randn(slots, width))
        self.memory_norm = nn.LayerNorm(memory_width)
        self.slot_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(memory_width, width, bias=False)
        self.value = nn.Linear(memory_width, width, bias=False)
        self.update = nn.GRUCell(width, width)
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, self.hidden_width)
        self.output = nn.Linear(self.hidden_width, width)

    @property
    def context_width(self) -> int:
        return self.width

    def forward(
        self, memory: Float[Tensor, "B N Dm"], mask: Bool[Tensor, "B *one N"] | None = None
    ) -> Float[Tensor, "B slots d"]:
        noise = self.noise.expand(memory.shape[0], -1, -1)  # (B, slots, d)
        mask = self.check(noise[:, :1], memory, mask)  # (B, 1, N)
        memory = functional.mask_tokens(memory, mask)
        if self.training:
            noise = torch.randn_like(noise)
        slots = self.mean + self.log_deviation.exp() * noise  # (B, slots, d)
        tokens = self.memory_norm(memory)  # (B, N, Dm)
        key, value = self.key(tokens), self.value(tokens)  # (B, N, d)
        for iteration in range(self.iterations):
            scores = functional.dot_scores(self.query(self.slot_norm(slots)), key, self.width**-0.5)  # (B, slots, N)
            weights = functional.masked_softmax(scores, mask, dim=1)  # (B, slots, N)
            if iteration == self.iterations - 1:
                weights = self.offer("attention", weights)
            shares = functional.at_least_single(weights) + self.eps  # (B, slots, N); half does not hold the eps
            shares = shares if mask is None else shares * mask
            shares = shares / shares.sum(-1, keepdim=True).clamp_min(self.eps)
            taken = functional.read(shares.to(value.dtype), value)  # (B, slots, d)
            slots = self.update(taken.flatten(0, 1), slots.flatten(0, 1)).unflatten(0, slots.shape[:2])
            slots = slots + self.output(self.hidden(self.norm(slots)).relu())  # (B, slots, d)
        return slots if mask is None else slots.masked_fill(~mask.any(-1, keepdim=True), 0.0)
