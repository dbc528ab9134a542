"""Two or more vectors as one whose entries are polynomials in the entries of all: bilinear and tensor fusion."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from regard.functional.precision import at_least_single


def low_rank_fusion(*factors: Float[Tensor, "... R K"]) -> Float[Tensor, "... K"]:
    """`Σ_r one_r ∘ other_r ∘ ...` of projections that are cut into `R` parts: a tensor of rank `R` applied to vectors.

    Papers: Kim et al., ICLR 2017 (R = 1); Yu et al., ICCV 2017 (the sum pooling); Ben-younes et al., ICCV 2017.
    """
    product = factors[0]
    for factor in factors[1:]:
        product = product * factor
    return product.sum(-2)


def low_rank_pairs(query: Float[Tensor, "B T R K"], memory: Float[Tensor, "B N R K"]) -> Float[Tensor, "B T N K"]:
    """The `low_rank_fusion` of every query with every memory token, without the `R` parts of each pair.

    In at least single precision: half does not hold the products of large vectors.
    """
    return torch.einsum("btrk,bnrk->btnk", at_least_single(query), at_least_single(memory))


def low_rank_scores(
    query: Float[Tensor, "B T R K"], memory: Float[Tensor, "B N R K"], weight: Float[Tensor, "G K"]
) -> Float[Tensor, "B G T N"]:
    """`weight_g · low_rank_fusion(query_t, memory_n)`, in the order that never forms a vector for a pair.

    In at least single precision, as `low_rank_pairs` are.

    Args:
        weight: one linear form a map of scores.
    """
    query, memory, weight = (at_least_single(x) for x in (query, memory, weight))
    asking = (query[:, None] * weight[:, None, None]).flatten(3)  # (B, G, T, R·K)
    return asking @ memory.flatten(2).transpose(1, 2)[:, None]


def signed_root(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`sign(x) √|x|`, with a slope that is high but finite at zero; half would not hold the slope's own powers."""
    wide = at_least_single(x)
    # No sum: the converter to ONNX leaves out adding so little, and gives what is not a number for zero.
    return (wide * wide.abs().clamp(min=max(1e-10, torch.finfo(x.dtype).tiny)).rsqrt()).to(x.dtype)


def count_sketch(
    x: Float[Tensor, "*lead D"], bins: Int[Tensor, " D"], signs: Float[Tensor, " D"], width: int
) -> Float[Tensor, "*lead {width}"]:
    """`y_j = Σ_{i: bins_i = j} signs_i x_i`: a projection that keeps scalar products in expectation.

    Paper: Charikar, Chen, Farach-Colton, "Finding Frequent Items in Data Streams", ICALP 2002.

    Args:
        bins: where each entry goes, in `0..width - 1`, drawn once.
        signs: -1 or 1 for each entry, drawn once.
    """
    return x.new_zeros(*x.shape[:-1], width).index_add(-1, bins, x * signs.to(x.dtype))


def compact_bilinear(one: Float[Tensor, "... K"], other: Float[Tensor, "... K"]) -> Float[Tensor, "... K"]:
    """The count sketch of the outer product of two vectors, from the sketches of both: their circular convolution.

    Computed as a product of Fourier transforms (Pham, Pagh, KDD 2013; Fukui et al. 2016), in double precision: of a
    bin that stays empty a `signed_root` would make 1e-4 out of single precision's 1e-8. What it gives is in at least
    single precision.
    """
    spectrum = torch.fft.rfft(one.double()) * torch.fft.rfft(other.double())
    return torch.fft.irfft(spectrum, n=one.shape[-1]).to(torch.promote_types(one.dtype, torch.float32))


def tensor_fusion(*vectors: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """`[z_1; 1] ⊗ [z_2; 1] ⊗ ...`, flattened: the products of the entries of every subset of the vectors.

    Paper: Zadeh, Chen, Poria, Cambria, Morency, "Tensor Fusion Network for Multimodal Sentiment Analysis", EMNLP 2017,
    with the 1 behind each vector.

    Args:
        vectors: each `(*lead, D_i)`. Gives `(*lead, Π (D_i + 1))`, in which the last vector's entries run fastest.
    """
    product = F.pad(vectors[0], (0, 1), value=1.0)
    for vector in vectors[1:]:
        product = (product[..., None] * F.pad(vector, (0, 1), value=1.0)[..., None, :]).flatten(-2)
    return product


def low_rank_tensor_fusion(
    vectors: Sequence[Float[Tensor, "..."]], factors: Sequence[Float[Tensor, "R _ K"]]
) -> Float[Tensor, "... K"]:
    """`Σ_r Π_i W_i^(r)ᵀ [z_i; 1]`: a linear layer behind `tensor_fusion`, of rank `R`, without the outer product.

    Paper: Liu, Shen, Lakshminarasimhan, Liang, Zadeh, Morency, "Efficient Low-rank Multimodal Fusion with
    Modality-Specific Factors", ACL 2018.

    Args:
        vectors: each `(*lead, D_i)`.
        factors: for each vector `(R, D_i + 1, K)`; the last row belongs to the 1.
    """
    padded = (F.pad(vector, (0, 1), value=1.0) for vector in vectors)
    return low_rank_fusion(
        *(torch.einsum("...d,rdk->...rk", *pair) for pair in zip(padded, factors, strict=True))  # (*lead, R, K) each
    )
