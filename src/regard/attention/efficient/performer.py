"""Performer attention."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from regard.attention.contract import Paper
from regard.attention.efficient.linear import LinearAttention
from regard.attention.offering import MapFact


class PerformerAttention(LinearAttention):
    """Performer attention (FAVOR+): an unbiased estimate of softmax attention from random features, in linear time.

        q, k, v = Wq x + bq, Wk x + bk, Wv x + bv, each cut into h heads
        φ(z)    = exp(-|z|² / 2) [exp(ω_1 · z); ...; exp(ω_m · z)] / √m,  E[φ(z) · φ(z')] = exp(z · z')
        a_tn    = φ(q_t / ∜d) · φ(k_n / ∜d) / Σ_j φ(q_t / ∜d) · φ(k_j / ∜d)        in every head
        y_t     = Wo [Σ_n a_tn v_n in head 1; ...; in head h] + bo

    The directions `ω` are normal, orthogonal to each other in groups of `d`, and shared by the heads. They are drawn
    once and kept in the state dict; `redraw` draws others, which the authors do while training. Common factors of all
    features, which the division cancels, are taken out before the exponential, so that nothing overflows.

    Paper: Choromanski et al., "Rethinking Attention with Performers", ICLR 2021, lemma 1 and section 2.4. The biases
    are those of `nn.MultiheadAttention`, so that trained weights fit.

    Args:
        channels: channels `C` of the tokens.
        heads: how many heads `h`; default 8, the paper's choice. It divides `channels`.
        features: how many random features `m`; default 256, the paper's choice.
        causal: whether a token reads itself and those before it alone, the paper's section 2.5; default False.
        orthogonal: whether the directions are orthogonal; default True. False draws them independently.
        bias: whether the four projections have biases; default True.

    Shapes:
        x: `(B, N, C)`, mask `(B, N)` with True = takes part. Gives the same shape as `x`.

    Maps:
        attention: `(batch, heads, query, key)`, the estimate; sums to one over the keys.

    Raises:
        ValueError: `heads` does not divide `channels`, or `features` is less than one.
        ShapeError: the input has another channel count, or the mask does not fit.
    """

    name: ClassVar[str] = "performer"
    aliases: ClassVar[tuple[str, ...]] = ("favor", "favor_plus")
    paper: ClassVar[Paper] = Paper("Rethinking Attention with Performers", "Choromanski et al.", "ICLR", 2021)
    formula: ClassVar[str] = (
        "y_t = Wo concat_h(φ(q_t)ᵀ Σ_n φ(k_n) v_nᵀ / φ(q_t)ᵀ Σ_n φ(k_n)) + bo, φ(z) = exp(ω z - |z|²/2)"
    )
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key"), ("key",)),)
    deviations: ClassVar[tuple[str, ...]] = (
        "orthogonal=False: independent directions, the paper's FAVOR without +",
        "bias=False: projections without biases, as in the authors' TensorFlow code",
    )
    placement: ClassVar[str] = (
        "in place of multi-head self-attention where sequences are long, trained weights included"
    )
    place = "branch"

    directions: Tensor

    def __init__(
        self,
        channels: int,
        heads: int = 8,
        features: int = 256,
        causal: bool = False,
        orthogonal: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__(channels, heads, causal, bias)
        self.orthogonal = orthogonal
        self.register_buffer("directions", torch.empty(features, channels // heads))
        self.redraw()

    @torch.no_grad()
    def redraw(self) -> None:
        """Draw other random directions."""
        directions = torch.randn(self.directions.shape, device=self.directions.device)  # (m, d)
        if self.orthogonal:
            m, d = directions.shape
            lengths = directions.norm(dim=1, keepdim=True)  # as long as independent ones are
            blocks = torch.randn(-(-m // d), d, d, device=directions.device)
            rotations, triangles = torch.linalg.qr(blocks)
            # The signs make them uniform; without, the first entry of each would always have the same sign.
            rotations = rotations * triangles.diagonal(dim1=1, dim2=2).sign()[:, None]
            directions = rotations.flatten(0, 1)[:m] * lengths
        self.directions.copy_(directions)

    def features(
        self, query: Float[Tensor, "B h N d"], key: Float[Tensor, "B h N d"], mask: Bool[Tensor, "B 1 N 1"] | None
    ) -> tuple[Float[Tensor, "B h N m"], Float[Tensor, "B h N m"]]:
        """`φ` of queries and keys in at least single precision, less factors that cancel; zero for a key that takes no
        part."""
        query_power, key_power = self.powers(query), self.powers(key)  # (B, h, N, m)
        if mask is not None:
            key_power = key_power.masked_fill(~mask, torch.finfo(key_power.dtype).min)
        query_features = (query_power - query_power.detach().amax(3, keepdim=True)).exp()
        key_features = (key_power - key_power.detach().amax((2, 3), keepdim=True)).exp()
        if mask is not None:
            key_features = key_features.masked_fill(~mask, 0.0)
        return query_features, key_features

    def powers(self, z: Float[Tensor, "B h N d"]) -> Float[Tensor, "B h N m"]:
        """`ω · z / ∜d - |z|² / 2√d`, in at least single precision, since errors of powers become factors."""
        dtype = torch.promote_types(z.dtype, torch.float32)
        z = z.to(dtype) * z.shape[3] ** -0.25
        return z @ self.directions.to(dtype).T - z.square().sum(3, keepdim=True) / 2
