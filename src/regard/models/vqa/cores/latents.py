"""Readers made of multi-head attention: straight from the picture, or from a few vectors that stand for it."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard.attention import MultiHeadCrossAttention, PerceiverResampler, QueryFormer
from regard.attention.contract import Paper
from regard.models.blocks import Block, ReadBlocks
from regard.models.vqa.core import Core, Loss
from regard.models.vqa.layers import brought
from regard.models.vqa.sight import Sight
from regard.models.vqa.words import Words


def heads_read(
    width: int, heads: int, blocks: int, expansion: int, dropout: float = 0.0, sharpness: float = 1.0
) -> ReadBlocks:
    """Blocks that read by multi-head attention, from a memory as wide as the queries."""
    reads = [MultiHeadCrossAttention(width, width, heads=heads) for _ in range(blocks)]
    with torch.no_grad():
        for read in reads:
            read.query.weight *= sharpness
            read.key.weight *= sharpness
    return ReadBlocks(reads, width, width, expansion=expansion, dropout=dropout)


class CrossAttention(Core):
    """Questions as queries of a transformer's decoder: tokens read each other, then every question reads them.

        v <- v + heads(norm(v), norm(v)), v <- v + mlp(norm(v))        in each of the blocks that mix
        q <- q + heads(norm(q), norm(v)), q <- q + mlp(norm(q))        in each of the question's
        z  = norm(q)

    The picture's part is computed once for all questions, which do not see each other. Where a cell lies, `GridEncoder`
    tells with its `positions`.

    Paper: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, with the normalisations in front.

    Args:
        sight_width: width of a picture's token; where it is not `width`, a linear layer brings it there.
        words_width: width of the questions; likewise.
        width: of both; default 128.
        blocks: how often a question reads; default 4.
        mixing: how often the tokens read each other before; default 0.
        heads: default 4.
        expansion: of the hidden layers; default 2.
        dropout: of what is added to a residual; default 0.
        sharpness: how many times PyTorch's usual size the weights of queries and keys begin with; default 2. At 1 a
            question begins by reading nearly the mean of all cells, and can stay there: with `mixing=1` on
            sort-of-CLEVR, all questions at once, one object was found in the third epoch with 2, and not within five
            epochs with 1 or 3.5.
    """

    name: ClassVar[str] = "cross_attention"
    paper: ClassVar[Paper] = MultiHeadCrossAttention.paper
    loss: ClassVar[Loss] = "consensus"

    def __init__(
        self,
        sight_width: int,
        words_width: int,
        width: int = 128,
        blocks: int = 4,
        mixing: int = 0,
        heads: int = 4,
        expansion: int = 2,
        dropout: float = 0.0,
        sharpness: float = 2.0,
    ) -> None:
        super().__init__()
        self.sight = brought(sight_width, width)
        self.words = brought(words_width, width)
        self.mixing = nn.ModuleList(Block(width, heads, expansion, dropout) for _ in range(mixing))
        self.read = heads_read(width, heads, blocks, expansion, dropout, sharpness)
        self.joint_width = width

    def forward(self, sight: Sight, words: Words) -> Float[Tensor, "B Q J"]:
        tokens = self.sight(sight.tokens)
        with sight.looking():
            for block in self.mixing:
                tokens = block(tokens, sight.mask)
            return self.read(self.words(words.summary), tokens, sight.mask)


class Perceiver(Core):
    """Latents that read the picture once for all of its questions; every question reads the latents.

        x = resample(W v)                                               a picture, whatever is asked
        q <- q + heads(norm(q), norm(x)), q <- q + mlp(norm(q))         in each of the question's blocks
        z = norm(q)

    What a question costs does not depend on the picture's size.

    Paper: Alayrac et al., "Flamingo: a Visual Language Model for Few-Shot Learning", NeurIPS 2022, after Jaegle et al.,
    "Perceiver", ICML 2021; its language model is one question vector here.

    Args:
        sight_width: width of a picture's token.
        words_width: width of the questions.
        width: of latents and questions; default 256.
        latents: how many; default 64, the paper's.
        layers: how often the latents read; default 6, the paper's.
        blocks: how often a question reads; default 2.
        heads: default 8.
        expansion: of the hidden layers; default 4, the paper's.
    """

    name: ClassVar[str] = "perceiver"
    paper: ClassVar[Paper] = PerceiverResampler.paper
    loss: ClassVar[Loss] = "consensus"

    def __init__(
        self,
        sight_width: int,
        words_width: int,
        width: int = 256,
        latents: int = 64,
        layers: int = 6,
        blocks: int = 2,
        heads: int = 8,
        expansion: int = 4,
    ) -> None:
        super().__init__()
        self.sight = brought(sight_width, width)
        self.words = brought(words_width, width)
        self.resample = self.reader(width, latents, layers, heads, expansion)
        self.read = heads_read(width, heads, blocks, expansion)
        self.joint_width = width

    def reader(self, width: int, latents: int, layers: int, heads: int, expansion: int) -> nn.Module:
        """What makes so many vectors of a picture of any size."""
        return PerceiverResampler(width, latents, layers, heads=heads, expansion=expansion)

    def forward(self, sight: Sight, words: Words) -> Float[Tensor, "B Q J"]:
        with sight.looking():
            latents = self.resample(self.sight(sight.tokens), sight.mask)
        return self.read(self.words(words.summary), latents)


class Queries(Perceiver):
    """Learned queries that read the picture as those of the Q-Former do; every question reads them: `Perceiver` else.

    Paper: Li, Li, Savarese, Hoi, "BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image Encoders and
    Large Language Models", ICML 2023; its language model is one question vector here.

    Args:
        sight_width, words_width, width, blocks, heads, expansion: as of `Perceiver`.
        latents: how many queries; default 32, the paper's.
        layers: how many layers, of which every second one reads the picture; default 12, the paper's.
    """

    name: ClassVar[str] = "query_former"
    paper: ClassVar[Paper] = QueryFormer.paper

    def __init__(
        self,
        sight_width: int,
        words_width: int,
        width: int = 256,
        latents: int = 32,
        layers: int = 12,
        blocks: int = 2,
        heads: int = 8,
        expansion: int = 4,
    ) -> None:
        super().__init__(sight_width, words_width, width, latents, layers, blocks, heads, expansion)

    def reader(self, width: int, latents: int, layers: int, heads: int, expansion: int) -> nn.Module:
        return QueryFormer(width, latents, layers, heads=heads, expansion=expansion)
