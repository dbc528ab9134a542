"""Hamburger: matrix decomposition as global context."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention.contract import Paper, Refine
from regard.attention.layout import map_to_tokens, tokens_to_map
from regard.attention.norm import BatchNorm
from regard.attention.offering import SPATIAL, MapFact


class Hamburger(Refine):
    """Hamburger: the map is rebuilt from a few vectors, which are found by decomposing it as a matrix.

        X    = relu(Wl x + bl)                               (C, N)
        D, C = the nonnegative (C, R) and (R, N) of which the product is near to X, by K multiplicative updates
        y    = x + bn(Wu D C)

    In training, gradients pass through the last update alone (the paper's one-step gradient). In evaluation they are
    those of all updates, so that what is attributed to the input is right. The updates start from vectors that are
    drawn once and kept in the state dict.

    Paper: Geng, Guo, Chen, Li, Wei, Lin, "Is Attention Better Than Matrix Decomposition?", ICLR 2021, with nonnegative
    matrix factorisation. The authors' code updates the codes once more, with the only gradient that it has, takes 7
    steps in evaluation, and puts a ReLU behind the sum.

    Args:
        channels: channels `C` of the map.
        atoms: how many vectors `R`; default 64, the paper's choice.
        steps: how many updates `K`; default 6, the paper's choice.
        one_step: whether training has the one-step gradient; default True, as in the paper.
        redraw: whether each forward in training draws new vectors to start from; default False.

    Shapes:
        x: `(B, C, *spatial)`, any number and size of spatial axes. Gives the same shape.

    Maps:
        code: `(batch, atom, *spatial)`, how much of each vector is at each position; zero or more.

    Raises:
        ValueError: `atoms` or `steps` is less than one.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "hamburger"
    aliases: ClassVar[tuple[str, ...]] = ("hamnet", "ham_head")
    paper: ClassVar[Paper] = Paper("Is Attention Better Than Matrix Decomposition?", "Geng et al.", "ICLR", 2021)
    formula: ClassVar[str] = "y = x + bn(Wu D C) with D C ≈ relu(Wl x + bl), D ≥ 0, C ≥ 0"
    layout = "map"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("code", ("batch", "atom", SPATIAL)),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "2*C*C + 3*C"
    letters: ClassVar[dict[str, str]] = {"C": "channels"}
    deviations: ClassVar[tuple[str, ...]] = (
        "one_step=False: training has the gradient of all updates",
        "redraw=True: training starts from new vectors each time, as in the authors' code, where evaluation does too",
    )
    placement: ClassVar[str] = "after the last stage of a segmentation network"
    place = "last_stage"

    bases: Tensor

    def __init__(
        self, channels: int, atoms: int = 64, steps: int = 6, one_step: bool = True, redraw: bool = False
    ) -> None:
        super().__init__()
        self.channels = channels
        self.atoms = atoms
        self.steps = steps
        self.one_step = one_step
        self.redraw = redraw
        self.lower = nn.Linear(channels, channels)
        self.upper = nn.Linear(channels, channels, bias=False)
        self.norm = BatchNorm(channels)
        self.register_buffer("bases", F.normalize(torch.rand(channels, atoms), dim=0))

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        spatial = tuple(x.shape[2:])
        matrix = self.lower(map_to_tokens(x).contiguous()).relu().transpose(1, 2)  # (B, C, N)
        exact = matrix.to(torch.promote_types(matrix.dtype, torch.float32))  # the updates divide small by small
        bases = self.bases.to(exact.dtype).expand(x.shape[0], -1, -1)  # (B, C, R)
        if self.training and self.redraw:
            bases = F.normalize(torch.rand_like(bases), dim=1)
        bases, codes = functional.nonnegative_factors(
            exact, bases, self.steps, one_step=self.training and self.one_step
        )  # (B, C, R), (B, R, N)
        codes = self.offer("code", codes.unflatten(2, spatial)).flatten(2)
        rebuilt = torch.bmm(codes.transpose(1, 2), bases.transpose(1, 2)).to(x.dtype)  # (B, N, C)
        return x + self.norm(tokens_to_map(self.upper(rebuilt), spatial))  # (B, C, *spatial)
