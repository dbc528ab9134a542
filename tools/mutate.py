"""Break every mechanism in the ways that published code is broken, and see whether some test fails.

    uv run python tools/mutate.py [--mechanism NAME ...] [--jobs 2] [--limit-per-mechanism N]

Works on a copy of the project. For every mutant, a fresh process runs the tests that name the mechanism, then, if they
all pass, its part of the contract suite. Prints a row a mechanism, what survived, and `caught / tried`; exits with 1
unless every mutant was caught.
"""

import argparse
import ast
import os
import queue
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from defects import DEFECTS, Mutant, mutants
from trials import NOTHING_FAILED, Outcome, Request, Trials

SEED = 0
CONTRACT = ("tests/attention/test_contract.py", "tests/test_surface.py::test_surface_is_as_written_down")
USERS = 2
"""By the tests of how many mechanisms a function is judged that several use."""


@dataclass(frozen=True)
class Target:
    """One file to break.

    Attributes:
        name: the mechanism in it, or the file's path in the package where it holds none.
        path: the file, from the project's root.
        mechanisms: the mechanisms whose part of the contract suite is run.
        words: the classes and functions whose tests are run.
    """

    name: str
    path: str
    mechanisms: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The names by which it is asked for: each mechanism in it."""
        return self.mechanisms if self.name in self.mechanisms else (self.name,)


@dataclass
class Result:
    """What came of a target's mutants.

    Attributes:
        target: the file.
        remark: why nothing was tried, if so.
        failing: the tests that fail without a change; they are left out.
        caught: of each mutant that was caught, the stage that did.
        survived: the mutants that no test noticed.
        undecided: the mutants that ran out of time.
        seconds: how long it took.
    """

    target: Target
    remark: str = ""
    failing: list[str] = field(default_factory=list)
    caught: list[tuple[Mutant, int]] = field(default_factory=list)
    survived: list[Mutant] = field(default_factory=list)
    undecided: list[Mutant] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def tried(self) -> int:
        """How many mutants were judged."""
        return len(self.caught) + len(self.survived)


@dataclass(frozen=True)
class Project:
    """What there is to break and to run, read from the files alone."""

    root: Path

    @property
    def attention(self) -> Path:
        """The mechanisms' folder."""
        return self.root / "src/regard/attention"

    def mechanisms(self) -> dict[str, tuple[str, Path]]:
        """Every mechanism's class and file by its short name."""
        return {
            name: (class_name, path)
            for path in sorted(self.attention.glob("*/*.py"))
            for class_name, name in _named_classes(ast.parse(path.read_text()))
        }

    def targets(self) -> list[Target]:
        """Every mechanism's file, then the files that several share."""
        found = self.mechanisms()
        own = {path: [name for name, (_, other) in found.items() if other == path] for _, path in found.values()}
        targets = [
            Target(names[0], self._relative(path), tuple(names), tuple(found[name][0] for name in names))
            for path, names in own.items()
        ]
        shared = [path for path in sorted(self.attention.glob("**/*.py")) if path not in own]
        shared += sorted((self.root / "src/regard/functional").glob("*.py"))
        return targets + [self._shared(path, found) for path in shared if path.name != "__init__.py"]

    def oracles(self, words: Sequence[str]) -> list[str]:
        """The test files that name one of these, but the contract suite."""
        pattern = re.compile(rf"\b({'|'.join(words)})\b")
        folders = (self.root / "tests/functional", self.root / "tests/attention")
        files = [path for folder in folders for path in sorted(folder.glob("test_*.py"))]
        files = [path for path in files if path.name != "test_contract.py" and pattern.search(path.read_text())]
        return [self._relative(path) for path in files]

    def _shared(self, path: Path, mechanisms: dict[str, tuple[str, Path]]) -> Target:
        defined = [
            statement.name
            for statement in ast.parse(path.read_text()).body
            if isinstance(statement, ast.FunctionDef | ast.ClassDef)
        ]
        users: list[str] = []
        for symbol in defined:
            uses = re.compile(rf"(functional\.|import .*\b){symbol}\b")
            users += [name for name, (_, other) in mechanisms.items() if uses.search(other.read_text())][:USERS]
        users = list(dict.fromkeys(users))
        words = (*defined, *(mechanisms[name][0] for name in users))
        name = ".".join(path.relative_to(self.root / "src/regard").with_suffix("").parts)
        return Target(name, self._relative(path), tuple(users), words)

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


