"""What a person sees while a comparison runs: a line a variant, and each result as soon as it is there."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from regard import formatting
from regard.experiment import findings
from regard.experiment.run import Run
from regard.experiment.training import Progress as Training

MOST_COLUMNS = 6
"""Families shown in the terminal's table; the report shows all."""

PATIENCE = 3.0
"""Seconds that a frozen network may look at pictures before it is shown."""

APART, SILENCE = 10.0, 60.0
"""Without a terminal: seconds between two lines of progress at least, and, where a tenth takes longer, at most."""


def wide(console: Console) -> Console:
    """A console with room for a table where the output is no terminal, whose width nobody knows."""
    if not console.is_terminal:
        console.width = max(console.width, 130)
    return console


class Display:
    """Live progress on a terminal; plain lines where the output is no terminal.

    Args:
        run: what is shown.
        console: where; default standard output.
    """

    def __init__(self, run: Run, console: Console | None = None) -> None:
        self.run = run
        self.console = wide(console or Console())
        self._lines: dict[tuple[str, int], TaskID] = {}
        self._began: dict[tuple[str, int, bool], tuple[float, float]] = {}
        self._shown = 0.0
        self._printed: dict[tuple[str, int, bool], tuple[float, int]] = {}
        """When a plain line was printed last, and at which tenth."""
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[said]}"),
            TimeElapsedColumn(),
            TextColumn("[cyan]{task.fields[left]}"),
            console=self.console,
            refresh_per_second=4,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> "Display":
        settings = self.run.settings
        many = settings.minutes if settings.epochs is None else settings.epochs
        length = f"{many:g} {'minute' if settings.epochs is None else 'epoch'}{'s' * (many != 1)}"
        several = len(settings.attention) > 1 or settings.seeds > 1
        manner = "Comparing" if several else "Training"
        if several:
            length += " each"
        if settings.epochs == 0:
            manner, length = "Measuring", "as it came"
        self.console.print(
            f"{manner} [bold]{', '.join(settings.attention)}[/] on {settings.task}: {length}, "
            f"{settings.seeds} seed{'s' if settings.seeds > 1 else ''}, on {settings.device}. In {self.run.folder}/",
            highlight=False,
        )
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def about(self, text: str) -> None:
        """Say how models are built and trained."""
        if text:
            self.console.print(text, highlight=False, markup=False)

    def timing(self, variants: Sequence[str]) -> None:
        """Say that the variants are timed now."""
        self.console.print(f"Timing {', '.join(variants)} side by side", highlight=False, markup=False)

    def untimed(self, variant: str, reason: str) -> None:
        """Say of which variant the time is not known, and why."""
        self.console.print(
            f"The time of {variant} could not be measured: {reason}", highlight=False, markup=False, soft_wrap=True
        )

    def left_out(self, files: Sequence[Path | str]) -> None:
        """Name the pictures that cannot be read, or the questions about them, which are left out."""
        if files:
            named = ", ".join(str(file) for file in files[:3]) + (", ..." if len(files) > 3 else "")
            self.console.print(f"Left out, since they cannot be read: {len(files)} ({named})", highlight=False)

    def progress(self, attention: str, seed: int, training: Training) -> None:
        """Show where the training of a variant stands: on a terminal live, otherwise by a line now and then."""
        now = time.perf_counter()
        part = (attention, seed)
        if part not in self._lines:
            self._lines[part] = self._progress.add_task(self._name(part), total=1.0, said="", left="")
        looking = training.pictures > 0
        share = training.seen / training.pictures if looking else training.share
        began, first = self._began.setdefault((*part, looking), (now, share))
        if now - self._shown < 0.2 or (looking and now - began < PATIENCE):
            return
        self._shown = now
        left = ""
        if share > first + (0 if looking else 0.02):
            remaining = (now - began) * (1 - share) / (share - first)
            left = f"{formatting.duration(max(1, round(remaining)))} left"
        said = "" if training.loss != training.loss else f"loss {training.loss:.3f}"
        if training.accuracy == training.accuracy:
            said += f"  validation {training.accuracy:.3f}"
        if looking:
            said = f"looking at {training.seen:,} of {training.pictures:,} pictures"
        self._progress.update(self._lines[part], completed=share, said=said, left=left)
        if not self.console.is_terminal:
            before, tenth = self._printed.setdefault((*part, looking), (began, int(10 * first)))
            new = int(10 * share) != tenth
            if now - before >= (APART if new else SILENCE):
                self._printed[*part, looking] = now, int(10 * share)
                parts = [said] if looking else [f"{int(100 * share)} %", *said.split("  ")]
                line = f"{self._name(part)}: {', '.join(filter(None, [*parts, left]))}"
                self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def show(self, result: dict[str, Any] | None) -> None:
        """Say what came of a variant."""
        if result is None:
            return
        part = (result["attention"], result["seed"])
        if part in self._lines:
            self._progress.update(self._lines[part], completed=1.0, said="", left="done")
            self._progress.remove_task(self._lines[part])
        accuracy = result["accuracy"]
        families = [f"{family} {accuracy[family]:.3f}" for family in list(accuracy)[:MOST_COLUMNS]]
        if "overall" in accuracy and len(accuracy) > MOST_COLUMNS:
            families = [f"overall {accuracy['overall']:.3f}"]
        pointing = "" if result["pointing"] is None else f", pointing {result['pointing']:.3f}"
        self.console.print(
            f"[green]✓[/] {self._name(part):12} {', '.join(families)}{pointing} "
            f"[dim]({formatting.duration(result['train_seconds'])} of training)[/]",
            highlight=False,
        )

    def finish(self) -> None:
        """Print the tables, and what they show."""
        results = self.run.results()
        families = list(dict.fromkeys(name for one in results for name in one["accuracy"]))
        parts = [name for name in families if name != "overall"]
        if 0 < len(parts) <= MOST_COLUMNS:
            self._print_families(results, families)
        rows = findings.rows(results, self.run.comparison())
        several = len(rows) > 1
        title = f"{self.run.settings.task}: accuracy, and what the attention does" if several else ""
        table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD)
        cells = [row.cells() for row in rows]
        for column, heading in enumerate(findings.HEADINGS):
            if not column or any(row[column] for row in cells):
                table.add_column(heading, justify="right" if column else "left", style="bold" if not column else "")
        for row in cells:
            table.add_row(*(cell for at, cell in enumerate(row) if not at or any(other[at] for other in cells)))
        self.console.print(table)
        known = next((result for result in results if result.get("shortcuts")), None)
        lines = []
        if known is not None:  # so that nobody is proud of what needs no picture
            lines += [f"Accuracy is {known['measure']}."] if known["measure"] else []
            for name, reached in known["shortcuts"].items():
                if 1 < len(reached) <= MOST_COLUMNS + 1:
                    shares = ", ".join(f"{kind} {share:.3f}" for kind, share in reached.items())
                    lines.append(f"Baseline: {name}: {shares}")
        if several:
            lines.append(findings.EXPLANATION)
        lines += findings.not_ablated(rows)
        lines += ["", *findings.sentences(self.run.settings.task, rows, findings.baselines(results))]
        self.console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)

    def _print_families(self, results: Sequence[dict[str, Any]], families: Sequence[str]) -> None:
        """Print the accuracy of each kind of question or class, by variant and seed."""
        table = Table(
            title=f"{self.run.settings.task}: accuracy with its 95 % interval", title_justify="left", box=SIMPLE_HEAD
        )
        table.add_column("attention", style="bold", no_wrap=True)
        for column in (*families, "pointing", "MACs", "training"):
            table.add_column(column, justify="right", no_wrap=True)
        for result in results:
            cells = []
            for family in families:
                low, high = result["interval"].get(family, (float("nan"),) * 2)
                cells.append(f"{result['accuracy'].get(family, float('nan')):.3f}\n[dim]{low:.2f}–{high:.2f}[/]")
            table.add_row(
                self._name((result["attention"], result["seed"])),
                *cells,
                "–" if result["pointing"] is None else f"{result['pointing']:.3f}",
                formatting.scaled(result["macs"]),
                formatting.duration(result["train_seconds"]),
            )
        self.console.print(table)
        for attention, note in {result["attention"]: result.get("note") for result in results}.items():
            if note:
                self.console.print(f"{attention}: {note}.", highlight=False, markup=False, soft_wrap=True)

    def _name(self, part: tuple[str, int]) -> str:
        attention, seed = part
        return attention if len(self.run.seeds) == 1 else f"{attention} · seed {seed}"
