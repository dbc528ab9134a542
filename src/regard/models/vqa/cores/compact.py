"""Compact bilinear pooling, MCB."""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention import CompactBilinearRead
from regard.attention.contract import Paper
from regard.models.vqa.core import Loss
from regard.models.vqa.cores.bilinear import AttendAndFuse


class CompactFusion(nn.Module):
    """`z = r / |r|` with `r = sign(s) √|s|`, `s` the count sketch of `q ⊗ v`; nothing in it is learned."""

    query_bins: Int[Tensor, " Dq"]
    query_signs: Float[Tensor, " Dq"]
    sight_bins: Int[Tensor, " Dv"]
    sight_signs: Float[Tensor, " Dv"]

    def __init__(self, query_width: int, sight_width: int, sketch_width: int) -> None:
        super().__init__()
        self.sketch_width = sketch_width
        for name, width in (("query", query_width), ("sight", sight_width)):
            self.register_buffer(f"{name}_bins", torch.randint(sketch_width, (width,)))
            self.register_buffer(f"{name}_signs", 2.0 * torch.randint(2, (width,)) - 1)

    def forward(self, question: Float[Tensor, "B Q Dq"], seen: Float[Tensor, "B Q Dv"]) -> Float[Tensor, "B Q K"]:
        q = functional.count_sketch(question, self.query_bins, self.query_signs, self.sketch_width)
        v = functional.count_sketch(seen, self.sight_bins, self.sight_signs, self.sketch_width)
        fused = functional.compact_bilinear(q, v)  # (B, Q, K)
        return F.normalize(functional.signed_root(fused), dim=2, eps=1e-6).to(question.dtype)


class Compact(AttendAndFuse):
    """Multimodal compact bilinear pooling, MCB, in its attention and behind it.

        z = l2(√±(sketch(q ⊗ v)))        with v as `CompactBilinearRead` reads it

    Paper: Fukui, Park, Yang, Rohrbach, Darrell, Rohrbach, "Multimodal Compact Bilinear Pooling for Visual Question
    Answering and Visual Grounding", EMNLP 2016. Its question is 2048 wide, its picture 14 by 14 cells of 2048 at
    length one; every score keeps a vector of the sketch's width for every cell.

    Args:
        sight_width: width of a picture's token.
        words_width: width of the questions.
        sketch_width: width of the sketches; default 16000, the paper's.
        hidden_width: of the attention's scoring network; default 512.
        glimpses: default 1: the paper found no gain in more.
    """

    name: ClassVar[str] = "mcb"
    paper: ClassVar[Paper] = CompactBilinearRead.paper
    loss: ClassVar[Loss] = "sampled"

    def __init__(
        self,
        sight_width: int,
        words_width: int,
        sketch_width: int = 16000,
        hidden_width: int = 512,
        glimpses: int = 1,
    ) -> None:
        read = CompactBilinearRead(words_width, sight_width, sketch_width, hidden_width, glimpses)
        fuse = CompactFusion(words_width, read.context_width, sketch_width)
        super().__init__(read, fuse, sketch_width, normalize=True)
