"""Between the two layouts: a map `(B, C, *spatial)` and its positions as tokens `(B, N, C)`, row by row."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard.attention import offering
from regard.attention.contract import Read, Refine, ShapeError


def map_to_tokens(x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B N C"]:
    """The positions of a map, row by row; a view wherever the strides allow it, contiguous if `x` is channels-last."""
    return x.flatten(2).transpose(1, 2)


def tokens_to_map(tokens: Float[Tensor, "B N C"], spatial: tuple[int, ...]) -> Float[Tensor, "B C *spatial"]:
    """The inverse of `map_to_tokens`; a view with channels-last strides if `tokens` are contiguous."""
    return tokens.transpose(1, 2).unflatten(2, spatial)


def proportional(grid: tuple[int, ...], positions: int) -> tuple[int, ...] | None:
    """Return the grid of so many positions that has the proportions of another grid, None if there is none."""
    if positions == math.prod(grid):
        return grid
    scale = (positions / math.prod(grid)) ** (1 / len(grid))
    sizes = tuple(round(size * scale) for size in grid)
    return sizes if math.prod(sizes) == positions else None


def memory_format(x: Tensor) -> torch.memory_format:
    """Channels-last if `x` is that and not contiguous, else contiguous."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim)
    if last is not None and not x.is_contiguous() and x.is_contiguous(memory_format=last):
        return last
    return torch.contiguous_format


class OnMap(nn.Module):
    """A `Refine` of tokens, applied to a map: every position becomes a token, row by row, and goes back.

    Args:
        refine: a mechanism whose layout is `"tokens"`.

    Shapes:
        x: `(B, C, *spatial)`. Gives the same shape, in the same memory format.

    Maps:
        those of `refine`, which then know the grid over which their positions lie.

    Raises:
        ValueError: the mechanism already takes maps.
        ShapeError: the input is no map, or has another channel count.
    """

    def __init__(self, refine: Refine) -> None:
        super().__init__()
        if refine.layout != "tokens":
            raise ValueError(
                f"OnMap got {type(refine).__name__}, which takes maps already, expected a mechanism of tokens: "
                "use it without OnMap."
            )
        self.refine = refine

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        _check_map(self, x)
        spatial = tuple(x.shape[2:])
        tokens = map_to_tokens(x)  # (B, N, C)
        if offering.listening():
            with offering.over_grid(spatial):
                refined = self.refine(tokens)
        else:
            refined = self.refine(tokens)  # (B, N, C)
        return tokens_to_map(refined, spatial).contiguous(memory_format=memory_format(x))  # (B, C, *spatial)


class OnTokens(nn.Module):
    """A `Refine` of maps, applied to tokens: they are laid out on their grid, row by row, and go back.

    Args:
        refine: a mechanism whose layout is `"map"`.
        extra_tokens: how many tokens at the front are no positions (a class token, registers); they pass unchanged.
        grid: the grid's sizes, `(height, width)`; for other numbers of tokens a grid of the same proportions is taken.
            Default None: it is square.

    Shapes:
        tokens: `(B, N, C)`, N = extra tokens + positions. Gives the same shape.

    Maps:
        those of `refine`, over the grid.

    Raises:
        ValueError: the mechanism takes tokens already, or not maps of as many axes as the grid has.
        ShapeError: the input is no sequence of tokens, or has a number of positions that no such grid has.
    """

    def __init__(self, refine: Refine, extra_tokens: int = 0, grid: tuple[int, ...] | None = None) -> None:
        super().__init__()
        if refine.layout != "map":
            raise ValueError(
                f"OnTokens got {type(refine).__name__}, which takes tokens already, expected a mechanism of maps: "
                "use it without OnTokens."
            )
        rank = 2 if grid is None else len(grid)
        if rank not in refine.spatial_ranks:
            raise ValueError(
                f"OnTokens got {type(refine).__name__} and a grid of {rank} axes, expected one of "
                f"{' or '.join(map(str, refine.spatial_ranks))}: give another grid, or another mechanism."
            )
        self.refine = refine
        self.extra_tokens = extra_tokens
        self.grid = (1,) * rank if grid is None else tuple(grid)

    def forward(self, tokens: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        if tokens.ndim != 3:
            raise ShapeError(
                f"OnTokens got an input of shape {tuple(tokens.shape)}, expected tokens (batch, positions, channels): "
                "give a map to the mechanism itself."
            )
        extra, positions = tokens[:, : self.extra_tokens], tokens[:, self.extra_tokens :]
        refined = self.refine(tokens_to_map(positions, self.grid_of(positions.shape[1])))  # (B, C, *grid)
        return torch.cat((extra, map_to_tokens(refined)), 1)  # (B, N, C)

    def grid_of(self, positions: int) -> tuple[int, ...]:
        """The grid of so many positions that has the proportions of `grid`."""
        sizes = proportional(self.grid, positions)
        if sizes is None:
            proportions = "×".join(map(str, self.grid))
            raise ShapeError(
                f"OnTokens got {positions} positions beside {self.extra_tokens} extra tokens, expected a grid in "
                f"proportions of {proportions}: give extra_tokens= and grid= as the model has them."
            )
        return sizes


class ReadMap(nn.Module):
    """A `Read` whose memory is a map: every position is a token of the memory, row by row.

    Args:
        read: a mechanism that reads a memory of tokens; its memory width is the map's channel count.

    Shapes:
        query `(B, T, Dq)`, memory `(B, Dm, *spatial)`, mask `(B, *spatial)` with True = takes part.
        Gives the context `(B, T, D)`.

    Maps:
        those of `read`, which then know the grid over which their keys lie.

    Raises:
        ShapeError: the memory is no map, the mask is not over its positions, or a width or batch size does not fit.
    """

    def __init__(self, read: Read) -> None:
        super().__init__()
        self.read = read

    def forward(
        self,
        query: Float[Tensor, "B T Dq"],
        memory: Float[Tensor, "B Dm *spatial"],
        mask: Bool[Tensor, "B *spatial"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        _check_map(self, memory)
        if mask is not None:
            expected = (memory.shape[0], *memory.shape[2:])
            if tuple(mask.shape) != expected:
                raise ShapeError(
                    f"ReadMap got a mask of shape {tuple(mask.shape)}, expected {expected}: "
                    "give one boolean for each position of the map."
                )
            mask = mask.flatten(1)  # (B, N)
        tokens = map_to_tokens(memory)  # (B, N, Dm)
        if offering.listening():
            with offering.over_grid(tuple(memory.shape[2:])):
                return self.read(query, tokens, mask)
        return self.read(query, tokens, mask)  # (B, T, D)


def _check_map(adapter: nn.Module, x: Tensor) -> None:
    if x.ndim < 3:
        raise ShapeError(
            f"{type(adapter).__name__} got an input of shape {tuple(x.shape)}, expected a map of shape "
            "(batch, channels, *spatial): give tokens to the mechanism itself."
        )
