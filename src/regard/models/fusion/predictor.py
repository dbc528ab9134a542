"""What a trained fusion of a table's columns can do."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from regard.errors import UserError
from regard.models.fusion.cells import TABULAR, Cells, values_of
from regard.models.fusion.columns import columns_of, folder_of
from regard.models.fusion.contract import Fusion
from regard.models.fusion.encoders import Encoder, encoders
from regard.models.fusion.model import FusionModel, collate
from regard.models.fusion.robustness import LEVELS, Robustness, curves
from regard.models.fusion.table import fusions
from regard.models.fusion.training import History, in_batches

FORMAT = 1
"""Of the files that `Predictor.save` writes."""

Change = Callable[[str, int, Tensor], Tensor | None]
"""What happens to a cell before it is predicted from, by modality and row; None drops it."""


class Predictor:
    """A trained fusion of the columns of a table. `fit` makes one, `Predictor.load` takes up one that was saved.

    Attributes:
        model: the network, for whoever wants to watch or to place attention.
        target: the column that is predicted.
        classes: what can be predicted, in the order of the probabilities.
        kinds: for each column that is used what it holds.
        history: how training went.
    """

    def __init__(
        self,
        model: FusionModel,
        target: str,
        classes: Sequence[Any],
        kinds: Mapping[str, str],
        fusion_options: Mapping[str, Any],
        history: History,
        device: torch.device,
        batch: int = 64,
    ) -> None:
        self.model = model.to(device).eval()
        self.target = target
        self.classes = list(classes)
        self.kinds = dict(kinds)
        self.fusion_options = dict(fusion_options)
        self.history = history
        self.device = device
        self.batch = batch

    @property
    def modalities(self) -> list[str]:
        """The columns of texts, pictures, sounds and videos, and `tabular` for all numbers and categories together."""
        return list(self.model.names)

    def predict(
        self, table: Any, *, folder: str | Path | None = None, without: Sequence[str] = (), skip_bad: bool = False
    ) -> list[Any]:
        """The most probable class of every row.

        Args:
            table: as for `fit`; it needs no target.
            folder: where relative paths begin; default the folder of a CSV file, else the current one.
            without: columns or modalities that are to be missing everywhere; they need not be in the table.
            skip_bad: whether what cannot be read counts as missing, instead of being an error.
        """
        best = self._logits(table, folder, without, skip_bad).argmax(1)
        return [self.classes[index] for index in best.tolist()]

    def predict_proba(
        self, table: Any, *, folder: str | Path | None = None, without: Sequence[str] = (), skip_bad: bool = False
    ) -> Float[np.ndarray, "rows classes"]:
        """Every row's probability of each of `classes`; arguments as of `predict`."""
        return self._logits(table, folder, without, skip_bad).softmax(1).numpy()

    def evaluate(
        self, table: Any, *, folder: str | Path | None = None, without: Sequence[str] = (), skip_bad: bool = False
    ) -> dict[str, float]:
        """How well the rows' classes are predicted; arguments as of `predict`.

        Gives the `accuracy`, the `loss` (mean negative log-likelihood), how many `rows` there are, and what the
        `most_common` class alone would have had.
        """
        target = self._target(table)
        logits = self._logits(table, folder, without, skip_bad)
        return {
            "accuracy": float((logits.argmax(1) == target).float().mean()),
            "loss": float(F.cross_entropy(logits, target)),
            "rows": len(target),
            "most_common": float(target.bincount().max() / len(target)),
        }

    def robustness(
        self,
        table: Any,
        *,
        folder: str | Path | None = None,
        levels: Sequence[float] = LEVELS,
        seed: int = 0,
        skip_bad: bool = False,
    ) -> Robustness:
        """The accuracy as each modality, alone, is dropped from more and more rows, or made noisier and noisier.

        Args:
            table, folder, skip_bad: as of `evaluate`.
            levels: shares of rows from which it is dropped, and amounts of noise; 0 is as it is, 1 is nothing of it.
            seed: which rows, and which noise; rows that are dropped at one level are at every higher one.
        """
        target = self._target(table)
        cells = self._cells(table, folder, (), skip_bad)

        def accuracy(change: Change) -> float:
            return float((self._run(cells, len(target), change).argmax(1) == target).float().mean())

        most_common = float(target.bincount().max() / len(target))
        readers = dict(zip(self.model.names, self.encoders, strict=True))
        return curves(readers, accuracy, len(target), most_common, levels, seed)

    def save(self, folder: str | Path) -> Path:
        """Write `predictor.json` and `weights.safetensors` into a folder, which `load` reads."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        fusion = self.model.fusion
        about = {
            "format": FORMAT,
            "target": self.target,
            "classes": self.classes,
            "kinds": self.kinds,
            "fusion": {"name": fusion.name, "width": fusion.width, "options": self.fusion_options},
            "encoders": {
                name: {"kind": encoder.kind, "settings": encoder.settings}
                for name, encoder in zip(self.model.names, self.encoders, strict=True)
            },
            "history": asdict(self.history),
        }
        weights = {name: value.detach().cpu().contiguous().clone() for name, value in self.model.state_dict().items()}
        save_file(weights, folder / "weights.safetensors")
        (folder / "predictor.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return folder

    @classmethod
    def load(cls, folder: str | Path, device: str | None = None) -> "Predictor":
        """Take up what `save` wrote.

        Raises:
            UserError: it is not there, or was written by something else.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(folder)
        try:
            about = json.loads((folder / "predictor.json").read_text(encoding="utf-8"))
            if about["format"] != FORMAT:
                raise UserError(
                    f"{folder} is of format {about['format']}, expected {FORMAT}: load it with the regard it is of"
                )
            readers = {name: encoders[each["kind"]](**each["settings"]) for name, each in about["encoders"].items()}
            fusion = about["fusion"]
            model = FusionModel(
                readers, build(fusion["name"], readers, len(about["classes"]), fusion["width"], fusion["options"])
            )
            model.load_state_dict(load_file(folder / "weights.safetensors"))
            history = History(**about["history"])
        except UserError:
            raise
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            raise UserError(
                f"{folder} cannot be read ({error}): give a folder that Predictor.save has written"
            ) from error
        return cls(model, about["target"], about["classes"], about["kinds"], fusion["options"], history, on(device))

    @property
    def encoders(self) -> list[Encoder]:
        """One for each of `modalities`."""
        return list(self.model.encoders)  # pyright: ignore[reportReturnType]

    def _target(self, table: Any) -> Tensor:
        columns = columns_of(table)
        if self.target not in columns:
            raise UserError(f"there is no column {self.target!r} to compare with: the table has {', '.join(columns)}")
        numbers = {label: index for index, label in enumerate(self.classes)}
        for row, label in enumerate(columns[self.target]):
            if label not in numbers:
                raise UserError(
                    f"row {row} (counted from 0), column {self.target!r}: {label!r} is none of the classes that were "
                    f"trained ({', '.join(map(repr, self.classes[:20]))}): leave out such rows"
                )
        if not columns[self.target]:
            raise UserError("the table has no row: give at least one")
        return torch.tensor([numbers[label] for label in columns[self.target]])

    def _cells(self, table: Any, folder: str | Path | None, without: Sequence[str], skip_bad: bool) -> dict[str, Cells]:
        columns = columns_of(table)
        count = len(next(iter(columns.values()), []))
        if strange := [name for name in without if name not in self.kinds and name not in self.modalities]:
            raise UserError(f"without={strange}: choose among {', '.join([*self.kinds, *self.modalities])}")
        for name, kind in self.kinds.items():
            gone = name in without or (TABULAR in without and kind in ("number", "category"))
            if name not in columns and not gone:
                raise UserError(
                    f"there is no column {name!r}, from which this predictor reads: add it, or say without=[{name!r}]"
                )
            if gone:
                columns[name] = [None] * count
        values = values_of(columns, self.kinds, folder_of(table, folder))
        memory = [2 << 30]
        cells = {
            name: Cells(name, encoder, values[name], memory)
            for name, encoder in zip(self.model.names, self.encoders, strict=True)
        }
        if skip_bad:
            for each in cells.values():
                each.values = list(each.values)
                for bad in each.bad():
                    each.values[bad.row] = None
        return cells

    def _logits(self, table: Any, folder: str | Path | None, without: Sequence[str], skip_bad: bool) -> Tensor:
        cells = self._cells(table, folder, without, skip_bad)
        return self._run(cells, len(next(iter(cells.values())).values), lambda name, row, cell: cell)

    @torch.no_grad()
    def _run(self, cells: Mapping[str, Cells], count: int, change: Change) -> Float[Tensor, "rows classes"]:
        readers = dict(zip(self.model.names, self.encoders, strict=True))
        found = [torch.zeros(0, len(self.classes))]
        self.model.eval()
        for rows in in_batches(range(count), self.batch):
            raw = [
                {
                    name: None if (cell := column[row]) is None else change(name, row, cell)
                    for name, column in cells.items()
                }
                for row in rows
            ]
            found.append(self.model(collate(readers, raw, None).to(self.device)).cpu())
        return torch.cat(found)


def build(name: str, readers: Mapping[str, Encoder], classes: int, width: int, options: Mapping[str, Any]) -> Fusion:
    """The fusion of that name over the tokens of these encoders."""
    return fusions[name]({modality: reader.width for modality, reader in readers.items()}, classes, width, **options)


def on(device: str | None) -> torch.device:
    """The device asked for, or a GPU if there is one."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
