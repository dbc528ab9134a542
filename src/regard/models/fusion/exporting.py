"""A fitted fusion as a program that runs without regard."""

import io
import warnings
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import files
from regard.errors import UserError, in_one_line
from regard.formatting import number
from regard.models.fusion.encoders import Encoder
from regard.models.fusion.model import Batch, FusionModel
from regard.running import undisturbed

TOLERANCE = 1e-4
"""By which an output of the program may differ."""

Inputs = dict[str, tuple[Tensor, ...]]
Present = dict[str, Tensor]


class Program(nn.Module):
    """Encoders and fusion over tensors of all rows, where what a row lacks is filled with anything.

    Args:
        model: the network.
    """

    def __init__(self, model: FusionModel) -> None:
        super().__init__()
        self.names, self.encoders, self.fusion = model.names, model.encoders, model.fusion

    def forward(
        self, inputs: Mapping[str, tuple[Tensor, ...]], present: Mapping[str, Bool[Tensor, " B"]]
    ) -> Float[Tensor, "B K"]:
        read = {
            name: encoder(*inputs[name])  # pyright: ignore[reportCallIssue]
            for name, encoder in zip(self.names, self.encoders, strict=True)
        }
        tokens = {name: found for name, (found, _) in read.items()}
        return self.fusion(tokens, {name: mask for name, (_, mask) in read.items()}, present)


def whole(batch: Batch, readers: Mapping[str, Encoder]) -> tuple[Inputs, Present]:
    """A batch as tensors of all its rows: what a row lacks is filled with the first that there is.

    Raises:
        UserError: no row has a modality.
    """
    if absent := [name for name in readers if name not in batch.inputs]:
        raise UserError(f"no row has {', '.join(absent)}: give a table in which every modality is there at least once")
    inputs, present = {}, {}
    for name, reader in readers.items():
        there = torch.zeros(batch.size, dtype=torch.bool).index_fill(0, batch.rows[name], True)
        at = torch.where(there, there.cumsum(0) - 1, 0)
        inputs[name], present[name] = tuple(part[at] for part in reader.filled(batch.inputs[name])), there
    return inputs, present


def export(model: FusionModel, path: Path, inputs: Inputs, present: Present) -> None:
    """Write the model as a program of `torch.export`, which takes any number of rows, and compare it with the model.

    Raises:
        UserError: the file's name does not end in `.pt2`, there are less than three rows, the model cannot be exported,
            or the program says something else than the model.
    """
    if path.suffix != ".pt2":
        raise UserError(f"{path} is of no kind that is known: end its name in .pt2")
    rows = len(next(iter(present.values())))
    if rows < 3:
        raise UserError(f"{rows} rows are too few to see that any number of them will do: give at least 3")
    # A copy: the exporter writes attributes into recurrent layers, and the inputs are on the CPU, as any reader's are.
    program = Program(deepcopy(model).cpu()).eval()
    batch = torch.export.Dim("rows")
    shapes = (
        {name: tuple({0: batch} for _ in parts) for name, parts in inputs.items()},
        {name: {0: batch} for name in present},
    )
    buffer = io.BytesIO()
    with undisturbed(program), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own parts
        try:
            torch.export.save(torch.export.export(program, (inputs, present), dynamic_shapes=shapes), buffer)
            buffer.seek(0)
            again = torch.export.load(buffer).module()
        except Exception as error:  # whatever the exporter stumbles over
            raise UserError(
                f"fusion {model.fusion.name!r} cannot be exported ({in_one_line(error)[:400]}): choose another fusion, "
                "or another encoder"
            ) from error
        for some in (rows, rows - 1):  # as many as it was made with, and others
            given = {name: tuple(part[:some] for part in parts) for name, parts in inputs.items()}
            there = {name: part[:some] for name, part in present.items()}
            expected = program(given, there)
            off = float((again(given, there) - expected).abs().max())
            if not off <= TOLERANCE * max(1.0, float(expected.abs().max())):
                raise UserError(f"the exported program is off by {number(off, 2)} from the model: it was not written")
    files.write(path, lambda partial: partial.write_bytes(buffer.getvalue()))
