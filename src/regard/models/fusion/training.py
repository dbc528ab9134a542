"""Training of a fusion: a plain loop that stops early and can be taken up again."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from regard import files
from regard.errors import UserError
from regard.models.fusion.contract import Example
from regard.models.fusion.model import Batch, FusionModel

WARM_UP = 0.05
"""Share of training over which the learning rate rises; after it, half a cosine down to a hundredth."""


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: the most; the learning rate falls over all of them.
        batch: rows a step.
        learning_rate: the highest of the schedule.
        weight_decay: of AdamW.
        patience: after how many epochs without a better loss on the held-out part to stop.
        modality_dropout: probability of dropping each modality of each row.
        seed: where chance comes from.
    """

    epochs: int = 40
    batch: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    patience: int = 8
    modality_dropout: float = 0.1
    seed: int = 0

    def rate(self, share: float) -> float:
        """The learning rate after this share of training."""
        return self.learning_rate * min(1.0, share / WARM_UP + 0.02) * (0.505 + 0.495 * math.cos(math.pi * share))


@dataclass
class History:
    """What happened.

    Attributes:
        epochs: for each its losses and, unless the fusion answers `late`, the score on the held-out part, as of the
            fusion's outcome.
        best: which was the best, from 0; several where modalities are apart, each with its own.
        lowest: the loss on the held-out part that made it so.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    best: list[int] = field(default_factory=list)
    lowest: list[float] = field(default_factory=list)


Batches = Callable[[Sequence[int], float], Batch]
"""From rows and the probability of modality dropout to their batch."""


def train(
    model: FusionModel,
    batches: Batches,
    parts: tuple[Sequence[int], Sequence[int], Sequence[int]],
    recipe: Recipe,
    device: torch.device,
    checkpoint: Path | None,
    about: dict[str, Any],
    say: Callable[[str], object],
) -> History:
    """Train to the best epoch on the held-out part, then let the fusion settle.

    Args:
        batches: makes batches of rows.
        parts: the rows to train on, those for early stopping, and those for what the fusion settles.
        checkpoint: a file that training is written to after every epoch, and taken up from if it is there.
        about: what the checkpoint belongs to, as JSON; another one's is refused.
        say: is given a line for each epoch.

    Raises:
        UserError: the loss is not finite, or the checkpoint is of something else.
    """
    training, held, settling = parts
    about = {**about, "recipe": asdict(recipe), "rows": [len(part) for part in parts]}
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    parts_of_state = model.parts()
    name = model.fusion.outcome.measure.replace("_", " ")
    history = History([], [-1] * len(parts_of_state), [math.inf] * len(parts_of_state))
    best = weights_of(model)
    if checkpoint is not None and checkpoint.exists():
        history, best = resume(checkpoint, about, model, optimizer)
        say(f"{checkpoint}: going on after epoch {len(history.epochs)}")

    def examples(rows: Sequence[int]) -> Callable[[], Iterator[Example]]:
        def run() -> Iterator[Example]:
            for some in in_batches(rows, recipe.batch):
                yield model.encode(batches(some, 0.0).to(device))

        return run

    def after_epoch(epoch: int) -> None:
        model.eval()
        with torch.no_grad():
            model.fusion.after_epoch(epoch, examples(training), examples(settling))

    if not history.epochs:
        after_epoch(0)
    steps = math.ceil(len(training) / recipe.batch)
    for epoch in range(len(history.epochs), recipe.epochs):
        if len(history.epochs) - 1 - max(history.best, default=0) >= recipe.patience:
            break
        # Chance depends on the seed and the epoch alone, so a run that was broken off goes on as if it had not been.
        torch.manual_seed(1_000_003 * recipe.seed + epoch)
        order = [training[index] for index in torch.randperm(len(training)).tolist()]
        model.train()
        total = 0.0
        for step, rows in enumerate(in_batches(order, recipe.batch)):
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate((epoch + step / steps) / recipe.epochs)
            example = model.encode(batches(rows, recipe.modality_dropout).to(device))
            loss = model.fusion.loss(example.target, example.tokens, example.masks, example.present)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += loss.item() * len(rows)
        if not math.isfinite(total):
            raise UserError(f"the loss is {total} after epoch {epoch + 1}: choose a lower learning_rate")
        after_epoch(epoch + 1)
        criterion, score = measure(model, examples(held))
        mean = sum(criterion) / len(criterion)
        scored = {} if model.fusion.late else {"held_out_score": score}
        history.epochs.append({"loss": total / len(training), "held_out_loss": mean, **scored})
        for part, begins in enumerate(parts_of_state):
            # Also where it is alike: of a modality that no held-out row has, the loss is always zero.
            if criterion[part] <= history.lowest[part]:
                history.best[part], history.lowest[part] = epoch, criterion[part]
                best |= {name: value for name, value in weights_of(model).items() if name.startswith(begins)}
        line = f"epoch {epoch + 1}: loss {total / len(training):.3f}, held out {mean:.3f}"
        say(line + (f", {name} {score:.1%}" if scored else ""))
        if checkpoint is not None:
            keep(checkpoint, about, model, optimizer, history, best)
    model.load_state_dict(best)
    model.eval()
    if model.fusion.settles:
        torch.manual_seed(1_000_003 * recipe.seed + recipe.epochs)
        with torch.no_grad():
            model.fusion.settle(examples(settling))
    return history


@torch.no_grad()
def measure(model: FusionModel, examples: Callable[[], Iterator[Example]]) -> tuple[list[float], float]:
    """The losses that early stopping watches, and the score."""
    loss, answers, targets = torch.zeros(len(model.parts())), [], []
    for each in examples():
        given = (each.tokens, each.masks, each.present)
        loss += model.fusion.criterion(each.target, *given).cpu() * len(each.target)
        answers.append(model.fusion(*given).cpu())
        targets.append(each.target.cpu())
    target = torch.cat(targets)
    return (loss / len(target)).tolist(), model.fusion.outcome.score(torch.cat(answers), target)


def in_batches(rows: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """The rows, so many at a time."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of all that the model has learned."""
    return {name: value.detach().clone().contiguous() for name, value in model.state_dict().items()}


