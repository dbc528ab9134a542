"""Put attention into many public models, see whether all that `regard.placing` promises holds, and keep it as a table.

    uv run python tools/placing.py [--only GLOB ...] [--jobs 2] [--limit 60] [--write]
    uv run --with ultralytics python tools/placing.py --write       the same, with the graphs of Ultralytics

The models, small and with random weights, stand in `tools/zoo.py`. At the places of each role in turn, attention is put
in, must leave the output as it was, must learn in one training step, and must leave no trace when it is taken out.
Prints a row a model; with `--write`, the rows go into `docs/placing.md`, where `--only` replaces just those that ran.
"""

import argparse
import copy
import os
import queue
import random
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.metadata import version
from math import gcd
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

import zoo
from regard.attention.context import MultiHeadSelfAttention
from regard.errors import UserError
from regard.placing import Place, PlaceTable, insert, parameter_groups, places, remove
from regard.placing.place import Role
from regard.running import Inputs, inputs_of, tensors, undisturbed

TABLE = Path(__file__).parents[1] / "docs/placing.md"
ROLES: tuple[Role, ...] = ("block", "stage", "skip", "decoder", "pool")
"""The roles whose places get attention, one after the other."""


def _heads(channels: int) -> nn.Module:
    return MultiHeadSelfAttention(channels, heads=gcd(channels, 8))


MECHANISMS: dict[bool, str | Callable[[int], nn.Module]] = {True: _heads, False: "se"}
"""What goes to a place: whether it holds tokens, and the mechanism for that."""

TOLERANCE = 1e-3
"""How far the output may move at the start, as a share of its largest value,"""

UNITS = 10
"""or how many times as far as one unit of rounding of the input moves it: some untrained models amplify that."""

LEARNING_RATE = 1e-2


@dataclass
class Trial:
    """What came of attention at all places of one role.

    Attributes:
        places: how many they are.
        reached: the share of the new parameters that the first training step reaches with a gradient.
        rounded: whether the output moved by more than the tolerance, though by no more than rounding moves it.
        problem: what does not hold, if anything.
    """

    places: int
    reached: float = 0.0
    rounded: bool = False
    problem: str = ""

    def __str__(self) -> str:
        return "fails" if self.problem else f"{self.places}, {self.reached:.0%}{' ≈' if self.rounded else ''}"


@dataclass
class Report:
    """What came of one model.

    Attributes:
        given: the shapes of its input.
        roles: how many places of each role it has.
        trials: by role, what came of attention there.
        problem: why nothing could be tried, if so.
    """

    given: str = ""
    roles: Mapping[str, int] = field(default_factory=dict)
    trials: dict[str, Trial] = field(default_factory=dict)
    problem: str = ""

    @property
    def problems(self) -> list[str]:
        """All that does not hold."""
        found = [self.problem] if self.problem else []
        return found + [f"{role}: {trial.problem}" for role, trial in self.trials.items() if trial.problem]


class Broken(Exception):
    """Something that is promised does not hold."""


class OutOfTime(BaseException):
    """A model took too long. No `Exception`, so that no model catches it."""


def examine(model: nn.Module, example: Any) -> Report:
    """Try one model at all its roles. It is afterwards as before but for its batch statistics and constants."""
    inputs = inputs_of(model, example)
    report = Report(" ".join("×".join(map(str, tensor.shape)) for tensor in inputs.tensors()))
    _disturb_constants(model)
    model.eval()
    try:
        trainable = _runs_in_training(model, inputs)
        expected = outputs(model, inputs)
        if distance(expected, outputs(model, inputs)):
            report.problem = "the plain model gives another output each time"
            return report
        moved = Inputs(_moved(inputs.positional), _moved(inputs.named))
        allowed = max(TOLERANCE, UNITS * distance(expected, outputs(model, moved)))
        table = places(model, example)
    except Exception as error:
        report.problem = _text(error)
        return report
    report.roles = cast(Mapping[str, int], table.roles())
    for role in ROLES:
        if role in report.roles or (role == "block" and "stage" not in report.roles):
            report.trials[role] = attempt(model, inputs, table, role, trainable, expected, allowed)
    return report