class Workshop:
    """A copy of the project, to break one file at a time, and the process that runs its tests."""

    def __init__(self, root: Path, trials: Trials, limit: float) -> None:
        self.project = Project(root)
        self.trials = trials
        self.limit = limit
        self.classes = [class_name for class_name, _ in self.project.mechanisms().values()]

    def judge(self, target: Target, count: int | None, tell: Callable[[str], None] = lambda line: None) -> Result:
        """Try this many of a target's mutants, or all of them."""
        begun = time.monotonic()
        result = Result(target)
        path = self.project.root / target.path
        text, times = path.read_text(), path.stat()
        unchanged = self._run(target, [], all_failures=True)
        result.failing = [test for outcome in unchanged for test in outcome.failed]
        if any(outcome.code not in (*NOTHING_FAILED, 1) for outcome in unchanged):
            codes = ", ".join(str(outcome.code) for outcome in unchanged)
            reason = ", ".join(result.failing) or f"pytest gives {codes}"
            result.remark = f"its tests do not run without a change: {reason}"
        elif not sum(outcome.passed for outcome in unchanged):
            result.remark = "it has no test"
        for mutant in [] if result.remark else sample(mutants(text), count, target.name):
            path.write_text(mutant.text)
            # A compiled file is known by its seconds and size: that of the unchanged source must not pass for this one.
            os.utime(path, (0, 0))
            outcomes = self._run(target, result.failing)
            path.write_text(text)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # its compiled file stays valid
            if outcomes[-1].code is None:
                result.undecided.append(mutant)
            elif outcomes[-1].code in NOTHING_FAILED:
                result.survived.append(mutant)
                tell(f"    survived: {target.path}:{mutant.line}  {mutant}")
            else:
                result.caught.append((mutant, len(outcomes) - 1))
        result.seconds = time.monotonic() - begun
        return result

    def _run(self, target: Target, left_out: list[str], all_failures: bool = False) -> list[Outcome]:
        contract = [test for test in CONTRACT if (self.project.root / test.partition("::")[0]).exists()]
        return self.trials.run(
            Request(
                root=str(self.project.root),
                stages=[self.project.oracles(target.words), contract],
                mechanisms=list(target.mechanisms),
                words=list(target.words),
                strangers=[name for name in self.classes if name not in target.words],
                left_out=left_out,
                all_failures=all_failures,
                limit=self.limit * (5 if all_failures else 1),  # the first run compiles, and goes on behind failures
            )
        )


def sample(found: list[Mutant], count: int | None, name: str) -> list[Mutant]:
    """So many mutants, of as many defects as there are; the same ones each time."""
    if count is None or count >= len(found):
        return found
    generator = random.Random(f"{SEED} {name}")
    shuffled = generator.sample(found, len(found))
    ranks: Counter[str] = Counter()
    keyed: list[tuple[int, int]] = []
    for index, mutant in enumerate(shuffled):
        keyed.append((ranks[mutant.defect], index))
        ranks[mutant.defect] += 1
    chosen = [shuffled[index] for _, index in sorted(keyed)[:count]]
    return sorted(chosen, key=lambda mutant: mutant.line)


def examine(
    root: Path, targets: Sequence[Target], jobs: int, count: int | None, limit: float, forking: bool = True
) -> Iterator[Result]:
    """The result of every target, as they come."""
    idle: queue.SimpleQueue[Workshop] = queue.SimpleQueue()

    def judge(target: Target) -> Result:
        workshop = idle.get()
        try:
            return workshop.judge(target, count, lambda line: print(line, flush=True))
        finally:
            idle.put(workshop)

    with tempfile.TemporaryDirectory(prefix="mutate-") as folder, ExitStack() as servers:
        first = Path(folder, "0")
        for number in range(jobs):
            copy = Path(folder, str(number))
            copy_project(first if number else root, copy)  # all of the same state, while others edit
            trials = servers.enter_context(Trials(forking and hasattr(os, "fork")))
            idle.put(Workshop(copy, trials, limit))
        with ThreadPoolExecutor(jobs) as pool:
            for done in as_completed([pool.submit(judge, target) for target in targets]):
                yield done.result()


