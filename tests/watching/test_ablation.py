"""Ablations of attention against values that are computed by hand, and that leave no trace."""

from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from regard.attention import Attention, Read, Refine, offering
from regard.attention.offering import MapFact
from regard.errors import UserError
from regard.placing import insert
from regard.placing.placed import switched_off
from regard.watching.ablation import Layout, Means, ablations, recorded, removed, strengths, substituted

TABLE = torch.randn(7, 5, generator=torch.Generator().manual_seed(3))


class Gate(Refine):
    """Multiplies every channel by a gate, the sigmoid of its mean."""

    name: ClassVar[str] = "gate"
    layout = "map"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("channel", ("batch", "channel")),)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        gate = self.offer("channel", x.mean((2, 3)).sigmoid())
        return x * gate[:, :, None, None]


class Dot(Read):
    """A read by the product of query and token, whose map is offered as a function."""

    name: ClassVar[str] = "dot_of_test"
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact("attention", ("batch", "query", "key"), ("key",)),
        MapFact("stays", ("batch", "query"), fixed="the test says so"),
    )

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query_width = self.memory_width = width

    @property
    def context_width(self) -> int:
        return self.memory_width

    def forward(self, query: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        scores = query @ memory.transpose(1, 2)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], -torch.inf)
        weights = scores.softmax(-1)
        replaced = self.offer("attention", lambda request: request.pick(weights, queries=1))
        self.offer("stays", weights[:, :, 0])
        return (weights if replaced is None else replaced) @ memory