def attempt(
    model: nn.Module,
    inputs: Inputs,
    table: PlaceTable,
    role: Role,
    trainable: bool,
    expected: list[Tensor],
    allowed: float,
) -> Trial:
    """Attention at all places of one role: in, one training step, out."""
    trial = Trial(len(table.of(role)))
    before = snapshot(model)
    state = copy.deepcopy(model.state_dict())
    with noting(trial, "cannot be put in"):
        _put(model, inputs, table, role)
    if trial.problem:
        if snapshot(model) != before:
            trial.problem += " (and the model is not left as it was)"
        return trial
    with noting(trial, "right after"):
        moved = distance(expected, outputs(model, inputs))
        if not moved <= allowed:
            raise Broken(f"the output moves by {moved:.0e} of its largest value")
        trial.rounded = moved > TOLERANCE
    with noting(trial, "in two training steps"):
        trial.reached = learn(model, inputs, trainable)
    with noting(trial, "a checkpoint of the plain model"):
        model.load_state_dict(state)
    with noting(trial, "taken out"):
        remove(model)
        after = snapshot(model)
        lost = [what for what in before if before[what] != after[what]]
        if lost or distance(expected, outputs(model, inputs)):
            raise Broken(f"the model has other {', '.join(lost) or 'outputs'} than before")
    return trial


@contextmanager
def noting(trial: Trial, when: str) -> Iterator[None]:
    """Keeps the first problem of a trial, which goes on."""
    try:
        yield
    except Exception as error:
        trial.problem = trial.problem or f"{when}: {_text(error)}"


def _put(model: nn.Module, inputs: Inputs, table: PlaceTable, role: Role) -> None:
    """The mechanism of each kind of tensor at all places of a role that hold it."""
    example = inputs.named or inputs.positional
    if not table.of(role):
        insert(model, MECHANISMS[False], at=role, example=example)  # which says why it cannot
    for tokens, mechanism in MECHANISMS.items():

        def chosen(place: Place, tokens: bool = tokens) -> bool:
            return place.role == role and (place.layout == "BNC") is tokens

        if any(chosen(place) for place in table):
            insert(model, mechanism, at=chosen, example=example)


def learn(model: nn.Module, inputs: Inputs, training: bool) -> float:
    """Take two steps of Adam on the new parameters: return the share of them that have a gradient in the second.

    In the first the strengths alone have one.
    """
    parameters = parameter_groups(model, 0.0, LEARNING_RATE)[1]["params"]
    before = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.Adam(parameters, LEARNING_RATE)
    gradients: Sequence[Tensor | None] = ()
    for _ in range(2):
        model.train(training)
        try:
            torch.manual_seed(0)
            values = [value for value in tensors(inputs.run(model)) if value.requires_grad and value.numel()]
            if not values:
                raise Broken("no output has a gradient")
            loss = torch.stack([value.float().square().mean() for value in values]).sum()
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        finally:
            model.eval()
        if all(gradient is None for gradient in gradients):
            raise Broken("no output is computed with a gradient from what stands there")
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    if all(torch.equal(old, new) for old, new in zip(before, parameters, strict=True)):
        raise Broken("no new parameter changes: every gradient is zero")
    return sum(gradient is not None and bool(gradient.any()) for gradient in gradients) / len(gradients)


