"""Agent attention."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention import offering
from regard.attention.arguments import choose_heads
from regard.attention.contract import Paper, Refine
from regard.attention.layout import map_to_tokens, tokens_to_map
from regard.attention.offering import MapFact


class AgentAttention(Refine):
    """Agent attention: a few agents read the map for all positions, and every position reads the agents.

        q, k, v = Wq x, Wk x, Wv x, each cut into h heads of d channels
        A       = q, pooled to g x g agents
        g_an    = softmax over n of A_a · k_n / √d + B1_an             every agent gathers
        s_ta    = softmax over a of q_t · A_a / √d + B2_ta             every position reads what they gathered
        y_t     = Wo ([Σ_a s_ta Σ_n g_an v_n of every head] + (depthwise convolution of v)_t) + bo

    Each bias is a sum of one for blocks of the map, one for its rows and one for its columns, learned for every agent
    and head. Without a residual and without normalisation.

    Paper: Han, Ye, Han, Xia, Pan, Wan, Song, Huang, "Agent Attention: On the Integration of Softmax and Linear
    Attention", ECCV 2024; the initial values of the biases are those of the authors' code.

    Args:
        channels: channels `C` of the map.
        heads: how many heads `h`; default the greatest divisor of `channels` that leaves a head 32 channels.
        grid: rows and columns `g` of agents; default 7, the paper's 49 agents.
        kernel_size: of the convolution of the values, odd; default 3, the paper's choice.
        bias_size: the rows and columns `T` of a map that the row and column biases are made for; default 14. All three
            biases are interpolated to the map; those of blocks have 7 by 7, the paper's choice.
        bias: whether queries, keys and values have biases; default False.

    Shapes:
        x: `(B, C, H, W)` of any size: a map smaller than the grid lets agents share positions. Gives the same shape.

    Maps:
        gather: `(batch, heads, agent, key)`, sums to one over the keys.
        spread: `(batch, heads, query, agent)`, sums to one over the agents.

    Raises:
        ValueError: `heads` does not divide `channels`, `kernel_size` is even, or `grid` or `bias_size` is less than
            one.
        ShapeError: the input has another channel count or number of spatial axes.
    """

    name: ClassVar[str] = "agent"
    aliases: ClassVar[tuple[str, ...]] = ("agent_attn",)
    paper: ClassVar[Paper] = Paper(
        "Agent Attention: On the Integration of Softmax and Linear Attention", "Han et al.", "ECCV", 2024
    )
    formula: ClassVar[str] = "y = Wo (concat_h(softmax(q Aᵀ / √d + B2) softmax(A kᵀ / √d + B1) v) + conv(v)) + bo"
    layout = "map"
    spatial_ranks = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact("gather", ("batch", "heads", "agent", "key"), ("key",)),
        MapFact("spread", ("batch", "heads", "query", "agent"), ("agent",)),
    )
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "4*C*C + C + C*(k*k + 1) + 2*h*n*(49 + 2*T)"
    letters: ClassVar[dict[str, str]] = {
        "C": "channels",
        "h": "heads",
        "n": "agents",
        "k": "kernel_size",
        "T": "bias_size",
    }
    deviations: ClassVar[tuple[str, ...]] = ("bias=True: queries, keys and values with biases",)
    placement: ClassVar[str] = "in place of the self-attention of a transformer of maps, in its early stages"
    place = "branch"

    def __init__(
        self,
        channels: int,
        heads: int | None = None,
        grid: int = 7,
        kernel_size: int = 3,
        bias_size: int = 14,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.heads = choose_heads(channels, heads, most=channels // 32)
        self.grid = grid
        self.agents = grid**2
        self.kernel_size = kernel_size
        self.bias_size = bias_size
        self.project = nn.Linear(channels, 3 * channels, bias=bias)
        self.local = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)
        self.output = nn.Linear(channels, channels)
        self.gather_bias = AgentBias(self.heads, self.agents, bias_size)
        self.spread_bias = AgentBias(self.heads, self.agents, bias_size)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        self.check(x)
        spatial = tuple(x.shape[2:])
        projected = tokens_to_map(self.project(map_to_tokens(x).contiguous()), spatial)  # (B, 3C, H, W)
        query, _, value = projected.chunk(3, dim=1)
        agents = self.split(F.adaptive_avg_pool2d(query, self.grid))  # (B, h, n, d)
        q, k, v = (self.split(part) for part in projected.chunk(3, dim=1))  # (B, h, N, d)
        scale = q.shape[3] ** -0.5
        gather = functional.dot_scores(agents, k, scale) + self.gather_bias(spatial)  # (B, h, n, N)
        spread = functional.dot_scores(q, agents, scale) + self.spread_bias(spatial).transpose(1, 2)  # (B, h, N, n)
        gather, spread = gather.softmax(3).to(v.dtype), spread.softmax(3).to(v.dtype)
        replaced = None
        if offering.listening():
            with offering.over_grid(spatial):
                gather = self.offer("gather", gather)
                replaced = self.offer("spread", lambda request: request.pick(spread, heads=1, queries=2))
        context = ((spread if replaced is None else replaced) @ (gather @ v)).transpose(1, 2).flatten(2)  # (B, N, C)
        refined = self.output(context + map_to_tokens(self.local(value)))  # (B, N, C)
        return tokens_to_map(refined, spatial)  # (B, C, H, W)

    def split(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B h N d"]:
        """The heads' parts of every position."""
        return map_to_tokens(x).unflatten(2, (self.heads, -1)).transpose(1, 2)


class AgentBias(nn.Module):
    """How much an agent likes a position, whatever it holds: a sum for its block, its row and its column.

    Args:
        heads: how many heads `h`.
        agents: how many agents `n`.
        size: rows and columns that the row and column biases are made for.
    """

    def __init__(self, heads: int, agents: int, size: int) -> None:
        super().__init__()
        self.block = nn.Parameter(torch.empty(heads, agents, 7, 7))
        self.row = nn.Parameter(torch.empty(heads, agents, size, 1))
        self.column = nn.Parameter(torch.empty(heads, agents, 1, size))
        for part in self.parameters():
            nn.init.trunc_normal_(part, std=0.02)

    def forward(self, spatial: tuple[int, ...]) -> Float[Tensor, "h n N"]:
        H, W = spatial
        block = F.interpolate(self.block, size=(H, W), mode="bilinear", align_corners=False)  # (h, n, H, W)
        row = F.interpolate(self.row, size=(H, 1), mode="bilinear", align_corners=False)  # (h, n, H, 1)
        column = F.interpolate(self.column, size=(1, W), mode="bilinear", align_corners=False)  # (h, n, 1, W)
        return (block + row + column).flatten(2)
