"""Offers of maps without a mechanism: the names of their axes, their parts, who hears them, and over which grid."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from torch import nn

from regard.attention import offering
from regard.attention.alignment import HardRead
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


def test_threads_hear_themselves_alone():
    """Listeners, replacements, grids and recorded choices of one thread are nothing to another."""
    module, fact = nn.Identity(), MapFact("gate", ("batch",))
    all_are_open = Barrier(5)

    def one(number: int) -> tuple[list[float], list[tuple[int, ...] | None], list[float], float]:
        heard, mine = [], torch.full((2,), float(number))
        with (
            offering.listen(heard.append),
            offering.over_grid((number, 1)),
            offering.recording_choices() as choices,
            offering.replacing(lambda offer: offer.weights + 0.5),
        ):
            all_are_open.wait(timeout=60)
            used = offering.announce(module, fact, mine)
            offering.record_choice(mine, mine)
            all_are_open.wait(timeout=60)
        values = [float(offer.weights[0]) for offer in heard]
        return values, [offer.grid for offer in heard], [float(x[0]) for x in choices.entropies], float(used[0])

    with ThreadPoolExecutor(5) as pool:
        told = list(pool.map(one, range(5)))
    assert told == [([n + 0.5], [(n, 1)], [float(n)], n + 0.5) for n in range(5)]
    assert not offering.listening()
    assert not offering.recording()


@pytest.mark.usefixtures("unchecked_shapes")
def test_a_compiled_read_records_its_choices_for_whoever_records_them():
    """Each block has its own, and a thread that records none adds none to those of another."""
    torch.compiler.reset()
    read = torch.compile(HardRead(5, 7).train(), backend="eager", fullgraph=True)
    given = torch.randn(2, 3, 5), torch.randn(2, 11, 7)
    read(*given)
    for _ in range(2):
        with offering.recording_choices() as choices:
            read(*given)
            with ThreadPoolExecutor(1) as other:
                other.submit(read, *given).result()
        assert [one.shape for one in choices.log_probabilities] == [(2, 3)]
        assert choices.log_probabilities[0].requires_grad
    torch.compiler.reset()


def test_overlapping_blocks_of_threads_give_the_compiler_back_its_stance():
    """The first to open is the first to close."""
    before = torch._dynamo.eval_frame._stance.stance
    first, second = offering.listen(lambda _: None), offering.listen(lambda _: None)
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        one.submit(first.__enter__).result()
        other.submit(second.__enter__).result()
        one.submit(first.__exit__, None, None, None).result()
        assert torch._dynamo.eval_frame._stance.stance == "force_eager"
        other.submit(second.__exit__, None, None, None).result()
    assert torch._dynamo.eval_frame._stance.stance == before
    assert not offering._open


def test_replaced_weights_are_used_and_heard():
    """The innermost replacement is asked last and is given what was put in place; None leaves the weights."""
    module, fact, weights = nn.Identity(), MapFact("gate", ("batch",)), torch.tensor([3.0, 5.0])
    heard = []
    assert offering.announce(module, fact, weights) is None
    with offering.replacing(lambda offer: None), offering.listen(heard.append):
        assert offering.listening()
        assert offering.announce(module, fact, weights) is None
    with (
        offering.replacing(lambda offer: offer.weights * 2),
        offering.replacing(lambda offer: offer.weights + 1),
        offering.listen(heard.append),
    ):
        assert torch.equal(offering.announce(module, fact, weights), torch.tensor([7.0, 11.0]))
    assert torch.equal(heard[0].weights, weights)
    assert torch.equal(heard[1].weights, torch.tensor([7.0, 11.0]))
    assert not offering.listening()


def test_blocks_may_be_closed_in_the_order_in_which_they_were_opened():
    module, fact = nn.Identity(), MapFact("gate", ("batch",))
    first, second = [], []
    one, other = offering.listen(first.append), offering.listen(second.append)
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    offering.announce(module, fact, torch.ones(2))
    other.__exit__(None, None, None)
    assert (len(first), len(second)) == (0, 1)
    assert not offering.listening()
    with offering.listen(second.append):
        offering.announce(module, fact, torch.ones(2))
    assert (len(first), len(second)) == (0, 2)
