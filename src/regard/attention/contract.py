"""The five contracts. A mechanism is an `nn.Module` of exactly one of them.

Letters of shapes, here and in every mechanism:

    B batch   C channels   H, W height, width   N positions or memory tokens   T queries   D width of a vector
    h heads   d width of one head or of a bottleneck   k kernel size   R branches

Besides its `forward`, a mechanism states facts about itself as class attributes. The catalogue, the documentation, the
command line and the test matrix are made from them, and the contract suite checks every one of them.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, NoReturn, TypeVar, overload

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard.attention import domains, offering
from regard.attention.offering import MapFact, Request, Weights

Layout = Literal["map", "tokens"]

Role = Literal["input", "stem", "stage", "block", "branch", "skip", "decoder", "pool", "output"]
"""What a tensor is in a network: the input, the output of the stem, of a stage or of a block, the output of a residual
block's branch before the addition, what a skip connection carries, the output of a decoder block, the input of global
pooling, the output."""

DefaultPlace = Role | Literal["last_stage", "convolution"]
"""Where the paper of a mechanism puts it: at all tensors of that role, at what the last stage gives (in a segmentation
network the output of its encoder), or in place of the 3x3 convolutions of the blocks.

`"branch"` is the only role inside a residual block, and so also stands for other places there: of a transformer's
attention, or of what follows its 3x3 convolution. Which of the tensors it is where it is not all of them, such as those
of the last three stages, is said in words by `placement`."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Paper:
    """Where a mechanism was published."""

    title: str
    authors: str
    venue: str
    year: int

    def __str__(self) -> str:
        return f"{self.authors}, “{self.title}”, {self.venue} {self.year}"


class ShapeError(ValueError):
    """A tensor does not have the shape that a mechanism takes. The message shows both and says what to do."""


