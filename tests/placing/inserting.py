"""What tests ask of inserted attention."""

from torch import nn

from regard.placing import Placed, inserted
from regard.placing.placed import SCALE


def attention_of(model: nn.Module) -> list[Placed]:
    """The inserted attention of a model, in the order of its modules."""
    return list(inserted(model).values())


def is_inserted(name: str) -> bool:
    """Whether a parameter or module of this name belongs to inserted attention."""
    return "regard" in name.split(".")


def strengthen(model: nn.Module, strength: float) -> None:
    """Give the attention of every place that has a strength this one."""
    for placed in attention_of(model):
        if placed.raw_strength is not None:
            nn.init.constant_(placed.raw_strength, strength / SCALE)
