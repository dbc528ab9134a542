"""Adapters between maps and tokens: which position becomes which token, and what watchers are told."""

import itertools

import pytest
import torch
from oracle import heard

from regard.attention import (
    AdditiveRead,
    MultiHeadSelfAttention,
    OnMap,
    OnTokens,
    ReadMap,
    Refine,
    ShapeError,
    SqueezeExcitation,
)
from regard.attention.layout import map_to_tokens, tokens_to_map

GRIDS = ((13,), (5, 3), (1, 1), (2, 3, 5))


class MarkTokens(Refine):
    """Adds to each token its number times ten, so that one sees where tokens came from and went."""

    layout = "tokens"
    maps = ()

    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def forward(self, x):
        self.check(x)
        return x + 10 * torch.arange(x.shape[1], dtype=x.dtype)[:, None]


def numbered(batch, channels, grid):
    """A map in which every value is another."""
    shape = (batch, channels, *grid)
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float64).reshape(shape)


@pytest.mark.parametrize("grid", GRIDS)
def test_tokens_are_the_positions_row_by_row(grid):
    x = numbered(2, 7, grid)
    tokens = map_to_tokens(x)
    cells = list(itertools.product(*(range(size) for size in grid)))
    assert tokens.shape == (2, len(cells), 7)
    for b, (n, cell), c in itertools.product(range(2), enumerate(cells), range(7)):
        assert tokens[b, n, c] == x[(b, c, *cell)]
    assert torch.equal(tokens_to_map(tokens, grid), x)


def test_a_channels_last_map_and_its_tokens_share_memory():
    x = numbered(2, 7, (5, 3)).contiguous(memory_format=torch.channels_last)
    tokens = map_to_tokens(x)
    assert tokens.is_contiguous()
    assert tokens.data_ptr() == x.data_ptr()
    assert tokens_to_map(tokens, (5, 3)).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("grid", GRIDS)
def test_on_map_puts_every_token_back_where_it_was(grid):
    x = numbered(2, 7, grid)
    expected = torch.empty_like(x)
    for n, cell in enumerate(itertools.product(*(range(size) for size in grid))):
        expected[(slice(None), slice(None), *cell)] = x[(slice(None), slice(None), *cell)] + 10 * n
    kept = x.clone()
    assert torch.equal(OnMap(MarkTokens(7))(x), expected)
    assert torch.equal(x, kept)


@pytest.mark.parametrize(
    ("grid", "memory_format"),
    [
        ((5, 3), torch.contiguous_format),
        ((5, 3), torch.channels_last),
        ((2, 3, 5), torch.contiguous_format),
        ((2, 3, 5), torch.channels_last_3d),
        ((13,), torch.contiguous_format),
    ],
)
def test_on_map_keeps_the_memory_format(grid, memory_format):
    x = numbered(2, 8, grid).contiguous(memory_format=memory_format)
    assert OnMap(MultiHeadSelfAttention(8).double())(x).is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("grid", GRIDS)
def test_on_map_tells_watchers_the_grid(grid):
    module = OnMap(MultiHeadSelfAttention(8))
    x = torch.randn(2, 8, *grid)
    y, (offer,) = heard(module, x)
    assert offer.grid == grid
    assert offer.module is module.refine
    assert torch.equal(y, module(x))
    (later,) = heard(module.refine, torch.randn(2, 4, 8))[1]
    assert later.grid is None


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("masked", [False, True])
def test_read_map_reads_the_positions_row_by_row(grid, masked):
    read = AdditiveRead(5, 7)
    query, memory = torch.randn(2, 3, 5), torch.randn(2, 7, *grid)
    mask = torch.rand(2, *grid) > 0.3 if masked else None
    cells = list(itertools.product(*(range(size) for size in grid)))
    tokens = torch.stack([memory[(slice(None), slice(None), *cell)] for cell in cells], dim=1)
    flat = None if mask is None else torch.stack([mask[(slice(None), *cell)] for cell in cells], dim=1)
    expected, (plain,) = heard(read, query, tokens, flat)
    context, (offer,) = heard(ReadMap(read), query, memory, mask)
    torch.testing.assert_close(context, expected)
    torch.testing.assert_close(offer.weights, plain.weights)
    assert (plain.grid, offer.grid) == (None, grid)
    assert torch.equal(ReadMap(read)(query, memory, mask), context)


