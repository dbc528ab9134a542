"""Seeing the attention of a model while it runs, without changing what it gives."""

import math
from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from regard.attention import offering
from regard.attention.contract import Attention, Refine
from regard.attention.layout import proportional
from regard.attention.offering import Offer, Request
from regard.paths import lies_in, nearest
from regard.watching.maps import AttentionMap, NoMapError


class Watch:
    """An open watch over one model; `watch` makes it. Its maps stay readable after it is closed."""

    def __init__(self, model: nn.Module, layers: str | Sequence[str], request: Request) -> None:
        patterns = [layers] if isinstance(layers, str) else list(layers)
        found = {path: module for path, module in model.named_modules() if isinstance(module, Attention)}
        self._kind = type(model).__name__
        self._request = request
        self._modules = dict(model.named_modules())
        self._places = {path: self._place(path) for path in found}
        if not found:
            raise NoMapError(
                f"nothing to watch: {self._kind} has {len(self._modules)} modules, and none of them is a mechanism of "
                "regard; put one in with regard.insert"
            )
        for pattern in patterns:
            if not any(self._named(path, pattern) for path in found):
                raise NoMapError(
                    f"nothing to watch: no mechanism of {self._kind} lies at {pattern!r}; "
                    f"it has {self._listed(pattern, found)}"
                )
        self._paths = {
            id(module): path
            for path, module in found.items()
            if any(self._named(path, pattern) for pattern in patterns)
        }
        self._all_paths = list(found)
        self._maps: list[AttentionMap] = []
        self._calls: dict[tuple[str, str], int] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "Watch":
        self._stack.enter_context(offering.listen(self._receive))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def maps(self) -> list[AttentionMap]:
        """All maps in the order in which they were computed.

        Raises:
            NoMapError: there is none yet.
        """
        if not self._maps:
            raise NoMapError(
                f"no maps yet: no watched mechanism of {self._kind} ran; run the model inside the with block"
            )
        return list(self._maps)

    def __getitem__(self, path: str) -> list[AttentionMap]:
        """The maps of one mechanism, or of all that a glob names or that lie in a module, in order of computation.

        Raises:
            NoMapError: there is none; the message says why.
        """
        found = [one for one in self._maps if self._named(one.module, path)]
        if found:
            return found
        meant = [known for known in self._all_paths if self._named(known, path)]
        if not meant:
            raise NoMapError(
                f"no maps of {path!r}: no mechanism of {self._kind} lies there; "
                f"it has {self._listed(path, self._all_paths)}"
            )
        watched = [known for known in meant if known in self._paths.values()]
        if not watched:
            raise NoMapError(f"no maps of {path!r}: it is not among the layers that this watch was opened for")
        ran = "it was never called inside the with block" if self._maps else "nothing was run inside the with block"
        raise NoMapError(f"no maps of {path!r}: {ran}")

    def clear(self) -> None:
        """Forget the maps so far; calls are counted from 0 again."""
        self._maps.clear()
        self._calls.clear()

    def __repr__(self) -> str:
        return f"Watch({len(self._maps)} maps of {len(self._paths)} mechanisms of {self._kind})"

    def _receive(self, offer: Offer) -> None:
        path = self._paths.get(id(offer.module))
        if path is None:
            return
        with torch.no_grad():
            values = self._part(offer, path)
        axes = offer.fact.named(values.ndim)
        keys = values.shape[axes.index("key")] if "key" in axes else 0
        grid, extra_tokens = self._positions(offer, path, keys)
        call = self._calls.get((path, offer.fact.label), 0)
        self._calls[path, offer.fact.label] = call + 1
        self._maps.append(
            AttentionMap(
                values=values,
                axes=axes,
                module=path,
                mechanism=getattr(offer.module, "name", type(offer.module).__name__),
                label=offer.fact.label,
                call=call,
                grid=grid,
                extra_tokens=extra_tokens,
                sums_to_one=offer.fact.normalized(values.ndim),
            )
        )

    def _part(self, offer: Offer, path: str) -> Tensor:
        """The heads and queries that were asked for."""
        try:
            if not isinstance(offer.weights, Tensor):
                return offer.weights(self._request).detach()
            axes = offer.fact.named(offer.weights.ndim)
            heads, queries = (axes.index(name) if name in axes else None for name in ("heads", "query"))
            return self._request.pick(offer.weights.detach(), heads, queries)
        except (IndexError, RuntimeError) as error:
            if self._request == Request():
                raise
            asked = f"heads {self._request.heads} and queries {self._request.queries}"
            raise NoMapError(f"{path!r} has not the {asked} that were asked for: {error}") from error

    def _place(self, path: str) -> str | None:
        """The module of the original model that an inserted mechanism refines."""
        host = self._host(path)
        return getattr(host, "place", None)

    def _positions(self, offer: Offer, path: str, keys: int) -> tuple[tuple[int, ...] | None, int]:
        """The grid over whose cells the keys run, if that is known, and how many keys come before them.

        What is offered says it, or, of tokens, the place of the mechanism: the grid that they were when it was
        inserted, in these proportions if they are more or fewer now.
        """
        if keys == 0:
            return None, 0
        if offer.grid is not None and math.prod(offer.grid) == keys:
            return offer.grid, 0
        host = self._host(path)
        extra_tokens: int = getattr(host, "extra_tokens", 0)
        grid: tuple[int, ...] | None = getattr(host, "grid", None)
        tokens = isinstance(offer.module, Refine) and offer.module.layout == "tokens"
        if grid is None or not tokens or keys <= extra_tokens:
            return None, extra_tokens
        return proportional(grid, keys - extra_tokens), extra_tokens

    def _host(self, path: str) -> nn.Module | None:
        """What `regard.insert` put around an inserted mechanism: it knows the place and its extra tokens."""
        outer = path
        while outer:
            outer = outer.rpartition(".")[0]
            module = self._modules[outer]
            if isinstance(getattr(module, "place", None), str) and hasattr(module, "extra_tokens"):
                return module
        return None

    def _named(self, path: str, pattern: str) -> bool:
        """Whether a path or pattern names a mechanism, a module that it lies in, or the place that it refines."""
        known = [path, self._places.get(path)]
        return any(
            name is not None and (name == pattern or name.startswith(pattern + ".") or lies_in(name, pattern))
            for name in known
        )

    def _listed(self, path: str, paths: Sequence[str] | dict[str, Attention]) -> str:
        known = nearest(path, paths)
        rest = len(paths) - len(known)
        return ", ".join(known) + (f" and {rest} more" if rest else "")


def watch(
    model: nn.Module,
    layers: str | Sequence[str] = "*",
    *,
    heads: Sequence[int] | None = None,
    queries: Sequence[int] | None = None,
) -> Watch:
    """See the attention of a model: a context manager that keeps the maps computed while it is open.

        with watch(model, "layer4") as seen:
            model(image)
        seen.maps[0].on_grid()

    The model's output, modes and gradients are the same with and without a watch. Fused kernels stay fused: their
    weights are computed beside them, only for the heads and queries asked for. A compiled model runs eagerly while it
    is watched.

    Args:
        model: a model that holds mechanisms of regard, inserted or its own; or one mechanism.
        layers: which of them: a path, a glob (see `regard.paths.matches`) of the mechanism itself, of a module that it
            lies in, or of the module that it was inserted at; or several of these.
        heads: which indices of the axis `heads` to keep; default all. A map without that axis stays whole.
        queries: which indices of the axis `query` to keep; default all.

    Raises:
        NoMapError: the model holds no mechanism, or none where `layers` says; and on reading a map that was not
            computed.
    """
    request = Request(None if heads is None else tuple(heads), None if queries is None else tuple(queries))
    return Watch(model, layers, request)