def copy_project(root: Path, copy: Path) -> None:
    """All that the tests need."""
    for name in ("src", "tests"):
        shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for name in ("pyproject.toml", "README.md"):
        if (root / name).exists():
            shutil.copy2(root / name, copy)


def row(result: Result) -> str:
    """A target's line of the table."""
    counts = Counter(stage for _, stage in result.caught)
    remarks = [result.remark] if result.remark else []
    remarks += [f"fail without a change: {', '.join(result.failing)}"] if result.failing and not result.remark else []
    remarks += [f"{len(result.undecided)} out of time"] if result.undecided else []
    share = f"{len(result.caught)} / {result.tried}"
    cells = f"{result.target.name:<40}{share:>10}{counts[0]:>8}{counts[1]:>10}{result.seconds:>9.0f}"
    return f"{cells}  {'; '.join(remarks)}".rstrip()


def summary(results: Sequence[Result]) -> str:
    """What each defect came to, what survived, and how many were caught of all."""
    caught = Counter(mutant.defect for result in results for mutant, _ in result.caught)
    survived = Counter(mutant.defect for result in results for mutant in result.survived)
    lines = ["", f"{'defect':<22}{'caught':>12}"]
    for name, find in DEFECTS.items():
        tried = caught[name] + survived[name]
        if tried:
            meaning = " ".join((find.__doc__ or "").split())
            lines.append(f"{name:<22}{f'{caught[name]} / {tried}':>12}  {meaning}")
    for title, kind in (("Survived:", "survived"), ("Out of time:", "undecided")):
        listed = [
            f"    {result.target.path}:{mutant.line}  {mutant}"
            for result in results
            for mutant in getattr(result, kind)
        ]
        lines += ["", title, *listed] if listed else []
    lines += ["", f"{caught.total()} / {caught.total() + survived.total()} caught"]
    return "\n".join(lines)


def passed(results: Sequence[Result]) -> bool:
    """Whether every target was tried and every mutant was caught."""
    return not any(result.survived or result.undecided or result.remark for result in results)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mechanism", nargs="+", metavar="NAME", help="only these, by the names in the table")
    parser.add_argument("--jobs", type=int, default=2, help="how many mutants at a time (default 2)")
    parser.add_argument("--limit-per-mechanism", type=int, metavar="N", help="try N mutants of each, always the same")
    parser.add_argument("--time-limit", type=float, default=60.0, metavar="S", help="seconds a mutant and stage")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help=argparse.SUPPRESS)
    parser.add_argument("--list", action="store_true", help="list the mutants and run nothing")
    options = parser.parse_args(arguments)
    root = options.root.resolve()
    targets = Project(root).targets()
    if options.mechanism:
        named = {label: target for target in targets for label in target.labels}
        unknown = sorted(set(options.mechanism) - named.keys())
        if unknown:
            parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(named)}")
        targets = list(dict.fromkeys(named[label] for label in options.mechanism))
    if options.list:
        for target in targets:
            found = mutants((root / target.path).read_text())
            for mutant in sample(found, options.limit_per_mechanism, target.name):
                print(f"{target.path}:{mutant.line}  {mutant}")
        return 0
    print(f"{'target':<40}{'caught':>10}{'oracle':>8}{'contract':>10}{'seconds':>9}", flush=True)
    results: list[Result] = []
    for result in examine(root, targets, options.jobs, options.limit_per_mechanism, options.time_limit):
        results.append(result)
        print(row(result), flush=True)
    print(summary(results))
    return 0 if passed(results) else 1


def _named_classes(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Every class that states a mechanism's `name`, with it."""
    for owner in tree.body:
        if isinstance(owner, ast.ClassDef):
            for statement in owner.body:
                match statement:
                    case ast.AnnAssign(target=ast.Name(id="name"), value=ast.Constant(value=str(name))):
                        yield owner.name, name


if __name__ == "__main__":
    sys.exit(main())