class Attention(nn.Module):
    """What all mechanisms share: facts, and the one method through which weights are shown.

    Class attributes, each checked by the contract suite:
        name: the short name that `regard.create` takes, lower case.
        aliases: other names that people use, lower case: acronyms of the paper, names in other libraries. Each belongs
            to one mechanism alone, and none repeats the name or the class name.
        paper: where it was published.
        formula: its mathematics in plain text.
        maps: the weights that it offers, with named axes.
        growth: how its cost grows with the number of positions `N` (or memory tokens), `"N"` or `"N^2"`.
        positional: whether it matters where a position (or memory token) lies; where it does not, permuted input gives
            the same output, permuted.
        parameter_count: closed form of its parameter count at default arguments, in the letters of `letters`.
        letters: which attribute of the module each letter of `parameter_count` stands for.
        deviations: every argument value by which one leaves the paper's formula, and what it changes.
        placement: where in a network people put it.
    """

    contract: ClassVar[str]
    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    paper: ClassVar[Paper]
    formula: ClassVar[str]
    maps: ClassVar[tuple[MapFact, ...]]
    growth: ClassVar[str]
    positional: ClassVar[bool] = False
    parameter_count: ClassVar[str]
    letters: ClassVar[dict[str, str]] = {}
    deviations: ClassVar[tuple[str, ...]] = ()
    placement: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let the constructor check its arguments; one that is inherited does already."""
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = domains.checked(cls.__init__)

    @overload
    def offer(self, label: str, weights: Tensor) -> Tensor: ...
    @overload
    # `Any` for `Tensor | None`: weights of unknown type, which modules give, match both forms.
    def offer(self, label: str, weights: Callable[[Request], Tensor]) -> Any: ...
    def offer(self, label: str, weights: Weights) -> Tensor | None:
        """Show the map declared under `label` to whoever watches, and return the weights to use.

        Costs nothing while nobody watches. A mechanism uses what it gets back, so that weights can be replaced
        (`offering.replacing`) and the map that is shown is the map that is used:

            gate = self.offer("channel", gate)
            return x * gate

        Behind a fused kernel the weights are not there; the kernel is run unless others take their place:

            replaced = self.offer("attention", weights_of)
            context = fused(query, key, value) if replaced is None else functional.read(replaced, value)

        Args:
            label: the label of one of this class's `maps`, which also names the axes.
            weights: the map, or, behind a fused kernel, a function from a `Request` to the part asked for.

        Returns:
            The weights that take the place of those offered. If there are none: the map itself, or None for a function.

        Raises:
            ShapeError: they do not have the shape of the map.
        """
        replaced = None
        if offering.listening():
            fact = next(fact for fact in self.maps if fact.label == label)
            replaced = offering.announce(self, fact, weights)
            if replaced is not None and isinstance(weights, Tensor) and replaced.shape != weights.shape:
                raise self.refuse(
                    f"weights of shape {tuple(replaced.shape)} in the place of its map {label!r}",
                    f"those of the map {tuple(weights.shape)}",
                    "replace the whole map, expanded to its shape",
                )
        return weights if replaced is None and isinstance(weights, Tensor) else replaced

    def offer_steps(
        self,
        label: str,
        count: int,
        run: Callable[[Sequence[Tensor | None]], tuple[Result, Callable[[Request], Tensor]]],
    ) -> Result:
        """Run what weighs in several steps, show the weights of all of them as one map, and return the result.

        What a step weighs depends on the steps before it. If the map is replaced, the steps are run once more, each
        with its own part of what takes the map's place; the statistics of batches then count the second run alone.

        Args:
            label: as of `offer`, of a map whose axis 1 is that of the steps.
            count: the number of steps.
            run: from the weights that each step uses, None for its own, to the result and the map of all steps.
        """
        kept = [buffer.clone() for buffer in self.buffers()] if offering.listening() else []
        result, weights = run((None,) * count)
        replaced = self.offer(label, weights)
        if replaced is None:
            return result
        with torch.no_grad():
            for buffer, before in zip(self.buffers(), kept, strict=True):
                buffer.data.copy_(before)
        return run(replaced.unbind(1))[0]

    def __prepare_scriptable__(self) -> NoReturn:
        """Refuse `torch.jit.script`, also of a model around this: it knows no shapes in signatures and no listeners."""
        raise NotImplementedError(
            f"{type(self).__name__} got torch.jit.script, expected an exporter or compiler that traces: "
            "use torch.export.export or torch.compile, which take every mechanism at any size."
        )

    def require_positions(self, x: Tensor, *axes: int) -> None:
        """Refuse an input without a single position. A batch of none is no error: it gives none.

        Args:
            x: the input.
            axes: its axes of positions; default all behind batch and channels.
        """
        if any(x.shape[axis] == 0 for axis in axes or range(2, x.ndim)):
            raise self.refuse(
                f"an input of shape {tuple(x.shape)}",
                "at least one position along every axis",
                "leave out empty inputs, in which there is nothing to attend to",
            )

    def refuse(self, got: str, expected: str, remedy: str) -> ShapeError:
        """The error for input of a wrong shape: what came, what was expected, what to do."""
        return ShapeError(f"{type(self).__name__} got {got}, expected {expected}: {remedy}.")


class Refine(Attention):
    """A feature map or token sequence → the same shape. The first argument is the channel count.

    Class attributes:
        layout: `"map"` for `(B, C, *spatial)` or `"tokens"` for `(B, N, C)`.
        spatial_ranks: of a map, how many spatial axes it may have.
        place: where in a network its paper puts it, as the role of a place; what `placement` says in words.
        zero_start: the parameters that the paper starts at zero, so that what the mechanism adds is nothing at first.
    """

    contract: ClassVar[str] = "Refine"
    layout: ClassVar[Layout]
    spatial_ranks: ClassVar[tuple[int, ...]] = (1, 2, 3)
    place: ClassVar[DefaultPlace]
    zero_start: ClassVar[tuple[str, ...]] = ()
    channels: int

    def check(self, x: Tensor) -> None:
        """Refuse input that is not in this mechanism's layout, has another channel count or no positions."""
        if self.layout == "tokens":
            fits = x.ndim == 3 and x.shape[2] == self.channels
            expected = f"tokens of shape (batch, positions, {self.channels})"
        else:
            fits = x.ndim - 2 in self.spatial_ranks and x.shape[1] == self.channels
            ranks = " or ".join(str(rank) for rank in self.spatial_ranks)
            expected = f"a map of shape (batch, {self.channels}, *spatial) with {ranks} spatial axes"
        if not fits:
            raise self.refuse(
                f"an input of shape {tuple(x.shape)}",
                expected,
                "build it with the channel count of its input, or move the channels to that axis",
            )
        self.require_positions(x, *((1,) if self.layout == "tokens" else ()))