def gated() -> nn.Sequential:
    """Gates between two convolutions, and a number a channel at the end."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 1), Gate(5), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def pictures(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, 2, 3, generator=torch.Generator().manual_seed(seed))


def test_gates_are_replaced_by_their_mean_over_all_batches_and_by_another_pictures():
    model, images = gated(), pictures(7)
    plain = nn.Sequential(model[0], *model[2:])(images).detach()  # (7, 5): what the gates multiply
    gates = plain.sigmoid()
    found = ablations(model, [images[:4], images[4:]], model)
    torch.testing.assert_close(found.full, plain * gates)
    torch.testing.assert_close(found.mean, plain * gates.mean(0))
    # Of another picture of the same batch: the quotient is one of the other rows' gates, as a whole.
    assert found.resampled is not None
    for row, quotient in enumerate(found.resampled / plain):
        batch = range(4) if row < 4 else range(4, 7)
        others = [other for other in batch if other != row]
        assert any(torch.allclose(quotient, gates[other], atol=1e-5) for other in others)
    # A gate that is part of the model has no neutral value, and that is said.
    assert found.removed is None
    assert found.changed("removed") is None
    assert "1 channel: its weights do not sum to one" in found.left["removed"][0]
    assert (found.changed("mean"), found.changed("resampled")) == (1.0, 1.0)


def test_inserted_attention_is_removed_to_the_plain_model_and_back():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = pictures(5)
    before = model.eval()(images)
    insert(model, Gate, at="1", start="paper", example=(1, 3, 2, 3))
    attended = model(images)
    assert not torch.allclose(attended, before)
    found = ablations(model, [images], model, kinds=["removed"])
    assert found.removed is not None
    assert torch.equal(found.removed, before)
    assert torch.equal(found.full, attended)
    assert (found.mean, found.resampled) == (None, None)
    with switched_off(model):
        assert torch.equal(model(images), before)
    assert torch.equal(model(images), attended)
    assert not offering.listening()
    assert not any(module._forward_pre_hooks for module in model.modules() if isinstance(module, Attention))


def test_another_model_is_not_switched_off_along():
    one, other = (
        insert(nn.Sequential(nn.Conv2d(3, 5, 1)), Gate, at="0", start="paper", example=(1, 3, 2, 3)) for _ in "ab"
    )
    images = pictures(2)
    expected = other(images)
    with switched_off(one):
        assert torch.equal(other(images), expected)


def test_strengths_are_those_of_inserted_attention_that_has_one():
    model = insert(nn.Sequential(nn.Conv2d(3, 5, 1)), Gate, at="0", start="identity", example=(1, 3, 2, 3))
    (values,) = strengths(model).values()
    assert values.ndim == 1
    torch.testing.assert_close(values, torch.zeros_like(values), atol=1e-6, rtol=0)
    assert strengths(nn.Sequential(nn.Conv2d(3, 5, 1), Gate(5))) == {}


class Reading(nn.Module):
    """Questions `(B, Q, 5)` about tokens `(B, N, 5)`."""

    def __init__(self) -> None:
        super().__init__()
        self.read = Dot(5)

    def forward(self, query: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.read(query, memory, mask)


def test_a_read_is_removed_by_uniform_weights_over_the_valid_tokens():
    model, memory = Reading(), TABLE[None].expand(2, 7, 5)
    mask = torch.arange(7) < torch.tensor([[3], [7]])
    query = torch.randn(2, 1, 5, generator=torch.Generator().manual_seed(0))
    with removed(model) as report:
        context = model(query, memory, mask)
    torch.testing.assert_close(context[:, 0], torch.stack([TABLE[:3].mean(0), TABLE.mean(0)]))
    assert report.replaced == {"read attention"}
    assert report.left == {"read stays: the test says so"}


def test_means_are_of_the_items_that_have_an_entry_and_sum_to_one_over_those_of_each():
    """Tokens are padded to those of the longest in a batch, which differs from batch to batch."""
    model = Reading()
    query = torch.randn(3, 1, 5, generator=torch.Generator().manual_seed(0))
    sizes = [2, 5, 7]
    batches = [
        (query[:2], TABLE[None, :5].expand(2, 5, 5), torch.arange(5) < torch.tensor(sizes[:2])[:, None]),
        (query[2:], TABLE[None], torch.ones(1, 7, dtype=torch.bool)),
    ]
    each = [(query[row, 0] @ TABLE[:size].T).softmax(-1) for row, size in enumerate(sizes)]
    mean = torch.stack(
        [sum(one[key] for one in each if len(one) > key) / sum(len(one) > key for one in each) for key in range(7)]
    )
    expected = torch.stack([mean[:size] / mean[:size].sum() @ TABLE[:size] for size in sizes])
    found = ablations(model, batches, lambda batch: model(*batch)[:, 0], kinds=["mean", "resampled"])
    torch.testing.assert_close(found.mean, expected)
    # The second batch has a single item, which no other one can give its weights.
    assert found.resampled is None
    assert "single item" in found.left["resampled"][0]


def test_weights_of_another_item_go_to_valid_tokens_alone():
    model = Reading()
    query = torch.randn(2, 1, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(7) < torch.tensor([[3], [7]])
    found = ablations(model, [(query, TABLE[None].expand(2, 7, 5), mask)], lambda batch: model(*batch)[:, 0])
    first, second = (query[0, 0] @ TABLE[:3].T).softmax(-1), (query[1, 0] @ TABLE.T).softmax(-1)
    cut = second[:3] / second[:3].sum()
    torch.testing.assert_close(found.resampled, torch.stack([cut @ TABLE[:3], first @ TABLE[:3]]))


def test_questions_are_items_and_padding_is_none():
    """Three questions about two pictures each, of which one is padding; each gets the weights of another picture's."""
    model = Reading()
    query = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    memory = torch.stack([TABLE, TABLE.flip(0)])
    groups = torch.tensor([[0, 0, -1], [1, 1, 1]])
    weights = (query @ memory.transpose(1, 2)).softmax(-1)
    found = ablations(model, [(query, memory)], lambda batch: model(*batch), items=lambda batch: groups)
    mean = weights.flatten(0, 1)[groups.flatten() >= 0].mean(0)
    torch.testing.assert_close(found.mean, torch.stack([mean @ one for one in memory])[:, None].expand(2, 3, 5))
    assert found.resampled is not None
    for picture in range(2):
        for question in range(2 + picture):
            others = weights[1 - picture][groups[1 - picture] >= 0] @ memory[picture]
            close = [torch.allclose(found.resampled[picture, question], other, atol=1e-6) for other in others]
            assert any(close)


