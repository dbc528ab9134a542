"""Attention over modalities."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard.attention.contract import Merge, Paper
from regard.attention.layout import memory_format
from regard.attention.offering import SPATIAL, MapFact


class AttentionFusion(Merge):
    """Attention fusion: at every position one network weighs the modalities, or embeddings, against each other.

        u_m = P_m x_m + b_m                     projection to a common space, one a modality
        a   = softmax over m of w · u_m + c     (B, R, *spatial)
        y   = Σ_m a_m u_m

    Paper: Kiela, Wang, Cho, "Dynamic Meta-Embeddings for Improved Sentence Representations", EMNLP 2018, section 3.2.
    Its sentence of words is here a map of any number of axes.

    Args:
        channels: channels `C` of every input and of the common space.
        modalities: number `R` of inputs; default 2.
        project: whether each modality has its projection; default True, as in the paper.

    Shapes:
        x_1 .. x_R: `(B, C, *spatial)`, of one shape, any number and size of spatial axes. Gives the same shape.

    Maps:
        modality: `(batch, branch, *spatial)`, sums to one over the branches, which are the modalities.

    Raises:
        ValueError: `modalities` is less than one.
        ShapeError: the inputs differ in shape, or have another channel count or number than `modalities`.
    """

    name: ClassVar[str] = "attention_fusion"
    aliases: ClassVar[tuple[str, ...]] = ("dme", "dynamic_meta_embeddings")
    paper: ClassVar[Paper] = Paper(
        "Dynamic Meta-Embeddings for Improved Sentence Representations", "Kiela et al.", "EMNLP", 2018
    )
    formula: ClassVar[str] = "y = Σ_m softmax_m(w · u_m + c) u_m with u_m = P_m x_m + b_m"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("modality", ("batch", "branch", SPATIAL), ("branch",)),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "R*(C*C + C) + C + 1"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "R": "inputs"}
    deviations: ClassVar[tuple[str, ...]] = ("project=False: the inputs share a space already and are weighed as is",)
    placement: ClassVar[str] = "where encodings of several modalities or embeddings meet"
    place = "skip"

    def __init__(self, channels: int, modalities: int = 2, project: bool = True) -> None:
        super().__init__()
        self.channels = channels
        self.inputs = modalities  # pyright: ignore[reportAttributeAccessIssue]
        self.project = nn.ModuleList(
            nn.Conv1d(channels, channels, 1) if project else nn.Identity() for _ in range(modalities)
        )
        self.score = nn.Conv1d(channels, 1, 1)

    def forward(self, *modalities: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(*modalities)
        shape = modalities[0].shape
        projected = [
            project(x.flatten(2)) for project, x in zip(self.project, modalities, strict=True)
        ]  # R of (B, C, N)
        weights = torch.cat([self.score(x) for x in projected], 1).softmax(1)  # (B, R, N)
        weights = self.offer("modality", weights.unflatten(2, shape[2:])).flatten(2)
        y = weights[:, :1] * projected[0]  # (B, C, N)
        for m, x in enumerate(projected[1:], start=1):
            y = torch.addcmul(y, weights[:, m : m + 1], x)
        return y.reshape(shape).contiguous(memory_format=memory_format(modalities[0]))  # (B, C, *spatial)

    def check(self, *inputs: Tensor) -> None:
        """Refuse, besides, another number of inputs."""
        if len(inputs) != self.inputs:
            raise self.refuse(
                f"{len(inputs)} inputs", f"{self.inputs}", "build it with the number of inputs as modalities"
            )
        super().check(*inputs)
