"""Compact bilinear attention."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from regard import functional
from regard.attention.contract import Paper
from regard.attention.multimodal.bilinear_read import BilinearRead, require_positive, scoring


class CompactBilinearRead(BilinearRead):
    """Compact bilinear attention, MCB: scores from a random projection of the outer product of a pair.

        z_tn   = sketch(q_t ⊗ m_n) = sketch_q(q_t) * sketch_m(m_n)       the circular convolution of count sketches
        f_tn   = r / |r|₂ with r = sign(z_tn) √|z_tn|
        a^g_tn = softmax over n of W2 relu(W1 f_tn + b1)                 for the glimpses g = 1..G
        c_t    = [Σ_n a^1_tn m_n; ...; Σ_n a^G_tn m_n]

    `sketch(x)_j` is the sum of `±x_i` over the entries `i` that fall into bin `j`; bins and signs are drawn once and
    kept in buffers. Every pair has a vector `z` of its own, so that memory grows with `T·N·K`.

    Paper: Fukui, Park, Yang, Rohrbach, Darrell, Rohrbach, "Multimodal Compact Bilinear Pooling for Visual Question
    Answering and Visual Grounding", EMNLP 2016, algorithm 1 and section 3.2.

    Args:
        query_width: width `Q` of a query, an encoded question.
        memory_width: width `M` of a memory token, a cell of an image.
        sketch_width: width `K` of the sketches, the paper's d; default 16000, the paper's choice.
        hidden_width: width `H` of the scoring network; default 512, as in the authors' code.
        glimpses: number of attention maps `G`; default 1.
        normalize: whether `f` is as above, and not `z` itself; default True, the paper's choice.

    Shapes:
        query `(B, T, Q)`, memory `(B, N, M)`, mask `(B, N)` or `(B, T, N)` with True = takes part.
        Gives the context `(B, T, G·M)`; where there is nothing to attend to, it is zero.

    Maps:
        attention: `(batch, glimpse, query, key)`, sums to one over the keys.

    Raises:
        ValueError: a size is less than one.
        ShapeError: a width, a batch size or the mask does not fit.
    """

    name: ClassVar[str] = "compact_bilinear"
    aliases: ClassVar[tuple[str, ...]] = ("mcb",)
    paper: ClassVar[Paper] = Paper(
        "Multimodal Compact Bilinear Pooling for Visual Question Answering and Visual Grounding",
        "Fukui et al.",
        "EMNLP",
        2016,
    )
    formula: ClassVar[str] = (
        "c_t = concat_g Σ_n softmax_n(W2 relu(W1 l2(√±(sketch(q_t ⊗ m_n))) + b1)) m_n, √±(z) = sign(z) √|z|"
    )
    parameter_count: ClassVar[str] = "K*H + H + H*G"
    letters: ClassVar[dict[str, str]] = {"K": "sketch_width", "H": "hidden_width", "G": "glimpses"}
    deviations: ClassVar[tuple[str, ...]] = ("normalize=False: scores from the sketch itself",)
    query_bins: Int[Tensor, " Q"]
    query_signs: Float[Tensor, " Q"]
    memory_bins: Int[Tensor, " M"]
    memory_signs: Float[Tensor, " M"]

    def __init__(
        self,
        query_width: int,
        memory_width: int,
        sketch_width: int = 16000,
        hidden_width: int = 512,
        glimpses: int = 1,
        normalize: bool = True,
    ) -> None:
        super().__init__(query_width, memory_width, glimpses)
        require_positive(sketch_width=sketch_width, hidden_width=hidden_width)
        self.sketch_width = sketch_width
        self.hidden_width = hidden_width
        self.normalize = normalize
        for name, width in (("query", query_width), ("memory", memory_width)):
            self.register_buffer(f"{name}_bins", torch.randint(sketch_width, (width,)))
            self.register_buffer(f"{name}_signs", 2.0 * torch.randint(2, (width,)) - 1)
        self.score = scoring(sketch_width, hidden_width, glimpses)

    def scores(
        self, query: Float[Tensor, "B T Q"], memory: Float[Tensor, "B N M"], mask: Bool[Tensor, "B #T N"] | None
    ) -> Float[Tensor, "B G T N"]:
        asking = functional.count_sketch(query, self.query_bins, self.query_signs, self.sketch_width)  # (B, T, K)
        asked = functional.count_sketch(memory, self.memory_bins, self.memory_signs, self.sketch_width)  # (B, N, K)
        fused = functional.compact_bilinear(asking[:, :, None], asked[:, None])  # (B, T, N, K)
        if self.normalize:
            fused = F.normalize(functional.signed_root(fused), dim=3, eps=1e-6)
        return self.score(fused.to(query.dtype)).permute(0, 3, 1, 2)
