"""What a trained fusion of a table's columns can do."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from regard import files
from regard.errors import UserError
from regard.models.fusion.cells import TABULAR, Cells, values_of, wrong
from regard.models.fusion.columns import columns_of, folder_of
from regard.models.fusion.contract import Fusion
from regard.models.fusion.encoders import Encoder, encoders
from regard.models.fusion.explaining import Explanation, explain
from regard.models.fusion.exporting import Inputs, Present, export, whole
from regard.models.fusion.model import FusionModel, collate
from regard.models.fusion.outcome import Classes, Outcome, outcome_from_json
from regard.models.fusion.robustness import LEVELS, Robustness, curves
from regard.models.fusion.table import fusions
from regard.models.fusion.training import History, in_batches
from regard.watching.ablation import KINDS, ablations, attends

FORMAT = 3
"""Of the files that `Predictor.save` writes."""

Change = Callable[[str, int, Tensor], Tensor | None]
"""What happens to a cell before it is predicted from, by modality and row; None drops it."""


class Predictor:
    """A trained fusion of the columns of a table. `fit` makes one, `Predictor.load` takes up one that was saved.

    Attributes:
        model: the network, for whoever wants to watch or to place attention.
        target: the column that is predicted.
        kinds: for each column that is used what it holds.
        history: how training went.
    """

    def __init__(
        self,
        model: FusionModel,
        target: str,
        kinds: Mapping[str, str],
        fusion_options: Mapping[str, Any],
        history: History,
        device: torch.device,
        batch: int = 64,
    ) -> None:
        self.model = model.to(device).eval()
        self.target = target
        self.kinds = dict(kinds)
        self.fusion_options = dict(fusion_options)
        self.history = history
        self.device = device
        self.batch = batch

    @property
    def outcome(self) -> Outcome:
        """What is predicted: `Classes`, whose `labels` are in the order of the probabilities, or a `Number`."""
        return self.model.fusion.outcome

    @property
    def modalities(self) -> list[str]:
        """The columns of texts, pictures, sounds and videos, and `tabular` for all numbers and categories together."""
        return list(self.model.names)

    def predict(
        self, table: Any, *, folder: str | Path | None = None, without: Sequence[str] = (), skip_bad: bool = False
    ) -> list[Any]:
        """The most probable class, or the number, of every row.

        Args:
            table: as for `fit`; it needs no target.
            folder: where relative paths begin; default the folder of the table's file, else the current one.
            without: columns or modalities that are to be missing everywhere; they need not be in the table.
            skip_bad: whether what cannot be read counts as missing, instead of being an error.
        """
        return self.outcome.decode(self._outputs(table, folder, without, skip_bad))

    def predict_proba(
        self, table: Any, *, folder: str | Path | None = None, without: Sequence[str] = (), skip_bad: bool = False
    ) -> Float[np.ndarray, "rows classes"]:
        """Every row's probability of each class; arguments as of `predict`.

        Raises:
            UserError: it is no class that is predicted.
        """
        if not isinstance(self.outcome, Classes):
            raise UserError(f"{self.target!r} is predicted as a number, which has no probability: use predict")
        return self._outputs(table, folder, without, skip_bad).softmax(1).numpy()

    def evaluate(
        self, table: Any, *, folder: str | Path | None = None, without: Sequence[str] = (), skip_bad: bool = False
    ) -> dict[str, Any]:
        """How well the rows are predicted; arguments as of `predict`. What `skip_bad` takes for missing is printed.

        Of classes the `accuracy` with its 95 % `interval`, the `loss` (mean negative log-likelihood), how many `rows`
        there are, and the accuracy of saying the `most_common` class alone. Of numbers `r_squared` with its `interval`,
        the `mean_absolute_error` with its `error_interval`, the `rows`, and `mean_alone`, the mean absolute error of
        always saying the mean of what was trained on.
        """
        return self.evaluate_each(table, [without], folder=folder, skip_bad=skip_bad)[0]

    def evaluate_each(
        self,
        table: Any,
        withouts: Sequence[Sequence[str]],
        *,
        folder: str | Path | None = None,
        skip_bad: bool = False,
        say: Callable[[str], object] = print,
    ) -> list[dict[str, Any]]:
        """What `evaluate` says without each of these lists of columns or modalities; every file is read once.

        Args:
            table, folder, skip_bad: as of `predict`.
            withouts: the lists.
            say: is given a line for each modality of which something cannot be read and counts as missing.
        """
        folder, table = folder_of(table, folder), columns_of(table)
        target, read, once = self._target(table), {}, cache(say)
        for without in withouts:  # before any of them is measured, which may take long
            self.blanked(table, without)
        return [
            self.outcome.report(self._outputs(table, folder, without, skip_bad, read, once), target)
            for without in withouts
        ]

    def ablate(
        self, table: Any, *, folder: str | Path | None = None, skip_bad: bool = False, seed: int = 0
    ) -> dict[str, dict[str, Any] | None]:
        """How well the rows are predicted with the attention of the fusion ablated, see `regard.watching.ablation`.

        Args:
            table, folder, skip_bad: as of `evaluate`.
            seed: of the order of the rows, and of the other row whose weights each is given.

        Returns:
            By ablation (`removed`, `mean`, `resampled`) the score, its difference to that of the whole predictor with
            an interval, and how much the predictions change; None where it is not possible.
        """
        found: dict[str, dict[str, Any] | None] = dict.fromkeys(KINDS)
        fusion = self.model.fusion
        if not attends(fusion):
            return found
        target, cells = self._target(table), self._cells(table, folder, (), skip_bad)
        order = torch.randperm(len(target), generator=torch.Generator().manual_seed(seed)).tolist()
        parts = [part.tolist() for part in np.array_split(order, max(1, -(-len(order) // self.batch)))]

        def predict(rows: list[int]) -> Tensor:
            raw = [{name: column[row] for name, column in cells.items()} for row in rows]
            return self.model(collate(self._readers, raw, None).to(self.device))

        self.model.eval()
        said = ablations(fusion, parts, predict, items=lambda rows: torch.arange(len(rows)), seed=seed)
        for kind in KINDS:
            other: Tensor | None = getattr(said, kind)
            if other is not None:
                found[kind] = self.outcome.change(said.full, other, target[order])
        return found

    def blanked(self, columns: Mapping[str, list[Any]], without: Sequence[str]) -> dict[str, list[Any]]:
        """The columns of a table, with some missing in every row, whether they were there or not.

        Args:
            columns: as `columns_of` gives them.
            without: columns or modalities that are to be missing.

        Raises:
            UserError: there is no such column or modality, or another that is read from is not in the table.
        """
        columns = dict(columns)
        count = len(next(iter(columns.values()), []))
        known = dict.fromkeys([*self.kinds, *self.modalities])
        if strange := [name for name in without if name not in known]:
            raise UserError(f"without={strange}: choose among {', '.join(known)}")
        for name, kind in self.kinds.items():
            if name in without or (TABULAR in without and kind in ("number", "category")):
                columns[name] = [None] * count
            elif name not in columns:
                raise UserError(
                    f"there is no column {name!r}, from which this predictor reads: add it, or say without=[{name!r}]"
                )
        return columns

    def robustness(
        self,
        table: Any,
        *,
        folder: str | Path | None = None,
        levels: Sequence[float] = LEVELS,
        seed: int = 0,
        skip_bad: bool = False,
    ) -> Robustness:
        """The score as each modality, alone, is dropped from more and more rows, or made noisier and noisier.

        Args:
            table, folder, skip_bad: as of `evaluate`.
            levels: shares of rows from which it is dropped, and amounts of noise; 0 is as it is, 1 is nothing of it.
            seed: which rows, and which noise; rows that are dropped at one level are at every higher one.
        """
        target = self._target(table)
        cells = self._cells(table, folder, (), skip_bad)

        def score(change: Change) -> float:
            return self.outcome.score(self._run(cells, len(target), change), target)

        points = curves(self._readers, score, len(target), levels, seed)
        outcome = self.outcome
        return Robustness(points, len(target), outcome.measure, outcome.baseline, outcome.known(target))

    def explain(self, table: Any, row: int = 0, *, folder: str | Path | None = None) -> Explanation:
        """What the prediction for one row rests on: which modalities, which words, places or columns, which attention.

        Modalities and parts are left out one at a time, which any fusion can do without; attention is watched.

        Args:
            table, folder: as of `predict`.
            row: counted from 0.

        Raises:
            UserError: there is no such row, nothing of it is there, or it cannot be read.
        """
        columns = columns_of(table)
        count = len(next(iter(columns.values()), []))
        if not 0 <= row < count:
            raise UserError(f"row {row} (counted from 0) is not in the table, which has {count}")
        alone = {name: [values[row]] for name, values in columns.items()}
        cells = self._cells(alone, folder_of(table, folder), (), False)
        raw = {name: column[0] for name, column in cells.items()}
        there = {name: cell for name, cell in raw.items() if cell is not None}
        if not there:
            raise UserError(f"row {row} (counted from 0) has nothing in any column: there is nothing to explain")
        self.model.eval()
        with torch.no_grad():
            example = self.model.encode(collate(self._readers, [raw], None).to(self.device))
        return explain(self.model, self.encoders, there, example)

    def tensors(
        self, table: Any, *, folder: str | Path | None = None, skip_bad: bool = False
    ) -> tuple[Inputs, Present]:
        """What an exported program takes: by modality the tensors of all rows, and which of these have it `(rows,)`.

        Raises:
            UserError: no row has a modality, or what is read is wrong.
        """
        return self._tensors(self._cells(table, folder, (), skip_bad))

    def export(self, path: str | Path, table: Any, *, folder: str | Path | None = None) -> Path:
        """Write a program that runs with PyTorch alone, and compare it with this predictor.

            program = torch.export.load("fusion.pt2").module()
            outputs = program(*predictor.tensors("more.csv"))

        Its outputs are logits in the order of `outcome.labels`, or the standardised number. It takes any number of
        rows, with texts filled up to the encoder's `length`, word by word: a shorter one (`encoder_options` of `fit`)
        makes a smaller program.

        Args:
            path: ends in `.pt2`.
            table, folder: as of `predict`: three rows or more, in which every modality is there at least once; of a
                long one some rows are taken.

        Raises:
            UserError: it cannot be exported, or the program says something else.
        """
        cells = self._cells(table, folder, (), False)
        export(self.model, Path(path), *self._tensors(cells, self.batch))
        return Path(path)

    def _tensors(self, cells: Mapping[str, Cells], most: int | None = None) -> tuple[Inputs, Present]:
        """All rows, or so many and the first with each modality."""
        there = [[row for row, value in enumerate(each.values) if value is not None] for each in cells.values()]
        count = len(next(iter(cells.values())).values)
        some = sorted({*range(count)[:most], *(row for rows in there for row in rows[:1])})
        raw = [{name: column[row] for name, column in cells.items()} for row in some]
        return whole(collate(self._readers, raw, None), self._readers)

    def save(self, folder: str | Path) -> Path:
        """Write `predictor.json` and `weights.safetensors` into a folder, which `load` reads."""
        folder = Path(folder)
        fusion = self.model.fusion
        about = {
            "format": FORMAT,
            "target": self.target,
            "outcome": {"task": self.outcome.task, **self.outcome.as_json()},
            "kinds": self.kinds,
            "fusion": {"name": fusion.name, "width": fusion.width, "options": self.fusion_options},
            "encoders": {
                name: {"kind": encoder.kind, "settings": encoder.settings} for name, encoder in self._readers.items()
            },
            "history": asdict(self.history),
        }
        files.save_weights(self.model, folder / "weights.safetensors")
        files.write_json(folder / "predictor.json", about)
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
            outcome = outcome_from_json(about["outcome"])
            model = FusionModel(readers, build(fusion["name"], readers, outcome, fusion["width"], fusion["options"]))
            model.load_state_dict(load_file(folder / "weights.safetensors"))
            history = History(**about["history"])
        except UserError:
            raise
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            raise UserError(
                f"{folder} cannot be read ({error}): give a folder that Predictor.save has written"
            ) from error
        return cls(model, about["target"], about["kinds"], fusion["options"], history, on(device))

    @property
    def encoders(self) -> list[Encoder]:
        """One for each of `modalities`."""
        return list(self.model.encoders)  # pyright: ignore[reportReturnType]

    @property
    def _readers(self) -> dict[str, Encoder]:
        return dict(zip(self.model.names, self.encoders, strict=True))

    def _target(self, table: Any) -> Tensor:
        columns = columns_of(table)
        if self.target not in columns:
            raise UserError(f"there is no column {self.target!r} to compare with: the table has {', '.join(columns)}")
        return self.outcome.target(self.target, columns[self.target])

    def _cells(
        self,
        table: Any,
        folder: str | Path | None,
        without: Sequence[str],
        skip_bad: bool,
        read: dict[str, Cells] | None = None,
        say: Callable[[str], object] = lambda line: None,
    ) -> dict[str, Cells]:
        """Each modality's cells; what `read` has of the same table is used again, and what it has not is added."""
        read = {} if read is None else read
        values = values_of(self.blanked(columns_of(table), without), self.kinds, folder_of(table, folder))
        memory = next((each.memory for each in read.values()), [2 << 30])
        # Numbers and categories, of which some may be gone, are read anew: they need no file.
        cells = {
            name: Cells(name, encoder, values[name], memory)
            for name, encoder in self._readers.items()
            if name == TABULAR or name in without or name not in read
        }
        if skip_bad:
            for name, each in cells.items():
                if problems := each.bad():
                    rows = f"{len(problems):,} of {len(each.values):,} rows"
                    say(f"{name} cannot be read in {rows}, where it counts as missing: {wrong(name, problems[0])}")
                    each.values = list(each.values)
                    for bad in problems:
                        each.values[bad.row] = None
        read |= {name: each for name, each in cells.items() if name not in without}
        return {name: cells.get(name) or read[name] for name in self.modalities}

    def _outputs(
        self,
        table: Any,
        folder: str | Path | None,
        without: Sequence[str],
        skip_bad: bool,
        read: dict[str, Cells] | None = None,
        say: Callable[[str], object] = lambda line: None,
    ) -> Tensor:
        cells = self._cells(table, folder, without, skip_bad, read, say)
        return self._run(cells, len(next(iter(cells.values())).values), lambda name, row, cell: cell)

    @torch.no_grad()
    def _run(self, cells: Mapping[str, Cells], count: int, change: Change) -> Float[Tensor, "rows outputs"]:
        found = [torch.zeros(0, self.outcome.size)]
        self.model.eval()
        for rows in in_batches(range(count), self.batch):
            raw = [
                {
                    name: None if (cell := column[row]) is None else change(name, row, cell)
                    for name, column in cells.items()
                }
                for row in rows
            ]
            found.append(self.model(collate(self._readers, raw, None).to(self.device)).cpu())
        return torch.cat(found)


def build(
    name: str, readers: Mapping[str, Encoder], outcome: Outcome, width: int, options: Mapping[str, Any]
) -> Fusion:
    """The fusion of that name over the tokens of these encoders."""
    return fusions[name]({modality: reader.width for modality, reader in readers.items()}, outcome, width, **options)


def on(device: str | None) -> torch.device:
    """The device asked for, or a GPU if there is one."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