class Convolve(Attention):
    """`(B, Cin, H, W)` → `(B, Cout, H/s, W/s)`: stands where a `nn.Conv2d` stands.

    The first arguments are those of a convolution: `in_channels`, `out_channels`, `kernel_size`, `stride`, `groups`.

    Class attributes:
        place: where in a network its paper puts it: always `"convolution"`, in place of the 3x3 ones of the blocks.
    """

    contract: ClassVar[str] = "Convolve"
    place: ClassVar[DefaultPlace] = "convolution"
    in_channels: int
    out_channels: int
    stride: int

    def check(self, x: Tensor) -> None:
        """Refuse input that is not a two-dimensional map of `in_channels` channels, or has no positions."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise self.refuse(
                f"an input of shape {tuple(x.shape)}",
                f"a map of shape (batch, {self.in_channels}, height, width)",
                "build it with the channel count of its input",
            )
        self.require_positions(x)


class Read(Attention):
    """Query `(B, T, Dq)` + memory `(B, N, Dm)` + mask → context `(B, T, D)`.

    The first arguments are the widths of query and memory. `context_width` is the `D` of what it gives.

    What the mask leaves out of a query has no influence on its context, NaN and infinity included. A query that may
    read a token with NaN or infinity has no defined context: with a mask of a row for each query it is NaN, and so is
    that of every query that depends on this one.

    Class attributes:
        stepwise: whether its queries are steps in time, so that their order matters.
    """

    contract: ClassVar[str] = "Read"
    stepwise: ClassVar[bool] = False
    query_width: int
    memory_width: int

    @property
    @abstractmethod
    def context_width(self) -> int:
        """The width `D` of the context."""

    def check(self, query: Tensor, memory: Tensor, mask: Tensor | None) -> Bool[Tensor, "B #T N"] | None:
        """Refuse what does not fit together and what is empty; give the mask one row a query (or one row for all).

        Args:
            query: `(B, T, Dq)`.
            memory: `(B, N, Dm)`.
            mask: boolean, True = takes part; `(B, N)` for all queries alike or `(B, T, N)`.
        """
        if query.ndim != 3 or query.shape[2] != self.query_width:
            raise self.refuse(
                f"a query of shape {tuple(query.shape)}",
                f"(batch, queries, {self.query_width})",
                "build it with the width of its query as the first argument",
            )
        if memory.ndim != 3 or memory.shape[2] != self.memory_width:
            raise self.refuse(
                f"a memory of shape {tuple(memory.shape)}",
                f"(batch, tokens, {self.memory_width})",
                "build it with the width of its memory as the second argument; "
                "a map becomes tokens through regard.attention.ReadMap",
            )
        if memory.shape[0] != query.shape[0]:
            raise self.refuse(
                f"{query.shape[0]} queries' and {memory.shape[0]} memories' batches",
                "the same batch size of both",
                "repeat the smaller one",
            )
        self.require_positions(query, 1)
        self.require_positions(memory, 1)
        return self.check_mask(mask, query.shape[0], query.shape[1], memory.shape[1])

    def check_mask(self, mask: Tensor | None, B: int, T: int, N: int) -> Bool[Tensor, "B #T N"] | None:
        """Refuse a mask that is not boolean or fits neither `(B, N)` nor `(B, T, N)`."""
        if mask is None:
            return None
        if mask.dtype.is_floating_point or mask.dtype != mask.bool().dtype:
            raise self.refuse(
                f"a mask of type {mask.dtype}", "a boolean mask, True = takes part", "convert it with .bool()"
            )
        if tuple(mask.shape) == (B, N):
            return mask[:, None]
        if tuple(mask.shape) == (B, T, N):
            return mask
        raise self.refuse(
            f"a mask of shape {tuple(mask.shape)}",
            f"({B}, {N}) or ({B}, {T}, {N})",
            "give one boolean for each token, or for each query and token",
        )


class Selection(NamedTuple):
    """What a `Select` gives: `K` regions of a map, and where they lie in it.

    Attributes:
        regions: the regions' contents, all of one size.
        transform: of each region the affine map from its own coordinates to those of the whole map, `[[a, b, tx],
            [c, d, ty]]`, x before y, as `torch.nn.functional.affine_grid(align_corners=False)` takes it: -1 and 1 are
            the outer edges of region and map, whatever their sizes. A box without rotation has b = c = 0, its half
            width and height are a and d, and its centre is (tx, ty).
        log_probability: of each region, where the choice is sampled; otherwise None.
    """

    regions: Float[Tensor, "B K C h w"]
    transform: Float[Tensor, "B K 2 3"]
    log_probability: Float[Tensor, "B K"] | None = None


class Select(Attention):
    """A map → a `Selection`: the regions that it chose, and their log-probabilities where the choice is sampled.

    The first argument is the channel count of the map.
    """

    contract: ClassVar[str] = "Select"
    channels: int

    def check(self, x: Tensor) -> None:
        """Refuse input that is not a two-dimensional map of `channels` channels, or has no positions."""
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise self.refuse(
                f"an input of shape {tuple(x.shape)}",
                f"a map of shape (batch, {self.channels}, height, width)",
                "build it with the channel count of its input",
            )
        self.require_positions(x)


class Merge(Attention):
    """Several tensors (branches, levels, modalities) → one. The first argument is their channel count.

    Class attributes:
        inputs: how many tensors it merges.
        place: where in a network its paper puts it, as the role of a place; what `placement` says in words.
    """

    contract: ClassVar[str] = "Merge"
    inputs: ClassVar[int] = 2
    place: ClassVar[DefaultPlace]
    channels: int

    def check(self, *inputs: Tensor) -> None:
        """Refuse inputs of differing shapes, of another channel count or without positions."""
        first = inputs[0]
        if any(x.shape != first.shape for x in inputs) or first.ndim < 3 or first.shape[1] != self.channels:
            raise self.refuse(
                f"inputs of shapes {', '.join(str(tuple(x.shape)) for x in inputs)}",
                f"{self.inputs} maps of one shape (batch, {self.channels}, *spatial)",
                "resize or project them to one shape first",
            )
        self.require_positions(first)
