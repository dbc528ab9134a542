"""Offers of maps without a mechanism: the names of their axes, their parts, who hears them, and over which grid."""

import pytest
import torch
from torch import nn

from regard.attention import offering
from regard.attention.offering import SPATIAL, MapFact, Request


@pytest.mark.parametrize(
    ("rank", "spatial"),
    [(3, ("length",)), (4, ("height", "width")), (5, ("depth", "height", "width"))],
)
def test_spatial_axes_are_named_by_their_number(rank, spatial):
    gate = MapFact("gate", ("batch", SPATIAL, "branch"), (SPATIAL, "branch"))
    assert gate.named(rank) == ("batch", *spatial, "branch")
    assert gate.normalized(rank) == (*spatial, "branch")


def test_axes_without_spatial_ones_are_as_declared():
    fact = MapFact("attention", ("batch", SPATIAL, "slot"), ("slot",))
    assert (fact.named(4), fact.normalized(4)) == (("batch", "height", "width", "slot"), ("slot",))
    fact = MapFact("attention", ("batch", "query", "key"), ("key",))
    assert (fact.named(3), fact.normalized(3)) == (("batch", "query", "key"), ("key",))


def test_a_request_picks_the_heads_and_queries_that_it_names_in_their_order():
    values = torch.randn(2, 5, 7, 3)
    assert torch.equal(Request((3, 0), (6, 1, 2)).pick(values, heads=1, queries=2), values[:, [3, 0]][:, :, [6, 1, 2]])
    assert torch.equal(Request(queries=(4,)).pick(values, heads=1, queries=2), values[:, :, 4:5])
    assert Request((3,), (4,)).pick(values) is values
    assert Request().pick(values, heads=1, queries=2) is values


def test_every_listener_hears_an_offer_with_the_innermost_grid_until_it_leaves():
    """Also if it leaves by an error."""
    module, fact, weights = nn.Identity(), MapFact("gate", ("batch",)), torch.randn(2)
    outer, inner = [], []

    def break_off():
        with offering.listen(inner.append), offering.over_grid((3, 2)):
            offering.announce(module, fact, weights)
            raise RuntimeError("broken off")

    with offering.listen(outer.append), offering.over_grid((5, 7)):
        with pytest.raises(RuntimeError, match="broken off"):
            break_off()
        offering.announce(module, fact, weights)
    assert not offering.listening()
    offering.announce(module, fact, weights)
    assert [offer.grid for offer in inner] == [(3, 2)]
    assert [offer.grid for offer in outer] == [(3, 2), (5, 7)]
    assert all(offer.module is module and offer.fact is fact and offer.weights is weights for offer in outer)
