"""Any `Read` of the library as a core: what its mechanisms are compared by."""

from collections.abc import Mapping
from inspect import signature
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from regard.attention import Read, mechanisms
from regard.attention.contract import Paper
from regard.errors import UserError
from regard.models.vqa.core import Core, Loss
from regard.models.vqa.sight import Sight
from regard.models.vqa.words import Words


class Reader(Core):
    """One mechanism of the library between question and picture: `z = [read(q; v); q]`.

    Paper: that of the mechanism; of the frame around it, Bahdanau et al., ICLR 2015.

    Args:
        sight_width: width of a picture's token.
        words_width: width of the questions.
        read: short name of a `Read` that a query guides, such as `"additive"` or `"multi_head_cross"`;
            `regard.catalog()` lists them.
        arguments: its own arguments behind the widths of query and memory.

    Raises:
        UserError: there is no such `Read`, or no query guides it.
    """

    name: ClassVar[str] = "reader"
    paper: ClassVar[Paper] = mechanisms["additive"].paper
    loss: ClassVar[Loss] = "consensus"

    def __init__(
        self,
        sight_width: int,
        words_width: int,
        read: str = "additive",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        guided = {name: kind for name, kind in mechanisms.items() if issubclass(kind, Read) and _takes_a_query(kind)}
        if read not in guided:
            raise UserError(f"no question can guide {read!r}: choose a Read among {', '.join(sorted(guided))}")
        # `Any`: which arguments a mechanism takes depends on its name; a wrong one is its TypeError.
        build: Any = guided[read]
        self.read: Read = build(words_width, sight_width, **(arguments or {}))
        self.joint_width = self.read.context_width + words_width

    def forward(self, sight: Sight, words: Words) -> Float[Tensor, "B Q J"]:
        # Every question by itself: some mechanisms let their queries see each other.
        each = sight.repeated(words.summary.shape[1])
        with sight.looking():
            seen = self.read(words.summary.flatten(0, 1)[:, None], each.tokens, each.mask)  # (B·Q, 1, _)
        return torch.cat((words.apart(seen[:, 0]), words.summary), 2)


def _takes_a_query(kind: type[Read]) -> bool:
    return next(iter(signature(kind).parameters)) == "query_width"
