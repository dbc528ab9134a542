"""The cores of visual question answering, a file a model, and the one list of them."""

from typing import Any

from regard.errors import UserError, nearest
from regard.models.vqa.core import Core
from regard.models.vqa.cores.baselines import Concatenation, Flattened, ImageOnly, Product, QuestionOnly
from regard.models.vqa.cores.bilinear_attention import BilinearAttentionNetwork
from regard.models.vqa.cores.block import Block
from regard.models.vqa.cores.compact import Compact
from regard.models.vqa.cores.dual import DualAttention
from regard.models.vqa.cores.entity_stream import EntityStream, HardEntityStream
from regard.models.vqa.cores.factorized import Factorized, HighOrder
from regard.models.vqa.cores.find_then_move import FindThenMove
from regard.models.vqa.cores.guided import (
    Alternating,
    ImageChannel,
    ImageGuided,
    QuestionChannel,
    QuestionChannelSpatial,
    QuestionHard,
    QuestionSpatial,
)
from regard.models.vqa.cores.hierarchical import HierarchicalCoAttention
from regard.models.vqa.cores.latents import CrossAttention, Perceiver, Queries
from regard.models.vqa.cores.low_rank import LowRank
from regard.models.vqa.cores.mac import Mac
from regard.models.vqa.cores.modular import ModularCoAttention
from regard.models.vqa.cores.modulated import Modulated
from regard.models.vqa.cores.reader import Reader
from regard.models.vqa.cores.relation import RelationNetwork
from regard.models.vqa.cores.show_ask import ShowAskAttendAnswer
from regard.models.vqa.cores.stacked import StackedAttention
from regard.models.vqa.cores.top_down import TopDown, TopDownProduct
from regard.models.vqa.cores.tucker import Mutan, Tucker

cores: dict[str, type[Core]] = {
    core.name: core
    for core in (
        QuestionOnly,
        ImageOnly,
        Concatenation,
        Flattened,
        Product,
        Reader,
        FindThenMove,
        QuestionSpatial,
        QuestionChannel,
        QuestionChannelSpatial,
        QuestionHard,
        ImageChannel,
        ImageGuided,
        Alternating,
        HierarchicalCoAttention,
        DualAttention,
        StackedAttention,
        ShowAskAttendAnswer,
        TopDown,
        TopDownProduct,
        LowRank,
        Mutan,
        Tucker,
        Compact,
        Factorized,
        HighOrder,
        Block,
        BilinearAttentionNetwork,
        ModularCoAttention,
        RelationNetwork,
        Modulated,
        Mac,
        EntityStream,
        HardEntityStream,
        CrossAttention,
        Perceiver,
        Queries,
    )
}
"""Every core by its short name; each takes the widths of a picture's token and of a word first."""


# `Any`: the arguments are those of the core, which checks them itself; a wrong one is its TypeError.
def create(name: str, sight_width: int, words_width: int, **arguments: Any) -> Core:
    """Build the core of that name.

    >>> create("mcan", sight_width=2048, words_width=512, layers=4)

    Raises:
        UserError: there is none of that name.
    """
    if name not in cores:
        raise UserError(f"unknown model {name!r}: {nearest(name, cores)}")
    return cores[name](sight_width, words_width, **arguments)