def test_on_map_refuses_a_mechanism_of_maps():
    with pytest.raises(ValueError, match="without OnMap"):
        OnMap(SqueezeExcitation(8))


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("shape", [(2, 9, 4, 4), (2, 8)])
def test_on_map_refuses_wrong_shapes(shape):
    with pytest.raises(ShapeError, match="8"):
        OnMap(MultiHeadSelfAttention(8))(torch.zeros(shape))


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("memory", "mask"),
    [
        ((2, 7), None),
        ((2, 8, 5, 3), None),
        ((3, 7, 5, 3), None),
        ((2, 7, 5, 3), (2, 15)),
        ((2, 7, 5, 3), (2, 3, 5)),
        ((2, 7, 5, 3), (1, 5, 3)),
    ],
)
def test_read_map_refuses_what_does_not_fit(memory, mask):
    with pytest.raises(ShapeError):
        ReadMap(AdditiveRead(5, 7))(
            torch.zeros(2, 3, 5), torch.zeros(memory), None if mask is None else torch.ones(mask, dtype=torch.bool)
        )


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
def test_adapters_compile_as_one_graph_of_any_size():
    on_map = OnMap(MultiHeadSelfAttention(8))
    read_map = ReadMap(AdditiveRead(5, 8))
    for module, query in ((on_map, ()), (read_map, (torch.randn(2, 3, 5),))):
        torch.compiler.reset()
        compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
        for grid in ((5, 3), (7, 2)):
            x = torch.randn(2, 8, *grid)
            torch.testing.assert_close(compiled(*query, x), module(*query, x))


class MarkMap(Refine):
    """Adds to each position its row times ten and its column times a hundred."""

    layout = "map"
    maps = ()

    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def forward(self, x):
        self.check(x)
        return x + 10 * torch.arange(x.shape[-2])[:, None] + 100 * torch.arange(x.shape[-1])


@pytest.mark.parametrize(
    ("positions", "extra", "grid", "expected"),
    [
        (9, 0, None, (3, 3)),
        (9, 2, None, (3, 3)),
        (6, 1, (2, 3), (2, 3)),
        (24, 1, (2, 3), (4, 6)),
        (1, 0, None, (1, 1)),
        (30, 0, (2, 3, 5), (2, 3, 5)),
    ],
)
def test_on_tokens_lays_positions_on_their_grid(positions, extra, grid, expected):
    x = numbered(2, positions + extra, (7,)).contiguous()
    y = OnTokens(MarkMap(7), extra, grid)(x)
    assert torch.equal(y[:, :extra], x[:, :extra])
    for number, cell in enumerate(itertools.product(*(range(size) for size in expected))):
        added = 10 * cell[-2] + 100 * cell[-1]
        assert torch.equal(y[:, extra + number], x[:, extra + number] + added)


@pytest.mark.usefixtures("unchecked_shapes")
def test_on_tokens_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="OnTokens got MultiHeadSelfAttention, which takes tokens already"):
        OnTokens(MultiHeadSelfAttention(8))
    with pytest.raises(ValueError, match="a grid of 4 axes, expected one of 1 or 2 or 3"):
        OnTokens(SqueezeExcitation(8), grid=(2, 2, 2, 2))
    with pytest.raises(ShapeError, match=r"5 positions beside 1 extra tokens.*proportions of 1×1"):
        OnTokens(SqueezeExcitation(8), 1)(torch.zeros(2, 6, 8))
    with pytest.raises(ShapeError, match=r"shape \(2, 8, 3, 3\), expected tokens"):
        OnTokens(SqueezeExcitation(8))(torch.zeros(2, 8, 3, 3))