def outputs(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """All tensors that the model gives in evaluation mode, from the same random state each time."""
    with undisturbed(model):
        torch.manual_seed(0)
        return [tensor.clone() for tensor in tensors(inputs.run(model))]


def distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """The largest difference of two outputs, tensor by tensor, as a share of the largest value of the tensor."""
    if [tensor.shape for tensor in first] != [tensor.shape for tensor in second]:
        return float("inf")
    found = [0.0]
    for one, other in zip(first, second, strict=True):
        if one.numel():
            one, other = one.double(), other.double()
            scale = one.abs().max().clamp(min=1e-12)
            found.append(float(((one - other).abs().max() / scale).nan_to_num(nan=float("inf"))))
    return max(found)


def snapshot(model: nn.Module) -> dict[str, Any]:
    """All that `remove` gives back, objects by identity; values of state are compared by the output."""
    return {
        "modules": [(path, id(module)) for path, module in model.named_modules()],
        "parameters": [(path, id(value)) for path, value in model.named_parameters()],
        "state_dict keys": list(model.state_dict()),
        "hooks": [
            {name: [*map(id, hooks.values())] for name, hooks in vars(module).items() if name.endswith("_hooks")}
            for module in model.modules()
        ],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "modes": [module.training for module in model.modules()],
    }


def _disturb_constants(model: nn.Module) -> None:
    """Positive noise on every parameter that starts at one value: a gain of zero would hide what is behind it."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.numel() and parameter.min() == parameter.max():
                parameter += 0.1 * torch.rand(parameter.shape, generator=generator)


def _runs_in_training(model: nn.Module, inputs: Inputs) -> bool:
    """Whether a forward in training mode works on these inputs alone. The running statistics are then those of them."""
    normalising = [module for module in model.modules() if isinstance(getattr(module, "momentum", None), float)]
    momenta = [module.momentum for module in normalising]
    for module in normalising:
        vars(module)["momentum"] = 1.0
    model.train()
    try:
        with torch.no_grad():
            torch.manual_seed(0)
            inputs.run(model)
    except Exception:
        return False
    finally:
        model.eval()
        for module, momentum in zip(normalising, momenta, strict=True):
            vars(module)["momentum"] = momentum
    return True


def _moved(value: Any) -> Any:
    """The input of a model with all its numbers moved by about one unit of rounding."""
    if isinstance(value, Tensor):
        return value * (1 + 2 * torch.finfo(value.dtype).eps) if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: _moved(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(item) for item in value)
    return value


def _text(error: BaseException) -> str:
    """An error on one line."""
    text = " ".join(str(error).split())
    text = text if len(text) < 300 else f"{text[:297]}..."
    return text if isinstance(error, Broken | UserError) else f"{type(error).__name__}: {text}"


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Ends what is inside after so much processor time, which other processes do not change."""

    def stop(number: int, frame: Any) -> None:
        raise OutOfTime

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def report_on(name: str, limit: float) -> Report:
    """Build one model of the zoo and try it."""
    report = Report()
    random.seed(0)
    torch.manual_seed(0)
    try:
        with limited(limit):
            try:
                model, example = zoo.models()[name]()
            except Exception as error:
                return Report(problem=f"cannot be built: {_text(error)}")
            report = examine(model, example)
    except OutOfTime:
        report.problem = f"takes more than {limit:.0f} s of processor time"
    return report


class Worker:
    """A process that tries one model after another, and a fresh one after it has died."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """A process of one thread that gives way to others."""
        self.pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=_settle)

    def report(self, name: str, limit: float) -> Report:
        """What came of one model."""
        try:
            return self.pool.submit(report_on, name, limit).result()
        except BrokenProcessPool:
            self.start()
            return Report(problem="its process died")


def _settle() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is downloaded
    os.nice(10)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


def survey(names: Sequence[str], jobs: int, limit: float) -> Iterator[tuple[str, Report]]:
    """The report on every model, as they come."""
    idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    for _ in range(jobs):
        idle.put(Worker())

    def run(name: str) -> tuple[str, Report]:
        worker = idle.get()
        try:
            return name, worker.report(name, limit)
        finally:
            idle.put(worker)

    with ThreadPoolExecutor(jobs) as pool:
        for done in as_completed([pool.submit(run, name) for name in names]):
            yield done.result()
    while not idle.empty():
        idle.get().pool.shutdown()


def row(name: str, report: Report) -> str:
    """A model's line of the table."""
    counts = ", ".join(f"{role} {count}" for role, count in report.roles.items())
    trials = [str(report.trials.get(role, "")) for role in ROLES]
    problems = "; ".join(report.problems).replace("|", "\\|")
    cells = (name, report.given, counts, *trials, problems)
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def rows(text: str) -> dict[str, str]:
    """The lines of a table that is there, by model."""
    found = re.findall(r"^\| ([\w.-]+/\S+) \|.*$", text, re.MULTILINE)
    return dict(zip(found, re.findall(r"^\| [\w.-]+/\S+ \|.*$", text, re.MULTILINE), strict=True))


def holds(line: str) -> bool:
    """Whether a line of the table names no problem."""
    return line.endswith("| |")


def page(lines: Mapping[str, str], versions: Mapping[str, str]) -> str:
    """The whole page: the rows by model, and the version of every package."""
    packages = sorted({name.partition("/")[0] for name in lines})
    parts = [HEAD, "| package | version | models | all holds |", "|---|---|---|---|"]
    for package in packages:
        own = [line for name, line in lines.items() if name.startswith(f"{package}/")]
        parts.append(f"| {package} | {versions[package]} | {len(own)} | {sum(map(holds, own))} |")
    parts.append(f"| together | | {len(lines)} | {sum(map(holds, lines.values()))} |")
    heading = ("model", "input", "places found", *ROLES, "what does not hold, and why")
    for package in packages:
        parts += ["", f"## {package}", "", f"| {' | '.join(heading)} |", "|---" * len(heading) + "|"]
        parts += [lines[name] for name in sorted(lines) if name.startswith(f"{package}/")]
    return "\n".join(parts) + "\n"


def versions_of(text: str) -> dict[str, str]:
    """The versions of the packages in a page that is there."""
    return dict(re.findall(r"^\| (\w+) \| (\S+) \| \d+ \| \d+ \|$", text, re.MULTILINE))


HEAD = f"""# Where attention was put

Made by `tools/placing.py`; do not edit. The models are public, small, and have random weights; the two largest of timm
and the two MViT of torchvision have fewer blocks than their names say, detectors are in double precision. Running
statistics are those of the input, and what starts at one constant value has noise, so that no branch is silent.

The columns after the places say what came of attention with `start="identity"` at all places of one role, `se` at maps
and `multi_head_self` at tokens. Where all of this holds, it is the number of places and a share:

1. `places` finds them;
2. right after `insert` every tensor that the model gives is what it was, to {TOLERANCE:g} of its largest value, or to
   {UNITS} times what one unit of rounding of the input does to it, if that is more (then marked ≈);
3. two steps of Adam on the mean squares of the outputs change the new parameters, in training mode if the model runs
   in it without targets; the share is that of the new parameters with a gradient other than zero in the second step
   (that of a rectifier with few units often is zero; in the first step the strengths alone have one);
4. a checkpoint of the plain model loads, and `remove` gives back the same modules, parameters, keys of the state,
   hooks, attributes and modes, and exactly the same output.

"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="GLOB", default=["*"], help="only these: timm/*, */unet*")
    parser.add_argument("--jobs", type=int, default=2, help="how many models at a time (default 2)")
    parser.add_argument("--limit", type=float, default=60.0, metavar="S", help="seconds a model (default 60)")
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name}")
    parser.add_argument("--list", action="store_true", help="list the models and run nothing")
    options = parser.parse_args(arguments)
    known = zoo.models()
    names = [name for name in known if any(fnmatchcase(name, pattern) for pattern in options.only)]
    if not names:
        parser.error(f"no model is named {' or '.join(options.only)}; --list lists them")
    if options.list:
        print(*names, sep="\n")
        return 0
    there = TABLE.read_text(encoding="utf-8") if options.write and TABLE.exists() else ""
    installed = {name.partition("/")[0]: version(name.partition("/")[0]) for name in known}
    versions = versions_of(there) | installed
    kept = {name: line for name, line in rows(there).items() if name.partition("/")[0] not in installed}
    if options.only != ["*"]:
        kept |= {name: line for name, line in rows(there).items() if name in known}
    others = {name.partition("/")[0] for name in kept.keys() - set(names)}
    if changed := sorted(package for package in others if versions[package] != versions_of(there)[package]):
        parser.error(f"{TABLE.name} is of other versions of {', '.join(changed)}: run all their models")
    lines: dict[str, str] = {}
    for name, report in survey(names, options.jobs, options.limit):
        lines[name] = row(name, report)
        print(lines[name], flush=True)
    print(f"{sum(map(holds, lines.values()))} / {len(lines)} hold")
    if options.write:
        TABLE.write_text(page(kept | lines, versions), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
