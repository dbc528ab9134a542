"""Run some tests of a project in a fresh process with a time limit, many times, and import PyTorch only once.

`Trials` starts this file as a server that imports what the tests need, but not the project, and forks a child for each
trial; where there is no fork, each trial is a process of its own. Requests and outcomes are lines of JSON.
"""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib import import_module
from inspect import getsource
from pathlib import Path
from types import TracebackType
from typing import Any, Self

# Slow to import and no part of what is tested. The compiler is among them: the contract suite compiles. Jaxtyping is
# not: it is a plugin of pytest, which wants to import its plugins itself.
PREPARED = ("torch", "torch._dynamo", "torch._functorch.aot_autograd", "torch.testing", "beartype", "pytest")
NOTHING_FAILED = (0, 5)  # pytest's codes: all passed; there was nothing to run


@dataclass(frozen=True)
class Request:
    """What to run.

    Attributes:
        root: the copy of the project.
        stages: the test files of each stage; the next one runs if nothing failed in the one before.
        mechanisms: of tests of a `case`, only those of these mechanisms.
        words: of the other tests, those that name one of these,
        strangers: and those that name none of these, which are tests of something else.
        left_out: tests that fail without any change.
        all_failures: whether to go on behind the first failure.
        limit: seconds for each stage.
    """

    root: str
    stages: list[list[str]]
    mechanisms: list[str]
    words: list[str]
    strangers: list[str]
    left_out: list[str] = field(default_factory=list)
    all_failures: bool = False
    limit: float = 60.0


@dataclass(frozen=True)
class Outcome:
    """What came of one stage: pytest's code (None: out of time), the tests that failed and how many passed."""

    code: int | None
    failed: list[str]
    passed: int
    seconds: float


ENDED = Outcome(-1, ["the process ended"], 0, 0.0)


class Trials:
    """The server, as a context; `run` is called by one thread at a time."""

    def __init__(self, forking: bool = hasattr(os, "fork")) -> None:
        self.forking = forking
        self.server: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        if self.forking:
            self.server = _start("serve")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.server is not None and self.server.stdin is not None:
            self.server.stdin.close()
            self.server.wait()

    def run(self, request: Request) -> list[Outcome]:
        """The outcome of every stage that ran."""
        line = json.dumps(asdict(request)) + "\n"
        if self.server is None:
            return _run_apart(line, request)
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(line)
        self.server.stdin.flush()
        return [Outcome(**outcome) for outcome in json.loads(self.server.stdout.readline())]


class Choice:
    """A pytest plugin: runs what the request asks for and notes what came of it."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.words = re.compile(rf"\b({'|'.join(request.words) or '(?!)'})\b")
        self.strangers = re.compile(rf"\b({'|'.join(request.strangers) or '(?!)'})\b")
        self.failed: list[str] = []
        self.passed = 0

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Leave out the tests of other mechanisms; compile last, since that takes longest."""
        items[:] = sorted(filter(self.wanted, items), key=lambda item: "compile" in item.name)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note what failed and what passed."""
        if report.failed:
            self.failed.append(report.nodeid)
        self.passed += report.when == "call" and report.passed

    def pytest_collectreport(self, report: Any) -> None:
        """A file that cannot be imported fails as a whole."""
        if report.failed:
            self.failed.append(report.nodeid)

    def wanted(self, item: Any) -> bool:
        """Whether a test says anything about what was changed."""
        if item.nodeid in self.request.left_out:
            return False
        case = getattr(item, "callspec", None) and item.callspec.params.get("case")
        mechanism = getattr(case, "mechanism", None)
        if mechanism is not None:
            return mechanism.name in self.request.mechanisms
        text = getsource(item.function)
        return bool(self.words.search(text)) or not self.strangers.search(text)


def _start(verb: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__)), verb]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=verb == "once",
    )


def _run_apart(line: str, request: Request) -> list[Outcome]:
    """In a process of its own."""
    child = _start("once")
    try:
        printed, _ = child.communicate(line, timeout=request.limit * len(request.stages))
    except subprocess.TimeoutExpired:
        _end(child.pid)
        child.communicate()
        return [Outcome(None, [], 0, request.limit)]
    return [Outcome(**json.loads(outcome)) for outcome in printed.splitlines()] or [ENDED]


def _serve() -> None:
    """Answer every line of the input until it ends."""
    for name in PREPARED:
        with contextlib.suppress(ImportError):
            import_module(name)
    for line in iter(sys.stdin.readline, ""):
        outcomes = _run_forked(Request(**json.loads(line)))
        print(json.dumps([asdict(outcome) for outcome in outcomes]), flush=True)


def _run_forked(request: Request) -> list[Outcome]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()  # so that it ends with all that it has started
            _silence()
            for outcome in _run_here(request):
                os.write(writing, (json.dumps(asdict(outcome)) + "\n").encode())
        except BaseException as error:
            os.write(writing, (json.dumps(asdict(Outcome(-1, [repr(error)], 0, 0.0))) + "\n").encode())
        finally:
            os._exit(0)
    os.close(writing)
    try:
        return list(_read(reading, request))
    finally:
        os.close(reading)
        _end(child)
        os.waitpid(child, 0)


def _read(reading: int, request: Request) -> Iterator[Outcome]:
    """The outcomes that the child writes; out of time or ended without a word, it has none."""
    rest = b""
    for _ in request.stages:
        ends = time.monotonic() + request.limit
        while b"\n" not in rest:
            if not select.select([reading], [], [], max(0.0, ends - time.monotonic()))[0]:
                yield Outcome(None, [], 0, request.limit)
                return
            piece = os.read(reading, 1 << 16)
            if not piece:
                yield ENDED
                return
            rest += piece
        line, _, rest = rest.partition(b"\n")
        outcome = Outcome(**json.loads(line))
        yield outcome
        if outcome.code not in NOTHING_FAILED and not request.all_failures:
            return


def _end(child: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)


def _silence() -> None:
    """What the tests read is empty, and what they print is nobody's."""
    with open(os.devnull, "r+b") as nothing:
        for stream in (0, 1, 2):
            os.dup2(nothing.fileno(), stream)


def _run_here(request: Request) -> Iterator[Outcome]:
    import pytest

    # Only the run without a change may leave compiled files: those of a mutant could pass for the file's own.
    sys.dont_write_bytecode = not request.all_failures
    os.chdir(request.root)
    source = str(Path(request.root, "src"))
    sys.path.insert(0, source)
    os.environ["PYTHONPATH"] = source
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    for files in request.stages:
        choice = Choice(request)
        begun = time.monotonic()
        arguments = ["-q", "-n", "0", "-p", "no:cacheprovider", *([] if request.all_failures else ["-x"])]
        code = int(pytest.main([*arguments, *files], plugins=[choice])) if files else 5
        yield Outcome(code, choice.failed, choice.passed, time.monotonic() - begun)
        if code not in NOTHING_FAILED and not request.all_failures:
            return


def _once() -> None:
    """One request, each outcome printed as a line."""
    request = Request(**json.loads(sys.stdin.readline()))
    printed = os.fdopen(os.dup(1), "w")
    _silence()
    for outcome in _run_here(request):
        print(json.dumps(asdict(outcome)), file=printed, flush=True)


if __name__ == "__main__":
    verbs: dict[str, Callable[[], None]] = {"serve": _serve, "once": _once}
    verbs[sys.argv[1]]()
