"""Classification of somebody's own pictures, without attention and with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from regard.attention import Refine, mechanisms
from regard.attention.catalogue import get
from regard.errors import GO_ON_WITHOUT, UserError
from regard.files import save_weights
from regard.models.decoding import Bad, Pictures
from regard.placing import Placed, insert, inserted
from regard.running import undisturbed
from regard.tasks.batching import Epoch, batches_of, in_batches, in_random_batches
from regard.tasks.pictures import maps, views
from regard.tasks.pictures.backbone import backbone as find_backbone
from regard.tasks.pictures.folder import Found, among, find
from regard.tasks.task import AblatedOutcomes, Evaluation
from regard.watching import NoMapError, watch
from regard.watching.ablation import ablations

Batch = tuple[Float[Tensor, "B 3 size size"], Int[Tensor, " B"]]
"""Pictures and their classes."""

EXAMPLES = 12
"""How many test pictures the report shows."""

SHOWN_SIDE = 160
"""How large it shows them at most."""

SMOOTHING = 0.1
"""Label smoothing of Szegedy et al., “Rethinking the Inception Architecture for Computer Vision”, CVPR 2016."""

ABLATED = 16
"""Pictures a batch at most while attention is ablated: the maps of all places are kept at once."""

_split, _shuffle, _augment, _choice = range(4)  # each purpose has its own stream of random numbers for a seed


@dataclass(frozen=True)
class Split:
    """Which pictures are for what, as indices."""

    train: list[int]
    validation: list[int]
    test: list[int]


class PicturesTask:
    """Classification of a folder of pictures with a backbone of timm, without attention and with it.

    For one seed everything is equal between `"none"` and all mechanisms but the attention itself: the split, the
    initial weights of the backbone, the order of the pictures and how each is cropped and flipped.

    Args:
        folder: one sub-folder a class, as torchvision's `ImageFolder` takes it.
        backbone: a model of timm.
        pretrained: start from its published weights.
        at: where attention goes, as `regard.insert` takes it; None: where the paper of each mechanism puts it.
        start: `"identity"` or `"paper"`, as `regard.insert` takes it; None: identity if `pretrained`, otherwise paper.
        augmentation: how training pictures are varied, one of `views.AUGMENTATIONS`; default random crops.
        learning_rate: the highest of the schedule; default 1e-3, and 3e-4 if `pretrained`.
        weight_decay: of AdamW; default 1e-4.
        label_smoothing: of the loss; default 0.1.
        frozen: the backbone stays as it is; attention and the classifier are trained.
        size: side of the pictures that the network sees.
        batch: pictures in a training step.
        skip_bad: leave out files that cannot be read instead of refusing them.
        device: where models and batches are.
        test_share: of each class, how much is for the test; at least one picture.
        validation_share: the same for learning curves.
        classes: those of a run, whose models are to be measured on all pictures of another folder; nothing is trained.

    Attributes:
        names: the pictures, by their path in the folder.
        skipped: the files that were left out.
        start, augmentation: as given, or their defaults.
        weight_decay, label_smoothing: as given.
        measure: what accuracy is, in words; None, as it is the share of right answers.
        about: how models are built and trained, in words.

    Raises:
        UserError: the folder does not hold what is expected, a file cannot be read, or there is no such backbone.
    """

    name = "pictures"
    measure = None

    def __init__(
        self,
        folder: Path,
        *,
        backbone: str = "resnet18",
        pretrained: bool = False,
        at: str | Sequence[str] | None = None,
        start: str | None = None,
        augmentation: str = "crop",
        learning_rate: float | None = None,
        weight_decay: float = 1e-4,
        label_smoothing: float = SMOOTHING,
        frozen: bool = False,
        size: int = 128,
        batch: int = 32,
        skip_bad: bool = False,
        device: str | torch.device = "cpu",
        test_share: float = 0.2,
        validation_share: float = 0.1,
        classes: Sequence[str] | None = None,
    ) -> None:
        if size < 1 or batch < 1:
            raise UserError(f"size {size} and batch {batch}: both must be at least 1")
        if not (test_share > 0 and validation_share > 0 and test_share + validation_share < 1):
            raise UserError(
                f"{test_share} of the pictures for the test and {validation_share} for validation: "
                "both must be more than 0 and leave some for training"
            )
        if augmentation not in views.AUGMENTATIONS:
            raise UserError(
                f"there is no augmentation {augmentation!r}: choose one of {', '.join(views.AUGMENTATIONS)}"
            )
        if start not in (None, "identity", "paper"):
            raise UserError(f"there is no start {start!r}: choose identity or paper")
        if not 0 <= label_smoothing < 1 or not weight_decay >= 0 or not (learning_rate is None or learning_rate > 0):
            raise UserError(
                f"label smoothing {label_smoothing}, weight decay {weight_decay} and learning rate {learning_rate}: "
                "expected at least 0 and below 1, at least 0, and above 0"
            )
        self._backbone = find_backbone(backbone, pretrained)
        self._at = at
        own = "identity" if pretrained else "paper"
        self.start: Literal["identity", "paper"] = cast(Literal["identity", "paper"], start or own)
        self.augmentation = augmentation
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self._learning_rate = learning_rate or (3e-4 if pretrained else 1e-3)
        self._frozen = frozen
        self._size = size
        self._batch = batch
        self._device = torch.device(device)
        self._shares = (test_share, validation_share)
        self._splits: dict[int, Split] = {}
        found = find(folder) if classes is None else among(folder, classes)
        # Twice the network's size: no crop for training has a side below 0.6 of the picture's.
        self._pictures = Pictures(found.paths, shorter=2 * size)
        bad = self._pictures.bad
        if bad and not skip_bad:
            raise UserError(_bad_files(list(bad.values())))
        self.skipped = [one.path for one in bad.values()]
        self.families = found.classes
        self._labels = found.labels
        self._good = [index for index in range(len(found.paths)) if index not in bad]
        self.names = [found.paths[index].relative_to(folder).as_posix() for index in self._good]
        self._untrained = classes is not None
        self._require_enough(folder, found)

    def split(self, seed: int) -> Split:
        """Which pictures are for what: of every class its share, at least one each."""
        if seed in self._splits:
            return self._splits[seed]
        if self._untrained:
            return Split([], [], self._good)
        split = Split([], [], [])
        for label in range(len(self.families)):
            members = [index for index in self._good if self._labels[index] == label]
            mixed = [members[place] for place in np.random.default_rng([_split, seed, label]).permutation(len(members))]
            test = max(1, min(round(len(mixed) * self._shares[0]), len(mixed) - 2))
            validation = max(1, min(round(len(mixed) * self._shares[1]), len(mixed) - test - 1))
            split.test.extend(mixed[:test])
            split.validation.extend(mixed[test : test + validation])
            split.train.extend(mixed[test + validation :])
        self._splits[seed] = split
        return split

    def check(self, attention: str) -> None:
        """Refuse what `model` would refuse, before anything is trained.

        Raises:
            UserError: no such mechanism (then an `UnknownMechanismError`), one that cannot be inserted, no such place,
                or a backbone that cannot be had.
        """
        self.model(attention, seed=0)

    def model(self, attention: str, seed: int) -> nn.Module:
        """The backbone alone for `"none"`, otherwise with a mechanism, or with several in order: `"se+simam"`.

        PyTorch's global random state is afterwards as before, whatever was built.

        Raises:
            UserError: see `check`.
        """
        wanted = _mechanisms(attention)
        with torch.random.fork_rng(devices=[]):
            model = self._backbone.build(len(self.families), self._size, seed)
            if wanted:
                insert(model, wanted, self._at, start=self.start, example=(1, 3, self._size, self._size))
            if self._frozen:
                for module in _frozen(model):
                    for parameter in module.parameters(recurse=False):
                        parameter.requires_grad_(False)
        return model.to(self._device)

    def batches(self, seed: int, epoch: int, progress: float) -> Epoch[int, Tensor, Batch]:
        """All training pictures in a new order, augmented; `progress` changes nothing."""
        train = self.split(seed).train
        order = [train[place] for place in np.random.default_rng([_shuffle, seed, epoch]).permutation(len(train))]
        parts = in_batches(order, self._batch)[: self.length(seed)]

        def view(index: int) -> UInt8[Tensor, "3 size size"]:
            draw = np.random.default_rng([_augment, seed, epoch, index])
            picture, by = self._pictures[index], self._backbone.interpolation
            return views.augmented(picture, self._size, by, draw, self.augmentation)

        return Epoch(parts, view, self._collate)

    def length(self, seed: int) -> int:
        """How many batches an epoch has."""
        return batches_of(len(self.split(seed).train), self._batch)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross entropy with label smoothing."""
        pictures, labels = batch
        if self._frozen:  # also its running statistics
            for module in _frozen(model):
                module.training = False
        logits = model(_like(pictures, model))
        return functional.cross_entropy(logits, labels.to(logits.device), label_smoothing=self.label_smoothing)

    def learning_rate(self) -> float:
        """For AdamW."""
        return self._learning_rate

    def validate(self, model: nn.Module, seed: int) -> Evaluation:
        """The outcomes on the validation pictures."""
        return self._outcomes(model, self.split(seed).validation)

    def evaluate(self, model: nn.Module, seed: int) -> Evaluation:
        """The outcomes on the test pictures."""
        return self._outcomes(model, self.split(seed).test)

    def ablate(self, model: nn.Module, seed: int) -> AblatedOutcomes:
        """The outcomes on the test pictures, in random order, as the model is and with its attention ablated."""
        parts = in_random_batches(self.split(seed).test, min(self._batch, ABLATED), seed)
        indices = [index for part in parts for index in part]
        labels = torch.tensor([self._labels[index] for index in indices])
        batches = Epoch(parts, self._centred, self._collate)
        found = ablations(model, batches, lambda batch: model(_like(batch[0], model)).argmax(1), seed=seed)
        return AblatedOutcomes.of(found, np.array(indices), lambda said: (said == labels).numpy())

    def shortcuts(self) -> dict[str, Evaluation]:
        """What is right if the most frequent class of training is said to every test picture."""
        split = self.split(0)
        counts = np.bincount([self._labels[index] for index in split.train or split.test])
        labels = np.array([self._labels[index] for index in split.test])
        return {"the most frequent class": Evaluation(labels == counts.argmax(), labels, np.array(split.test))}

    @property
    def about(self) -> str:
        """How models are built and trained, in words."""
        weights = "its published weights" if self._backbone.pretrained else "random weights"
        begins = {"identity": "as the identity", "paper": "as its paper has it"}[self.start]
        where = "where its paper puts it" if self._at is None else f"at {self._at}"
        return (
            f"Backbone: {self._backbone.name} from {weights}{', frozen' if self._frozen else ''}. Attention: {where}, "
            f"starts {begins}. Augmentation: {views.AUGMENTATIONS[self.augmentation]}. AdamW: learning rate "
            f"{self._learning_rate:g}, weight decay {self.weight_decay:g}; label smoothing {self.label_smoothing:g}."
        )

    def example(self, seed: int) -> tuple[Tensor, ...]:
        """One test picture."""
        first = self.split(seed).test[0]
        return (self._collate([first], [self._centred(first)])[0],)

    def examples(self, seed: int) -> list[dict[str, Any]]:
        """Up to twelve test pictures, as many of one class as of another where there are; exactly what is seen."""
        found = []
        for index in self._chosen(seed):
            picture, side = views.shown(self._pictures[index], SHOWN_SIDE)
            found.append(
                {
                    "picture": picture,
                    "width": side,
                    "height": side,
                    "question": None,
                    "family": None,
                    "truth": self.families[self._labels[index]],
                    "box": None,
                }
            )
        return found

    def readings(self, model: nn.Module, seed: int) -> list[dict[str, Any]]:
        """What the model says of these pictures, with the maps of the last place that has attention."""
        found = []
        for index in self._chosen(seed):
            picture = _like(self._collate([index], [self._centred(index)])[0], model)
            logits, seen = _watched(model, picture)
            answer = int(logits.argmax())
            found.append(
                {
                    "answer": self.families[answer],
                    "probability": float(logits.softmax(0)[answer]),
                    "correct": answer == self._labels[index],
                    "maps": seen,
                }
            )
        return found

    def keep(self, model: nn.Module, folder: Path) -> None:
        """Its weights as `model.safetensors`; the run's settings and the variant's name say what they belong to."""
        save_weights(model, folder / "model.safetensors")

    def _outcomes(self, model: nn.Module, indices: list[int]) -> Evaluation:
        correct: list[Tensor] = []
        with undisturbed(model):
            for pictures, labels in Epoch(in_batches(indices, self._batch), self._centred, self._collate):
                correct.append(model(_like(pictures, model)).argmax(1).cpu() == labels.cpu())
        return Evaluation(
            correct=torch.cat(correct).numpy(),
            families=np.array([self._labels[index] for index in indices]),
            groups=np.array(indices),
        )

    def _centred(self, index: int) -> UInt8[Tensor, "3 size size"]:
        return views.centred(self._pictures[index], self._size, self._backbone.interpolation)

    def _collate(self, indices: Sequence[int], seen: list[UInt8[Tensor, "3 size size"]]) -> Batch:
        pictures = views.normalized(seen, self._backbone.mean, self._backbone.deviation)
        labels = torch.tensor([self._labels[index] for index in indices])
        return pictures.to(self._device), labels.to(self._device)

    def _chosen(self, seed: int) -> list[int]:
        """The pictures for the report: one of each class in turn, classes in random order."""
        test = self.split(seed).test
        by_class = [[index for index in test if self._labels[index] == label] for label in range(len(self.families))]
        order = np.random.default_rng([_choice, seed]).permutation(len(by_class))
        turns = max(map(len, by_class))
        return [by_class[at][turn] for turn in range(turns) for at in order if turn < len(by_class[at])][:EXAMPLES]

    def _require_enough(self, folder: Path, found: Found) -> None:
        least, parts = (1, "") if self._untrained else (3, ", for training, validation and test")
        for label in sorted(set(found.labels)):
            count = sum(found.labels[index] == label for index in self._good)
            if count < least:
                left_out = sum(found.labels[index] == label for index in self._pictures.bad)
                bad = f" and {left_out} that cannot be read" if left_out else ""
                raise UserError(
                    f"the class folder {folder / found.classes[label]} holds {count} picture{'' if count == 1 else 's'}"
                    f"{bad}: expected at least {least}{parts}; add pictures or take the folder away"
                )


