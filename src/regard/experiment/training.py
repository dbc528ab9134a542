"""Train one variant from one seed on Lightning, so that it can break off anywhere and go on from its last epoch."""

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from regard.errors import UserError, in_one_line
from regard.experiment.checkpoint import SafetensorsCheckpoints
from regard.tasks.task import Batch, Evaluation, Looks, Task

WARM_UP = 0.03
"""Share of training over which the learning rate rises; after it, half a cosine down to a hundredth."""

WEIGHT_DECAY = 1e-4
"""Of AdamW, where a task says nothing else."""

EVALUATIONS = 8
"""Points of a learning curve."""


@dataclass(frozen=True)
class Budget:
    """How long to train: a number of epochs, or minutes of training."""

    epochs: int | None = None
    minutes: float | None = None

    def progress(self, epoch: int, batch: int, batches: int, seconds: float) -> float:
        """How much of the budget is used, from 0 to 1."""
        if self.epochs is not None:
            return min(1.0, (epoch + batch / batches) / self.epochs)
        return min(1.0, seconds / (60 * (self.minutes or 1)))


@dataclass
class Progress:
    """Where training stands, for whoever shows it: share done, seconds trained, last loss and accuracy.

    Before it, how many pictures a frozen network has seen, and of how many; otherwise of 0.
    """

    share: float = 0.0
    epoch: int = 0
    seconds: float = 0.0
    loss: float = math.nan
    accuracy: float = math.nan
    seen: int = 0
    pictures: int = 0


class Epoch:
    """An epoch's batches, which can be gone through more than once, as Lightning does."""

    def __init__(self, task: Task, seed: int, epoch: int, progress: float) -> None:
        self.task, self.seed, self.epoch, self.progress = task, seed, epoch, progress

    def __len__(self) -> int:
        return self.task.length(self.seed)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.task.batches(self.seed, self.epoch, self.progress))


class Fit(lightning.LightningModule):
    """A task's loss and a model, as Lightning trains them."""

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        seed: int,
        budget: Budget,
        checkpoint: Path,
        report: Callable[[Progress], None],
    ) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.task, self.model, self.seed, self.budget, self.report = task, model, seed, budget, report
        self.progress = Progress()
        self.curve: list[dict[str, Any]] = []
        """The learning curve: one row an evaluation."""
        self._began = 0.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        decay = getattr(self.task, "weight_decay", WEIGHT_DECAY)
        return torch.optim.AdamW(self.model.parameters(), lr=self.task.learning_rate(), weight_decay=decay)

    def train_dataloader(self) -> Epoch:
        return Epoch(self.task, self.seed, self.current_epoch, self._share(0))

    def on_train_start(self) -> None:
        # What is seen once, for all variants, is none of the time that one of them trains.
        if isinstance(self.task, Looks):
            self.task.look(self.model, self._looked)
            self.progress.pictures = 0

    def on_train_epoch_start(self) -> None:
        # Chance depends on the seed and the epoch alone, so a run that was broken off goes on as if it had not been.
        torch.manual_seed(1_000_003 * self.seed + self.current_epoch)
        self._began = time.perf_counter()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> int | None:
        share = self._share(batch_idx)
        if share >= 1:
            return -1  # the minutes are over: the rest of the epoch is left out
        warm = min(1.0, share / WARM_UP + 0.02)
        rate = self.task.learning_rate() * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate
        self.progress.share, self.progress.epoch = share, self.current_epoch
        self.report(self.progress)
        return None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.task.loss(self.model, batch)
        if batch_idx % 10 == 0:
            self.progress.loss = float(loss.detach())
        return loss

    def on_train_epoch_end(self) -> None:
        self.progress.seconds += time.perf_counter() - self._began
        done = self.budget.progress(self.current_epoch + 1, 0, 1, self.progress.seconds)
        # Of minutes that were over before this epoch began, when a finished run is taken up, none is left for a step.
        stepped = not self.curve or self.curve[-1]["step"] < self.global_step
        if stepped and (done * EVALUATIONS >= len(self.curve) + 1 or done >= 1):
            self._evaluate()
        self._began = time.perf_counter()
        if done >= 1:
            self.trainer.should_stop = True
        self.trainer.save_checkpoint(self.checkpoint)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["regard"] = {"seconds": self.progress.seconds, "curve": self.curve}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.progress.seconds = checkpoint["regard"]["seconds"]
        self.curve = checkpoint["regard"]["curve"]
        if self.curve:
            self.progress.accuracy = self.curve[-1]["accuracy_overall"]

    def load_state_dict(self, *given: Any, **named: Any) -> Any:
        try:
            return super().load_state_dict(*given, **named)
        except RuntimeError as error:
            raise UserError(
                f"{self.checkpoint} holds the training of another model, perhaps as an earlier version built it "
                f"({in_one_line(error)[:200]}): begin again with --no-resume"
            ) from error

    def _looked(self, seen: int, pictures: int) -> None:
        self.progress.seen, self.progress.pictures = seen, pictures
        self.report(self.progress)

    def _share(self, batch: int) -> float:
        seconds = self.progress.seconds + (time.perf_counter() - self._began if self._began else 0.0)
        return self.budget.progress(self.current_epoch, batch, self.task.length(self.seed), seconds)

    def _evaluate(self) -> None:
        evaluation = self.task.validate(self.model, self.seed)
        accuracies = accuracy(evaluation, self.task.families)
        self.progress.accuracy = accuracies["overall"]
        self.curve.append(
            {
                "epoch": self.current_epoch + 1,
                "step": self.global_step,
                "seconds": round(self.progress.seconds, 3),
                "loss": self.progress.loss,
                **{f"accuracy_{family}": value for family, value in accuracies.items()},
            }
        )


