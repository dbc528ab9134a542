"""The five contracts. A mechanism is an `nn.Module` of exactly one of them.

Letters of shapes, here and in every mechanism:

    B batch   C channels   H, W height, width   N positions or memory tokens   T queries   D width of a vector
    h heads   d width of one head or of a bottleneck   k kernel size   R branches

Besides its `forward`, a mechanism states facts about itself as class attributes. The catalogue, the documentation, the
command line and the test matrix are made from them, and the contract suite checks every one of them.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, NoReturn, overload

from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard.attention import offering
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
    paper: ClassVar[Paper]
    formula: ClassVar[str]
    maps: ClassVar[tuple[MapFact, ...]]
    growth: ClassVar[str]
    positional: ClassVar[bool] = False
    parameter_count: ClassVar[str]
    letters: ClassVar[dict[str, str]] = {}
    deviations: ClassVar[tuple[str, ...]] = ()
    placement: ClassVar[str]

    @overload
    def offer(self, label: str, weights: Tensor) -> Tensor: ...
    @overload
    def offer(self, label: str, weights: Callable[[Request], Tensor]) -> Tensor | None: ...
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
        """
        replaced = None
        if offering.listening():
            fact = next(fact for fact in self.maps if fact.label == label)
            replaced = offering.announce(self, fact, weights)
        return weights if replaced is None and isinstance(weights, Tensor) else replaced

    def __prepare_scriptable__(self) -> NoReturn:
        """Refuse `torch.jit.script`, also of a model around this: it knows no shapes in signatures and no listeners."""
        raise NotImplementedError(
            f"{type(self).__name__} got torch.jit.script, expected an exporter or compiler that traces: "
            "use torch.export.export or torch.compile, which take every mechanism at any size."
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
    """

    contract: ClassVar[str] = "Refine"
    layout: ClassVar[Layout]
    spatial_ranks: ClassVar[tuple[int, ...]] = (1, 2, 3)
    place: ClassVar[DefaultPlace]
    channels: int

    def check(self, x: Tensor) -> None:
        """Refuse input that is not in this mechanism's layout or has another channel count."""
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
        """Refuse input that is not a two-dimensional map of `in_channels` channels."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise self.refuse(
                f"an input of shape {tuple(x.shape)}",
                f"a map of shape (batch, {self.in_channels}, height, width)",
                "build it with the channel count of its input",
            )


class Read(Attention):
    """Query `(B, T, Dq)` + memory `(B, N, Dm)` + mask → context `(B, T, D)`.

    The first arguments are the widths of query and memory. `context_width` is the `D` of what it gives.

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
        """Refuse what does not fit together; give the mask one row a query (or one row for all).

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
        """Refuse input that is not a two-dimensional map of `channels` channels."""
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise self.refuse(
                f"an input of shape {tuple(x.shape)}",
                f"a map of shape (batch, {self.channels}, height, width)",
                "build it with the channel count of its input",
            )


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
        """Refuse inputs of differing shapes or another channel count."""
        first = inputs[0]
        if any(x.shape != first.shape for x in inputs) or first.ndim < 3 or first.shape[1] != self.channels:
            raise self.refuse(
                f"inputs of shapes {', '.join(str(tuple(x.shape)) for x in inputs)}",
                f"{self.inputs} maps of one shape (batch, {self.channels}, *spatial)",
                "resize or project them to one shape first",
            )