def _frozen(model: nn.Module) -> list[nn.Module]:
    """The modules of the backbone alone: all but its classifier and what was inserted."""
    heads: Any = cast(Any, model).get_classifier()  # a model of timm; some have two
    own = list(heads) if isinstance(heads, (tuple, list)) else [heads]
    own += [module for module in model.modules() if isinstance(module, Placed)]
    learning = {inner for module in own for inner in module.modules()}
    return [module for module in model.modules() if module not in learning]


def _mechanisms(attention: str) -> list[str]:
    if attention == "none":
        return []
    names = [name.strip() for name in attention.split("+")]
    for name in names:
        kind = get(name)
        if not issubclass(kind, Refine):
            fitting = sorted(name for name, kind in mechanisms.items() if issubclass(kind, Refine))
            raise UserError(
                f"{name!r} cannot be put into a backbone: it is a {kind.contract}, and only a Refine gives the shape "
                f"that it takes; those are {', '.join(fitting)}"
            )
    return names


# `Any`: maps as the report reads them.
def _watched(model: nn.Module, picture: Float[Tensor, "1 3 size size"]) -> tuple[Tensor, list[dict[str, Any]]]:
    """The logits for one picture, and the maps of the last place."""
    found = inserted(model)
    with undisturbed(model):
        if not found:
            return model(picture)[0].float(), []
        path, last = list(found.items())[-1]
        with watch(model, path) as seen:
            logits = model(picture)[0].float()
        try:
            return logits, maps.entries(seen.maps, last, maps.token_grid(model))
        except NoMapError:  # a mechanism that offers none
            return logits, []


def _like(pictures: Tensor, model: nn.Module) -> Tensor:
    """Where the model is, in its number format."""
    own = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
    return pictures.to(own.device, own.dtype)


def _bad_files(bad: list[Bad]) -> str:
    named = ", ".join(f"{one.path} ({one.reason})" for one in bad[:3])
    rest = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
    return (
        f"{len(bad)} picture{'' if len(bad) == 1 else 's'} cannot be read: {named}{rest}; expected files that decode "
        f"to the end: repair or remove them, or {GO_ON_WITHOUT}"
    )
