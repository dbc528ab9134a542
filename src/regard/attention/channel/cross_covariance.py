"""Cross-covariance attention."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard.attention.arguments import choose_heads
from regard.attention.contract import Paper, Refine
from regard.attention.offering import MapFact


class CrossCovarianceAttention(Refine):
    """Cross-covariance attention: every channel reads the channels of its head, by how they vary over all tokens.

        q, k, v = Wq x, Wk x, Wv x, each cut into h heads of d = C / h channels
        a_ij    = softmax over j of (q_i · k_j) / (‖q_i‖ ‖k_j‖ τ)      over the N tokens, in every head
        y       = Wo [Σ_j a_ij v_j in head 1; ...; in head h] + bo

    Its cost grows with the number of tokens, not with its square. The scale `1/τ` is what is learned, as in the
    authors' code: one a head, from 1. Without a residual and without normalisation, which are those of the block.

    Paper: El-Nouby, Touvron, Caron, Bojanowski, Douze, Joulin, Laptev, Neverova, Synnaeve, Verbeek, Jégou, "XCiT:
    Cross-Covariance Image Transformers", NeurIPS 2021, equation 2 and section 3.2; the biases are those of the
    authors' models.

    Args:
        channels: channels `C` of the tokens.
        heads: how many heads `h`; default 8, as in the paper's models from XCiT-S. It divides `channels`.
        bias: whether the projections to query, key and value have biases; default True, as in the authors' models.

    Shapes:
        x: `(B, N, C)`. Gives the same shape.

    Maps:
        attention: `(batch, heads, query_channel, key_channel)`, sums to one over the key channels.

    Raises:
        ValueError: `heads` does not divide `channels`.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "cross_covariance"
    aliases: ClassVar[tuple[str, ...]] = ("xca", "xcit")
    paper: ClassVar[Paper] = Paper("XCiT: Cross-Covariance Image Transformers", "El-Nouby et al.", "NeurIPS", 2021)
    formula: ClassVar[str] = "y = Wo concat_h(softmax(q̂_h k̂_hᵀ / τ_h) v_h) + bo with rows of q̂, k̂ of length 1"
    layout = "tokens"
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact("attention", ("batch", "heads", "query_channel", "key_channel"), ("key_channel",)),
    )
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "4*C*C + 4*C + h"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "h": "heads"}
    deviations: ClassVar[tuple[str, ...]] = (
        "bias=False: query, key and value without biases, as the paper's equations are written",
    )
    placement: ClassVar[str] = "in every block of a transformer, after a layer normalisation and inside a residual"
    place = "branch"

    def __init__(self, channels: int, heads: int = 8, bias: bool = True) -> None:
        super().__init__()
        self.channels = channels
        self.heads = choose_heads(channels, heads)
        self.query_channels = self.key_channels = channels // heads
        self.project = nn.Linear(channels, 3 * channels, bias=bias)
        self.scale = nn.Parameter(torch.ones(heads))  # 1/τ
        self.output = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        self.check(x)
        query, key, value = self.project(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 4, 1)  # (B, h, d, N)
        query, key = F.normalize(query, dim=3), F.normalize(key, dim=3)  # (B, h, d, N)
        scores = query @ key.transpose(2, 3) * self.scale[:, None, None]  # (B, h, d, d)
        weights = scores.softmax(3)  # (B, h, d, d)
        weights = self.offer("attention", weights)
        context = weights @ value  # (B, h, d, N)
        return self.output(context.permute(0, 3, 1, 2).flatten(2))  # (B, N, C)