def keep(
    path: Path,
    about: dict[str, Any],
    model: FusionModel,
    optimizer: torch.optim.Optimizer,
    history: History,
    best: dict[str, Tensor],
) -> None:
    """Write the state of training as safetensors, in place at once."""
    from safetensors.torch import save_file

    tensors = {f"model.{name}": value for name, value in weights_of(model).items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value.clone().contiguous() for name, value in state.items()}
    metadata = {"about": json.dumps(about), "history": json.dumps(asdict(history))}
    files.write(path, lambda partial: save_file(tensors, partial, metadata=metadata))


def resume(
    path: Path, about: dict[str, Any], model: FusionModel, optimizer: torch.optim.Optimizer
) -> tuple[History, dict[str, Tensor]]:
    """Take up the state of training that `keep` wrote: the history and the best weights; model and optimizer in place.

    Raises:
        UserError: it cannot be read, or is of another training.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
            for key in file.keys():  # noqa: SIM118 (not a dictionary)
                part, _, name = key.partition(".")
                parts[part][name] = file.get_tensor(key)
            written, history = json.loads(metadata["about"]), History(**json.loads(metadata["history"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"the checkpoint {path} cannot be read ({error}): remove it to begin anew") from error
    if written != json.loads(json.dumps(about)):
        raise UserError(
            f"the checkpoint {path} is of other data or settings: repeat those to go on, or give another checkpoint="
        )
    model.load_state_dict(parts["model"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in parts["optimizer"].items():
        index, _, entry = name.partition(".")
        state.setdefault(int(index), {})[entry] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    device = next(model.parameters()).device
    return history, {name: value.to(device) for name, value in parts["best"].items()}
