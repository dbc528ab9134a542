"""Generalized attention."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention import offering
from regard.attention.contract import Paper, Refine
from regard.attention.layout import map_to_tokens, tokens_to_map
from regard.attention.offering import MapFact


class GeneralizedAttention(Refine):
    """Generalized attention: what is attended to depends on up to four terms, in every one of h heads.

        E1_ij = (U x_i) · (V x_j)             the contents of query and key
        E2_ij = (U x_i) · (S R_{j-i})         the content of the query and where the key lies from it
        E3_ij = u · (V x_j)                   the content of the key alone
        E4_ij = v · (S R_{j-i})               where the key lies from the query alone
        a_ij  = softmax over j of the sum of the terms
        y_i   = x_i + γ W [Σ_j a_ij Z x_j in head 1; ...; in head h]

    `R` holds sines and cosines of the distance along each axis. γ starts at zero, so that the block starts as the
    identity.

    Paper: Zhu, Cheng, Zhang, Lin, Dai, "An Empirical Study of Spatial Attention Mechanisms in Deep Networks", ICCV
    2019, section 3; γ is from the authors' code.

    Args:
        channels: channels `C` of the map.
        heads: how many heads `h`; default 8. A head has `⌊C / h⌋` channels, or one.
        query_key: whether there is the term E1; default True.
        query_position: whether there is the term E2; default True.
        key_only: whether there is the term E3; default True.
        position_only: whether there is the term E4; default True.
        dims: how many spatial axes the map has, each with distances of its own; default 2, as in the paper.

    Shapes:
        x: `(B, C, *spatial)` with `dims` spatial axes of any size. Gives the same shape.

    Maps:
        attention: `(batch, heads, query, key)`, sums to one over the keys.

    Raises:
        ValueError: no term is left, or `heads` or `dims` is less than one.
        ShapeError: the input has another channel count or number of axes.
    """

    name: ClassVar[str] = "generalized"
    aliases: ClassVar[tuple[str, ...]] = ("empirical_attention",)
    paper: ClassVar[Paper] = Paper(
        "An Empirical Study of Spatial Attention Mechanisms in Deep Networks", "Zhu et al.", "ICCV", 2019
    )
    formula: ClassVar[str] = (
        "y_i = x_i + γ W concat_h Σ_j softmax_j((U x_i + u) · V x_j + (U x_i + v) · S R_{j-i}) Z x_j"
    )
    layout = "map"
    spatial_ranks: ClassVar[tuple[int, ...]] = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N^2"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "4*C*h*d + n*2*p*h*d + 2*h*d + 1"
    letters: ClassVar[dict[str, str]] = {
        "C": "channels",
        "h": "heads",
        "d": "head_width",
        "n": "dims",
        "p": "wave_lengths",
    }
    placement: ClassVar[str] = "in the residual blocks of the last stages, after the 3x3 convolution"
    place = "branch"
    zero_start = ("gain",)

    def __init__(
        self,
        channels: int,
        heads: int = 8,
        query_key: bool = True,
        query_position: bool = True,
        key_only: bool = True,
        position_only: bool = True,
        dims: int = 2,
    ) -> None:
        super().__init__()
        if not (query_key or query_position or key_only or position_only):
            raise ValueError("GeneralizedAttention got none of its four terms: give at least one.")
        self.channels = channels
        self.heads = heads
        self.query_key = query_key
        self.query_position = query_position
        self.dims = dims
        self.spatial_ranks = (dims,)  # pyright: ignore[reportAttributeAccessIssue]
        self.head_width = max(1, channels // heads)
        self.wave_lengths = max(1, channels // (2 * dims))  # the numbers of R, together as many as channels
        width = heads * self.head_width
        self.query = nn.Linear(channels, width, bias=False) if query_key or query_position else None  # U
        self.key = nn.Linear(channels, width, bias=False) if query_key or key_only else None  # V
        located = query_position or position_only
        self.offsets = nn.ModuleList(
            nn.Linear(2 * self.wave_lengths, width, bias=False) for _ in range(dims if located else 0)
        )  # S, a part for each axis
        self.key_vector = nn.Parameter(torch.randn(heads, self.head_width)) if key_only else None  # u
        self.position_vector = nn.Parameter(torch.randn(heads, self.head_width)) if position_only else None  # v
        self.value = nn.Linear(channels, width, bias=False)  # Z
        self.output = nn.Linear(width, channels, bias=False)  # W
        self.gain = nn.Parameter(torch.zeros(1))  # γ

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        spatial = tuple(x.shape[2:])
        tokens = map_to_tokens(x).contiguous()  # (B, N, C)
        weights = self.scores(tokens, spatial).softmax(3).to(x.dtype)  # (B, h, N, N)
        if offering.listening():
            with offering.over_grid(spatial):
                weights = self.offer("attention", weights)
        context = weights @ self.split(self.value(tokens))  # (B, h, N, d)
        added = self.output((self.gain * context).transpose(1, 2).flatten(2))  # (B, N, C)
        return x + tokens_to_map(added, spatial)  # (B, C, *spatial)

    def scores(self, tokens: Float[Tensor, "B N C"], spatial: tuple[int, ...]) -> Float[Tensor, "B h N N"]:
        """The sum of the terms; E1 and E3 share a product, and so do E2 and E4."""
        B, N, _ = tokens.shape
        nothing = tokens.new_zeros(B, self.heads, N, self.head_width)
        query = nothing if self.query is None else self.split(self.query(tokens))  # (B, h, N, d)
        total = tokens.new_zeros(())
        if self.key is not None:
            asking = query if self.query_key else nothing
            if self.key_vector is not None:
                asking = asking + self.key_vector[:, None]
            total = total + functional.dot_scores(asking, self.split(self.key(tokens)))  # (B, h, N, N)
        if self.offsets:
            asking = query if self.query_position else nothing
            if self.position_vector is not None:
                asking = asking + self.position_vector[:, None]
            tables = [
                self.split(offset(functional.sinusoids(length, self.wave_lengths, tokens))[None])[0]  # (h, 2L - 1, d)
                for offset, length in zip(self.offsets, spatial, strict=True)
            ]
            total = total + functional.relative_scores(asking, tables, spatial)  # (B, h, N, N)
        return total

    def split(self, tokens: Float[Tensor, "B N E"]) -> Float[Tensor, "B h N d"]:
        """The heads' parts of every token."""
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)