def accuracy(evaluation: Evaluation, families: Sequence[str]) -> dict[str, float]:
    """How right the answers are by family, and overall; a family that was never asked is left out."""
    kinds = evaluation.kinds(families)
    return {family: float(evaluation.correct[among].mean()) for family, among in kinds.items()}


def train(
    task: Task,
    attention: str,
    seed: int,
    budget: Budget,
    checkpoint: Path,
    precision: str,
    device: str,
    report: Callable[[Progress], None],
) -> Fit:
    """Train to the end of the budget, from the checkpoint if there is one; for no epochs, the model is as it came.

    Args:
        task: what is learned.
        attention: the variant.
        seed: where it starts.
        budget: how long.
        checkpoint: where the state of training is kept after every epoch, and taken up from.
        precision: Lightning's name of the arithmetic.
        device: `cpu`, `cuda`, `cuda:1`, `mps`.
        report: called with the progress before every batch, and while pictures are seen before training.

    Raises:
        UserError: the checkpoint is of another model.
        KeyboardInterrupt: the person at the keyboard stopped it; the checkpoint stands.
    """
    fit = Fit(task, task.model(attention, seed), seed, budget, checkpoint, report)
    if budget.epochs == 0:
        return fit
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    kind, _, number = device.partition(":")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        trainer = lightning.Trainer(
            accelerator={"cuda": "gpu"}.get(kind, kind),
            devices=[int(number)] if number else 1,
            precision=precision,  # pyright: ignore[reportArgumentType]  (checked where the settings are made)
            max_epochs=-1 if budget.epochs is None else budget.epochs,
            reload_dataloaders_every_n_epochs=1,
            gradient_clip_val=1.0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            plugins=[SafetensorsCheckpoints()],
            num_sanity_val_steps=0,
        )
        try:
            trainer.fit(fit, ckpt_path=str(checkpoint) if checkpoint.exists() else None)
        except SystemExit:  # what Lightning makes of Ctrl-C, after it has put everything away
            raise KeyboardInterrupt from None
    # However it was trained, it is measured, kept and asked in 32 bits, as everybody will who loads it.
    fit.model.to(torch.device(device), torch.float32)
    return fit
