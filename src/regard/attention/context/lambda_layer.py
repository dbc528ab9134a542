"""The lambda layer."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard.attention.arguments import choose_heads, convolution_over
from regard.attention.contract import Paper, Refine
from regard.attention.layout import map_to_tokens, tokens_to_map
from regard.attention.norm import BatchNorm
from regard.attention.offering import SPATIAL, MapFact


class LambdaLayer(Refine):
    """Lambda layer: the context becomes a linear function, which is applied to the query of each position.

        q_n = bn(Wq x_n), k_n = Wk x_n, v_n = bn(Wv x_n)    h queries of k numbers, one key of k, one value of C / h
        λc  = Σ_m softmax over all positions m of k_m, v_mᵀ                        (k, C / h), the same everywhere
        λp_n = Σ_m e_(m-n) v_mᵀ                                                    over the r × r positions around n
        y_n = [(λc + λp_n)ᵀ q_n for each of the h queries]

    The embeddings `e` are a convolution of the values, so that any map goes. Without a residual.

    Paper: Bello, "LambdaNetworks: Modeling Long-Range Interactions Without Attention", ICLR 2021, section 3; the lambda
    convolution with multi-query lambdas and intra-depth 1.

    Args:
        channels: channels `C` of the map.
        heads: how many queries `h`, which divide the channels; default the largest such number up to 4, the paper's
            choice.
        query_depth: numbers `k` of a query and a key; default 16, the paper's choice.
        kernel_size: positions `r` of the local context along each axis, odd; default 23, the paper's choice.
        dims: how many spatial axes the map has, 1, 2 or 3; default 2, as in the paper.

    Shapes:
        x: `(B, C, *spatial)` with `dims` spatial axes of any size. Gives the same shape.

    Maps:
        content: the normalised keys of `λc`, `(batch, query_depth, *spatial)`, sums to one over all positions.

    Raises:
        ValueError: `heads` does not divide `channels`, `kernel_size` is even, or `dims` is not 1, 2 or 3.
        ShapeError: the input has another channel count or number of axes.
    """

    name: ClassVar[str] = "lambda_layer"
    aliases: ClassVar[tuple[str, ...]] = ("lambda", "lambdanetworks", "lambda_net")
    paper: ClassVar[Paper] = Paper(
        "LambdaNetworks: Modeling Long-Range Interactions Without Attention", "Bello", "ICLR", 2021
    )
    formula: ClassVar[str] = "y_n = concat_h (Σ_m softmax_m(k_m) v_mᵀ + Σ_m e_(m-n) v_mᵀ)ᵀ q_n^h"
    layout = "map"
    spatial_ranks: ClassVar[tuple[int, ...]] = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("content", ("batch", "query_depth", SPATIAL), (SPATIAL,)),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "C*(k*h + k + v) + 2*(k*h + v) + k*r**n"
    letters: ClassVar[dict[str, str]] = {
        "C": "channels",
        "h": "heads",
        "k": "query_depth",
        "v": "head_width",
        "r": "kernel_size",
        "n": "dims",
    }
    placement: ClassVar[str] = "in place of the 3x3 convolutions in the residual blocks of the last stages"
    place = "branch"

    def __init__(
        self, channels: int, heads: int | None = None, query_depth: int = 16, kernel_size: int = 23, dims: int = 2
    ) -> None:
        super().__init__()
        heads = choose_heads(channels, heads, 4)
        self.channels = channels
        self.heads = heads
        self.head_width = channels // heads
        self.query_depth = query_depth
        self.kernel_size = kernel_size
        self.dims = dims
        self.spatial_ranks = (dims,)  # pyright: ignore[reportAttributeAccessIssue]
        self.query = nn.Linear(channels, heads * query_depth, bias=False)
        self.key = nn.Linear(channels, query_depth, bias=False)
        self.value = nn.Linear(channels, self.head_width, bias=False)
        self.query_norm = BatchNorm(heads * query_depth)
        self.value_norm = BatchNorm(self.head_width)
        self.position = convolution_over(dims)(1, query_depth, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        spatial = tuple(x.shape[2:])
        tokens = map_to_tokens(x).contiguous()  # (B, N, C)
        query = self.query_norm(self.query(tokens).flatten(0, 1)).unflatten(0, tokens.shape[:2])  # (B, N, h·k)
        query = query.unflatten(2, (self.heads, -1))  # (B, N, h, k)
        keys = self.key(tokens).softmax(1)  # (B, N, k)
        keys = map_to_tokens(self.offer("content", tokens_to_map(keys, spatial)))
        value = self.value_norm(self.value(tokens).flatten(0, 1)).unflatten(0, tokens.shape[:2])  # (B, N, v)
        content = torch.bmm(keys.transpose(1, 2), value)  # (B, k, v)
        maps = tokens_to_map(value, spatial).flatten(0, 1)[:, None]  # (B·v, 1, *spatial): each value channel by itself
        position = self.position(maps).unflatten(0, (x.shape[0], self.head_width)).flatten(3)  # (B, v, k, N)
        lambdas = content[:, None] + position.permute(0, 3, 2, 1)  # (B, N, k, v)
        return tokens_to_map((query @ lambdas).flatten(2), spatial)  # (B, C, *spatial)