def test_items_lie_in_rows_in_a_flat_batch_or_in_the_axis_of_queries():
    groups = torch.tensor([[4, 4, 4], [9, 9, -1]])
    layout = Layout.of(groups)
    source = layout.others(torch.Generator().manual_seed(0))
    assert source is not None
    flat = groups.flatten()
    assert source[5] == 5
    assert all(flat[source[at]] not in (flat[at], -1) for at in range(5))
    assert Layout.of(torch.tensor([3, 3])).others(torch.Generator()) is None
    draws = torch.stack(
        [d for seed in range(40) if (d := layout.others(torch.Generator().manual_seed(seed))) is not None]
    )
    assert set(draws[:, 0].tolist()) == {3, 4}
    assert set(draws[:, 4].tolist()) == {0, 1, 2}


def test_what_is_put_in_place_of_a_map_may_be_its_own():
    """Then nothing changes but what rounding does; and a map that is not replaced stays to the bit."""
    model, images = gated(), pictures(3)
    expected = model(images)
    with recorded(model) as maps:
        assert torch.equal(model(images), expected)
    with substituted(model, lambda key, one: maps[key].values):
        assert torch.equal(model(images), expected)
    with substituted(model, lambda key, one: "not asked for") as report:
        assert torch.equal(model(images), expected)
    assert report.left == {"1 channel: not asked for"}


def test_a_module_that_is_called_twice_has_two_means():
    gate = Gate(3)
    model = nn.Sequential(gate, gate)
    images = pictures(4)
    first = images.mean((2, 3)).sigmoid()
    second = (images.mean((2, 3)) * first).sigmoid()
    found = ablations(model, [images[:2], images[2:]], lambda batch: model(batch), kinds=["mean"])
    expected = images * (first.mean(0) * second.mean(0))[:, None, None]
    torch.testing.assert_close(found.mean, expected)


def test_modes_and_random_numbers_are_as_before():
    model, images = gated().train(), pictures(4)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    ablations(model, [images], model)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(module.training for module in model.modules())


def test_data_that_cannot_be_ablated_on_is_refused():
    model = gated()
    with pytest.raises(UserError, match="there is no batch"):
        ablations(model, [], model)
    with pytest.raises(UserError, match="gone through once"):
        ablations(model, iter([pictures(3)]), model)


def test_a_map_whose_first_axis_is_no_batch_stays_and_is_named():
    model = Reading()
    found = ablations(
        model, [torch.zeros(11, 1)], lambda batch: model(torch.ones(2, 1, 5), TABLE[None].expand(2, 7, 5))[:, 0]
    )
    assert found.mean is None
    assert found.resampled is None
    assert found.left["mean"] == [
        "read attention: its first axis is not that of the batch",
        "read stays: the test says so",
    ]


def test_a_model_without_attention_has_no_ablation():
    found = ablations(nn.Flatten(), [pictures(3)], nn.Flatten())
    assert (found.removed, found.mean, found.resampled, dict(found.left)) == (None, None, None, {})


def test_half_precision_keeps_its_type():
    model, images = gated().bfloat16(), pictures(4).bfloat16()
    found = ablations(model, [images[:2], images[2:]], model)
    assert found.mean is not None
    assert found.mean.dtype == torch.bfloat16


def test_means_over_other_grids_are_apart():
    class Map(Gate):
        maps: ClassVar[tuple[MapFact, ...]] = (MapFact("spatial", ("batch", "height", "width")),)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.offer("spatial", x.mean(1).sigmoid())[:, None]

    model = Map(3)
    wide, high = torch.ones(2, 3, 2, 5), torch.zeros(2, 3, 5, 2)
    means = Means()
    for one in (wide, high):
        with recorded(model) as maps:
            model(one)
        means.add(maps, Layout.of(torch.arange(2)))
    with substituted(model, means.substitute(Layout.of(torch.arange(2)))):
        torch.testing.assert_close(model(wide), torch.full_like(wide, 0.7310586))
