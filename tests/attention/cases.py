"""From a mechanism's class alone: the module, inputs that it takes, and inputs that it must refuse.

Sizes are distinct primes where nothing must divide them, so that no transposed axis goes unnoticed. They are chosen by
contract, never by mechanism: whoever adds a mechanism adds nothing here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from math import prod
from typing import Literal, get_args, get_origin

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from regard.attention import Attention, Convolve, Merge, Read, Refine, Select, mechanisms
from regard.attention.offering import SPATIAL_NAMES

BATCH = 3
SPATIAL: dict[int, tuple[int, ...]] = {1: (17,), 2: (5, 7), 3: (2, 5, 7)}
OTHER_SPATIAL: dict[int, list[tuple[int, ...]]] = {
    1: [(1,), (2,), (29,)],
    2: [(1, 1), (1, 7), (7, 1), (13, 3), (8, 8)],
    3: [(1, 1, 1), (1, 1, 7), (3, 7, 5)],
}
POSITIONS, QUERIES, TOKENS = 13, 5, 7
OTHER_COUNTS = [1, 2, 29]
LARGE: dict[int, tuple[int, ...]] = {0: (17,), 1: (17,), 2: (18, 20), 3: (3, 5, 11)}
"""Larger than any window of the defaults, and no multiple of one."""

SMALLER = {"layers": 2, "sketch_width": 101, "joint_width": 120}
"""Instead of defaults of which more shows nothing more, and takes seconds to run and minutes to compile."""

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """One mechanism on one kind of input.

    Args:
        mechanism: the class.
        rank: how many spatial axes its input has; 0 for tokens.
    """

    mechanism: type[Attention]
    rank: int

    def __str__(self) -> str:
        several = issubclass(self.mechanism, Refine) and self.mechanism.layout == "map"
        return f"{self.mechanism.name}-{self.rank}d" if several else self.mechanism.name

    def build(self, size: int = 0, /, **arguments: object) -> Attention:
        """The module with nothing but its required arguments; `size` 1 is wider, 2 narrower than any reduction."""
        divisible = issubclass(self.mechanism, Refine) and self.mechanism.layout == "tokens"  # by its heads
        widths = {
            # 67 leaves four channels behind the usual reduction of 16: one alone could be closed by its ReLU.
            "channels": ((24, 48, 8) if divisible else (67, 128, 3))[size],
            "in_channels": (32, 64, 32)[size],
            "out_channels": (64, 96, 32)[size],
            "kernel_size": 3,
            "query_width": (16, 40, 8)[size],
            "memory_width": (24, 64, 8)[size],
        }
        for argument in signature(self.mechanism).parameters.values():
            if argument.name == "dims":
                arguments.setdefault("dims", self.rank)
            if argument.name in SMALLER:
                arguments.setdefault(argument.name, SMALLER[argument.name])
            if argument.default is Parameter.empty and argument.name not in arguments:
                assert argument.name in widths, f"tests/attention/cases.py knows no value for {argument.name}"
                arguments[argument.name] = widths[argument.name]
        return self.mechanism(**arguments)

    def inputs(
        self, module: Attention, batch: int = BATCH, spatial: tuple[int, ...] | None = None, count: int | None = None
    ) -> Inputs:
        """Random input by argument name of `forward`.

        Args:
            spatial: sizes of the spatial axes.
            count: how many positions or memory tokens, and how many queries less one.
        """
        spatial = SPATIAL.get(self.rank, ()) if spatial is None else spatial
        if isinstance(module, Merge):
            return {f"inputs[{i}]": torch.randn(batch, module.channels, *spatial) for i in range(module.inputs)}
        if isinstance(module, Convolve):
            return {"x": torch.randn(batch, module.in_channels, *spatial)}
        if isinstance(module, Read):
            inputs = {"memory": torch.randn(batch, TOKENS if count is None else count, module.memory_width)}
            if "query" in signature(module.forward).parameters and module.query_width:
                queries = QUERIES if count is None else count + 1
                inputs = {"query": torch.randn(batch, queries, module.query_width), **inputs}
            return inputs
        assert isinstance(module, Refine | Select)
        if self.rank == 0:
            return {"x": torch.randn(batch, POSITIONS if count is None else count, module.channels)}
        inputs = {"x": torch.randn(batch, module.channels, *spatial)}
        if getattr(module, "guide_channels", 0):
            inputs["guide"] = torch.randn(batch, module.guide_channels, *spatial)
        return inputs

    def other_inputs(self, module: Attention, batch: int = BATCH) -> list[Inputs]:
        """Inputs of other sizes: one position, one row, square, larger."""
        if self.rank:
            return [self.inputs(module, batch, spatial=spatial) for spatial in OTHER_SPATIAL[self.rank]]
        return [self.inputs(module, batch, count=count) for count in OTHER_COUNTS]

    def wrong_inputs(self, module: Attention) -> dict[str, Inputs]:
        """Inputs that must be refused, by what is wrong with them."""
        right = self.inputs(module)
        wrong: dict[str, Inputs] = {}
        width = -1 if self.rank == 0 else 1
        for name, x in right.items():
            wrong[f"{name} is wider"] = {**right, name: torch.cat([x, x], width)}
            wrong[f"{name} has no batch"] = {**right, name: x[0, 0]}
            wrong[f"{name} has too many axes"] = {**right, name: x.reshape(*x.shape, *[1] * (5 - x.ndim + 1))}
        if self.rank and not isinstance(module, Merge):
            for rank in {1, 2, 3} - set(module.spatial_ranks if isinstance(module, Refine) else (2,)):
                x = right["x"].flatten(2)[..., :2].reshape(len(right["x"]), -1, *[1] * (rank - 1), 2)
                wrong[f"x has {rank} spatial axes"] = {"x": x}
        if isinstance(module, Merge):
            name, x = next(iter(right.items()))
            wrong["differing sizes"] = {**right, name: torch.cat([x, x], -1)}
            wrong["differing batches"] = {**right, name: torch.cat([x, x])}
            del wrong[f"{name} has too many axes"]  # any number of spatial axes goes, but differing shapes
            wrong["all are wider"] = {name: torch.cat([x, x], 1) for name, x in right.items()}
        if isinstance(module, Read) and "query" in right:
            wrong["batches differ"] = {**right, "query": torch.cat([right["query"]] * 2)}
        if takes_mask(self.mechanism):
            B, N = right["memory" if "memory" in right else "x"].shape[:2]
            wrong["mask is not boolean"] = {**right, "mask": torch.ones(B, N)}
            wrong["mask is of integers"] = {**right, "mask": torch.ones(B, N, dtype=torch.long)}
            wrong["mask is of another length"] = {**right, "mask": torch.ones(B, N + 1, dtype=torch.bool)}
            wrong["mask is of another batch"] = {**right, "mask": torch.ones(B + 1, N, dtype=torch.bool)}
            wrong["mask has another number of queries"] = {**right, "mask": torch.ones(B, 11, N, dtype=torch.bool)}
            if not takes_mask_per_query(self.mechanism):
                wrong["mask has one row a query"] = {**right, "mask": torch.ones(B, N, N, dtype=torch.bool)}
        return wrong

    def output_shape(self, module: Attention, inputs: Inputs) -> tuple[int, ...] | None:
        """The shape that the contract promises, or None where it leaves it to the mechanism."""
        if isinstance(module, Convolve):
            B, _, H, W = inputs["x"].shape
            return B, module.out_channels, -(-H // module.stride), -(-W // module.stride)
        if isinstance(module, Read):
            queries = inputs["query"].shape[1] if "query" in inputs else None
            return None if queries is None else (len(inputs["query"]), queries, module.context_width)
        if isinstance(module, Select):
            return None
        return tuple(next(iter(inputs.values())).shape)

    def axis_sizes(self, module: Attention, inputs: Inputs) -> dict[str, int]:
        """How long an axis of that name must be."""
        first = next(iter(inputs.values()))
        sizes = {"batch": len(first)}
        if isinstance(module, Read):
            sizes |= {"key": inputs["memory"].shape[1], "channel": module.memory_width}
            if "query" in inputs:
                sizes["query"] = sizes["peer"] = inputs["query"].shape[1]  # peer: a query as seen by another
        elif self.rank == 0:
            sizes |= {"channel": first.shape[2], "query": first.shape[1], "key": first.shape[1]}
        else:
            positions = prod(first.shape[2:])
            sizes |= {"channel": first.shape[1], "query": positions, "key": positions}
            sizes |= dict(zip(SPATIAL_NAMES[self.rank], first.shape[2:], strict=True))
        if isinstance(module, Convolve):
            sizes["channel"] = module.out_channels
        if isinstance(module, Merge):
            sizes["branch"] = module.inputs
        return sizes


def ranks(mechanism: type[Attention]) -> tuple[int, ...]:
    """How many spatial axes its input may have: all that it declares, and all that an argument `dims` opens."""
    if issubclass(mechanism, Refine) and mechanism.layout == "map":
        return tuple(SPATIAL) if "dims" in signature(mechanism).parameters else mechanism.spatial_ranks
    return (0,) if issubclass(mechanism, Read | Refine) else (2,)


def cases() -> list[Case]:
    """Every mechanism, once for each number of spatial axes."""
    return [Case(mechanism, rank) for mechanism in mechanisms.values() for rank in ranks(mechanism)]


def first_cases() -> list[Case]:
    """Every mechanism once, two-dimensional where it can be."""
    return [Case(mechanism, 2 if 2 in ranks(mechanism) else ranks(mechanism)[0]) for mechanism in mechanisms.values()]


def takes_mask(mechanism: type[Attention]) -> bool:
    """Whether its forward takes a mask."""
    return "mask" in signature(mechanism.forward).parameters


def takes_mask_per_query(mechanism: type[Attention]) -> bool:
    """Whether that mask may have a row for each query, which its shape in the signature says."""
    shapes = get_args(signature(mechanism.forward).parameters["mask"].annotation)
    return not any(getattr(shape, "dim_str", "") == "B N" for shape in shapes)


def needs_no_query(mechanism: type[Attention]) -> bool:
    """Whether it is a read that may be built and called without a query."""
    query = signature(mechanism).parameters.get("query_width")
    return query is not None and type(None) in get_args(query.annotation) and query.default is Parameter.empty


def other_values(argument: Parameter) -> Iterator[object]:
    """Values of an argument other than its default, by its type; some may be refused, such as by a divisor."""
    default, annotation = argument.default, argument.annotation
    for kind in (annotation,) if get_origin(annotation) in {None, Literal, Sequence, tuple} else get_args(annotation):
        if get_origin(kind) is Literal:
            values = get_args(kind)
        elif kind is bool:
            values = (False, True)
        elif kind is int:
            values = (1, 2, 4, 8) if default is None else (default + 1, default + 2, default // 2, 4 * default, 1)
        elif kind is float:
            values = (default / 2 + 0.25, 2.0)
        elif get_origin(kind) in {Sequence, tuple}:
            several = (TOKENS, 1) if get_args(kind)[0] is int else ((TOKENS, 1),)  # as many cells as tokens
            values = (default[1:], default + default[:1]) if isinstance(default, tuple) else (several,)
        else:
            values = ()
        yield from (value for value in values if value != default)


def permute(x: Tensor, order: Tensor, tokens: bool) -> Tensor:
    """The positions of a map or of tokens in another order."""
    return x[:, order] if tokens else x.flatten(2)[:, :, order].unflatten(2, x.shape[2:])


def call(module: nn.Module, inputs: Inputs) -> object:
    """What the module gives for these inputs."""
    named = {name: x for name, x in inputs.items() if not name.startswith("inputs[")}
    if "memory" in inputs and "query" not in inputs and "query" in signature(module.forward).parameters:
        named["query"] = None
    return module(*(x for name, x in inputs.items() if name not in named), **named)


def tensors(output: object) -> list[Tensor]:
    """All floating-point tensors of an output: itself, or the fields and items of it."""
    leaves = tree_leaves(vars(output) if hasattr(output, "__dataclass_fields__") else output)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.dtype.is_floating_point]


def run(module: nn.Module, inputs: Inputs) -> list[Tensor]:
    """All floating-point tensors that the module gives for these inputs."""
    found = tensors(call(module, inputs))
    assert found, "the output holds no tensor"
    return found


def stir(module: nn.Module) -> nn.Module:
    """Move every parameter off its initial value, so that a gain of zero hides nothing."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return module


def as_type(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """The inputs in another floating-point type."""
    return {name: x.to(dtype) if x.dtype.is_floating_point else x for name, x in inputs.items()}
