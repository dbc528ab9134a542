"""Nyström attention."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention.context.multi_head_self import MultiHeadSelfAttention
from regard.attention.contract import Paper
from regard.attention.efficient.linear import take_part
from regard.attention.offering import MapFact, Request


class NystromAttention(MultiHeadSelfAttention):
    """Nyström attention: the matrix of all weights, approximated from its rows and columns at a few landmarks.

        q, k, v = Wq x + bq, Wk x + bk, Wv x + bv, each cut into h heads
        q̃, k̃    = means of q and of k over segments of the sequence, the m landmarks
        E, A, G = softmax of q k̃ᵀ / √d, of q̃ k̃ᵀ / √d, of q̃ kᵀ / √d
        Z       ← Z (13 I - A Z (15 I - A Z (7 I - A Z))) / 4, from Z = Aᵀ / (|A|_1 |A|_∞)        towards A⁺
        y       = Wo [E Z (G v) + depthwise convolution of v, of every head] + bo

    A segment has `⌈N / m⌉` tokens, the last one what is left; with up to `m` tokens every token is a landmark. A
    landmark is the mean of those that take part. Without a residual and without normalisation.

    Paper: Xiong, Zeng, Chakraborty, Tan, Fung, Li, Singh, "Nyströmformer: A Nyström-Based Algorithm for Approximating
    Self-Attention", AAAI 2021, algorithm 1. The convolution has one kernel a head, as in the authors' code, which takes
    one norm for all matrices of a batch unless told otherwise.

    Args:
        channels: channels `C` of the tokens.
        heads: how many heads `h`; default 8. It divides `channels`.
        landmarks: how many landmarks `m` at most; default 64, the paper's choice.
        iterations: how often `Z` is improved; default 6, the paper's choice.
        kernel_size: of the convolution along the sequence, odd; default 33. The authors' code has 35 for the Long Range
            Arena, and none unless told otherwise.
        bias: whether the four projections have biases; default True.

    Shapes:
        x: `(B, N, C)`, mask `(B, N)` with True = takes part. Gives the same shape as `x`.

    Maps:
        query: `(batch, heads, query, landmark)`, `E`: sums to one over the landmarks.
        key: `(batch, heads, landmark, key)`, `G`: sums to one over the keys, and to zero for landmarks that a short
            sequence does not have.

    Raises:
        ValueError: `heads` does not divide `channels`, `kernel_size` is even, or `landmarks` or `iterations` is less
            than one.
        ShapeError: the input has another channel count, or the mask does not fit.
    """

    name: ClassVar[str] = "nystrom"
    aliases: ClassVar[tuple[str, ...]] = ("nystromformer",)
    paper: ClassVar[Paper] = Paper(
        "Nyströmformer: A Nyström-Based Algorithm for Approximating Self-Attention", "Xiong et al.", "AAAI", 2021
    )
    formula: ClassVar[str] = (
        "y = Wo concat_h(softmax(q k̃ᵀ / √d) softmax(q̃ k̃ᵀ / √d)⁺ softmax(q̃ kᵀ / √d) v + conv(v)) + bo"
    )
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact("query", ("batch", "heads", "query", "landmark"), ("landmark",)),
        MapFact("key", ("batch", "heads", "landmark", "key")),
    )
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "4*C*C + 4*C + h*k"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "h": "heads", "k": "kernel_size"}
    deviations: ClassVar[tuple[str, ...]] = (
        "bias=False: projections without biases, as the paper's equations are written",
    )
    placement: ClassVar[str] = "in place of multi-head self-attention where sequences are long"
    place = "branch"

    def __init__(
        self,
        channels: int,
        heads: int = 8,
        landmarks: int = 64,
        iterations: int = 6,
        kernel_size: int = 33,
        bias: bool = True,
    ) -> None:
        super().__init__(channels, heads, bias)
        self.landmarks = landmarks
        self.iterations = iterations
        self.kernel_size = kernel_size
        self.near = nn.Conv2d(heads, heads, (kernel_size, 1), padding=(kernel_size // 2, 0), groups=heads, bias=False)

    def forward(self, x: Float[Tensor, "B N C"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B N C"]:
        self.check(x)
        x, part = take_part(self, x, mask)  # (B, 1, N, 1)
        if part is None:
            part = torch.ones(x.shape[0], 1, x.shape[1], 1, dtype=torch.bool, device=x.device)
        query, key, value = self.project(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, h, N, d)
        value = value.masked_fill(~part, 0.0)
        precise = torch.promote_types(x.dtype, torch.float32)  # the inverse enlarges what is rounded
        query, key = query.to(precise), key.to(precise)
        middle_query, some = self.means(query, part)  # (B, h, M, d), (B, 1, M, 1)
        middle_key, _ = self.means(key, part)
        far = some.transpose(2, 3)  # (B, 1, 1, M)
        out = functional.scaled_dot_product_weights(query, middle_key, far)  # (B, h, N, M)
        between = functional.scaled_dot_product_weights(middle_query, middle_key, far & some)  # (B, h, M, M)
        into = functional.scaled_dot_product_weights(middle_query, key, part.transpose(2, 3) & some)  # (B, h, M, N)
        missing = self.landmarks - middle_query.shape[2]

        def shown(request: Request) -> Float[Tensor, "B H T m"]:
            return F.pad(request.pick(out, heads=1, queries=2), (0, missing)).to(x.dtype)

        asked = self.offer("query", shown)
        held = self.offer("key", lambda request: F.pad(request.pick(into, heads=1), (0, 0, 0, missing)).to(x.dtype))
        left = out if asked is None else F.pad(asked, (0, -missing)).to(precise)  # (B, h, N, M)
        right = into if held is None else F.pad(held, (0, 0, 0, -missing)).to(precise)  # (B, h, M, N)
        context = left @ (self.inverse(between) @ (right @ value.to(precise)))  # (B, h, N, d)
        refined = context.to(x.dtype) + self.near(value)  # (B, h, N, d)
        return self.output(refined.transpose(1, 2).flatten(2))  # (B, N, C)

    def means(
        self, tokens: Float[Tensor, "B h N d"], part: Bool[Tensor, "B 1 N 1"]
    ) -> tuple[Float[Tensor, "B h M d"], Bool[Tensor, "B 1 M 1"]]:
        """The mean of what takes part in every segment, and whether anything does."""
        N = tokens.shape[2]
        length = -(-N // self.landmarks)
        sums, counts = (
            F.pad(some, (0, 0, 0, -N % length)).unflatten(2, (-1, length)).sum(3)
            for some in (tokens.masked_fill(~part, 0.0), part.to(tokens.dtype))
        )
        return sums / counts.clamp_min(1), counts > 0

    def inverse(self, weights: Float[Tensor, "B h M M"]) -> Float[Tensor, "B h M M"]:
        """Towards the pseudoinverse, of each matrix by its own norms."""
        identity = torch.eye(weights.shape[2], dtype=weights.dtype, device=weights.device)
        norms = weights.sum(2).amax(2) * weights.sum(3).amax(2)  # (B, h), no weight is negative
        z = weights.transpose(2, 3) / norms.clamp_min(torch.finfo(norms.dtype).tiny)[..., None, None]
        for _ in range(self.iterations):
            product = weights @ z
            z = z @ (13 * identity - product @ (15 * identity - product @ (7 * identity - product))) / 4
        return z
