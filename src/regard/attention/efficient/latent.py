"""Multi-head latent attention."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention.context.multi_head_self import MultiHeadSelfAttention
from regard.attention.contract import Paper
from regard.attention.offering import MapFact, Request


class MultiHeadLatentAttention(MultiHeadSelfAttention):
    """Multi-head latent attention: keys and values of all heads come from one narrow vector, which a decoder keeps.

        c_n      = W_DKV x_n                                       the latent vector of keys and values
        c'_t     = W_DQ x_t                                        that of queries
        q^i, k^i = [W_UQ^i c'_t; rotated W_QR^i c'_t], [W_UK^i c_n; rotated W_KR x_n]      in every head i
        a^i_tn   = softmax over n <= t of q^i_t · k^i_n / √(d + r)
        y_t      = Wo concat over i of Σ_n a^i_tn W_UV^i c_n

    The part of the positions, rotated by its place in the sequence, has `r` channels; of the keys it is the same in all
    heads. Without a residual and without normalisation of `x`.

    Paper: DeepSeek-AI, "DeepSeek-V2: A Strong, Economical, and Efficient Mixture-of-Experts Language Model", arXiv
    2024, equations 9 to 19; the rotation is that of Su et al., "RoFormer", Neurocomputing 2024, equation 15.

    Args:
        channels: channels `C` of the tokens.
        heads: how many heads `h`; default 8. It divides `channels`.
        head_width: channels `d` of a head, without the rotated ones; default `C / h`. The paper has 128.
        key_rank: width of the latent vector of keys and values; default `4 d`, the paper's choice.
        query_rank: width of that of queries; default `12 d`, the paper's choice for 128 heads, or `C` if that is less.
        rotary_width: channels `r` of the rotated part, even; default `d / 2`, the paper's choice, rounded up to even.
        causal: whether a token reads itself and those before it alone; default True, as in the paper's equation.
        normalize: whether the two latent vectors are divided by their root mean square, with a learned scale; default
            False.

    Shapes:
        x: `(B, N, C)`, mask `(B, N)` or `(B, N, N)` (query, key) with True = takes part. Gives the same shape as `x`.

    Maps:
        attention: `(batch, heads, query, key)`, sums to one over the keys.

    Raises:
        ValueError: `heads` does not divide `channels`, a width or rank is less than one, or `rotary_width` is odd
            or negative.
        ShapeError: the input has another channel count, or the mask does not fit.
    """

    name: ClassVar[str] = "latent"
    aliases: ClassVar[tuple[str, ...]] = ("mla", "latent_attention")
    paper: ClassVar[Paper] = Paper(
        "DeepSeek-V2: A Strong, Economical, and Efficient Mixture-of-Experts Language Model",
        "DeepSeek-AI",
        "arXiv",
        2024,
    )
    formula: ClassVar[str] = (
        "y_t = Wo concat_i Σ_n≤t softmax_n([q_C; R_t q_R]_i · [k_C,i; R_n k_R] / √(d + r)) W_UV^i c_n"
    )
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N^2"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "C*(p + r + s) + 2*p*h*d + s*h*(d + r) + h*d*C"
    letters: ClassVar[dict[str, str]] = {
        "C": "channels",
        "h": "heads",
        "d": "head_width",
        "p": "key_rank",
        "s": "query_rank",
        "r": "rotary_width",
    }
    deviations: ClassVar[tuple[str, ...]] = (
        "causal=False: every token reads all tokens",
        "normalize=True: RMS normalisation of both latent vectors, as in the paper's model (section 3.1.2)",
    )
    placement: ClassVar[str] = "in every block of a decoder, where one latent vector is kept of each token so far"
    place = "branch"

    def __init__(
        self,
        channels: int,
        heads: int = 8,
        head_width: int | None = None,
        key_rank: int | None = None,
        query_rank: int | None = None,
        rotary_width: int | None = None,
        causal: bool = True,
        normalize: bool = False,
    ) -> None:
        super().__init__(channels, heads, bias=False)
        self.head_width = channels // heads if head_width is None else head_width
        width = heads * self.head_width
        self.key_rank = 4 * self.head_width if key_rank is None else key_rank
        self.query_rank = min(12 * self.head_width, channels) if query_rank is None else query_rank
        self.rotary_width = 2 * -(-self.head_width // 4) if rotary_width is None else rotary_width
        self.causal = causal
        self.project = nn.Linear(channels, self.key_rank + self.rotary_width + self.query_rank, bias=False)
        self.expand_key_value = nn.Linear(self.key_rank, 2 * width, bias=False)
        self.expand_query = nn.Linear(self.query_rank, width + heads * self.rotary_width, bias=False)
        self.output = nn.Linear(width, channels, bias=False)
        self.key_norm = nn.RMSNorm(self.key_rank) if normalize else nn.Identity()
        self.query_norm = nn.RMSNorm(self.query_rank) if normalize else nn.Identity()

    def forward(self, x: Float[Tensor, "B N C"], mask: Bool[Tensor, "B *T N"] | None = None) -> Float[Tensor, "B N C"]:
        self.check(x)
        x, mask, undefined = self.take_part(x, mask)  # (B, 1, 1 or N, N)
        widths = [self.key_rank, self.rotary_width, self.query_rank]
        latent, placed, asked = self.project(x).split(widths, dim=2)  # (B, N, p), (B, N, r), (B, N, s)
        key, value = (
            self.expand_key_value(self.key_norm(latent)).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        key = torch.cat((key, rotated(placed)[:, None].expand(-1, self.heads, -1, -1)), dim=3)  # (B, h, N, d + r)
        query = self.expand_query(self.query_norm(asked)).unflatten(2, (self.heads, -1)).transpose(1, 2)
        own, turning = query.split([self.head_width, self.rotary_width], dim=3)  # (B, h, N, d), (B, h, N, r)
        query = torch.cat((own, rotated(turning)), dim=3)  # (B, h, N, d + r)

        def attention(request: Request) -> Float[Tensor, "B H T N"]:
            return functional.scaled_dot_product_weights(
                request.pick(query, heads=1, queries=2),
                request.pick(key, heads=1),
                mask if mask is None or mask.shape[2] == 1 else request.pick(mask, queries=2),
            )

        replaced = self.offer("attention", attention)
        if replaced is None:
            context = functional.scaled_dot_product_attention(query, key, value, mask)  # (B, h, N, d)
        else:
            context = replaced @ value
        return functional.mark_undefined(self.output(context.transpose(1, 2).flatten(2)), undefined)  # (B, N, C)

    def spread_mask(self, mask: Tensor | None, x: Tensor) -> Bool[Tensor, "B 1 #N N"] | None:
        """The mask, less the tokens after each token if it is causal."""
        mask = super().spread_mask(mask, x)
        if not self.causal:
            return mask
        causal = functional.causal_mask(x.shape[1], x.device).expand(x.shape[0], 1, -1, -1)
        return causal if mask is None else causal & mask


def rotated(x: Float[Tensor, "*rest N r"]) -> Float[Tensor, "*rest N r"]:
    """Pair `i` of channels of token `n` turned by the angle `n / 10000^(2i / r)`, so that a product of two depends on
    how far apart they are; angles in at least single precision, since half precision counts to 2048 only."""
    N, r = x.shape[-2:]
    dtype = torch.promote_types(x.dtype, torch.float32)
    place = torch.arange(N, device=x.device).to(dtype)
    frequency = 10000.0 ** -(torch.arange(0, r, 2, device=x.device).to(dtype) / max(1, r))  # (r / 2,)
    angle = place[:, None] * frequency  # (N, r / 2)
    one, other = x.to(dtype).unflatten(-1, (-1, 2)).unbind(-1)  # (*rest, N, r / 2)
    turned = (one * angle.cos() - other * angle.sin(), one * angle.sin() + other * angle.cos())
    return torch.stack(turned, dim=-1).flatten(-2).to(x.dtype)
