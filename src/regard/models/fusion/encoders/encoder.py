"""What an encoder of a column is: from a cell of a table to a tensor, and from a batch of these to tokens."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

UNKNOWN_SHARE = 0.02
"""Share of words and categories that are taken for unknown in training, so that the unknown one's vector is learned."""


class Encoder(nn.Module):
    """Cells of one kind → tokens.

    All that it knows of the data, a vocabulary or statistics, it has from `learn` and `adapt`, which see the training
    part alone, and gives as `settings`, from which `type(encoder)(**encoder.settings)` builds it again.

    Class attributes:
        kind: the key in `regard.models.fusion.encoders.encoders`.

    Attributes:
        width: width `W` of its tokens.
        settings: the arguments to build it again, as JSON can hold them.
    """

    kind: ClassVar[str]
    width: int

    @classmethod
    @abstractmethod
    def learn(cls, values: Sequence[Any], width: int, **options: Any) -> "Encoder":
        """An encoder for such cells; `values` are those of the training part that are not missing."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]: ...

    @abstractmethod
    def read(self, value: Any) -> Tensor:
        """One cell that is not missing, as a small tensor that can be kept.

        Raises:
            Exception: whatever is wrong with it; its message is shown with the column and the row.
        """

    def adapt(self, cells: Iterable[Tensor]) -> None:
        """Take statistics from what `read` gave for the training part; called once."""

    @abstractmethod
    def batch(self, cells: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The arguments of `forward` from what `read` gave."""

    @abstractmethod
    def parts(self, cell: Tensor, count: int) -> list[str]:
        """What to call each of the `count` tokens of a cell."""

    @abstractmethod
    def noisy(self, cell: Tensor, level: float, generator: torch.Generator) -> Tensor:
        """The cell with so much noise in it: at 0 as it is, at 1 nothing of it is left."""

    def filled(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The arguments of `forward` at a size that all batches share, for a program that takes no other."""
        return inputs

    @abstractmethod
    def forward(self, *inputs: Tensor) -> tuple[Float[Tensor, "B N W"], Bool[Tensor, "B N"]]:
        """Tokens, and which of them take part."""
