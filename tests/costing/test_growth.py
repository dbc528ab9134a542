"""The fitted growth is the one that the operators have."""

import math
from itertools import pairwise

import numpy
import pytest
import torch
from torch import Tensor, nn

from regard.attention import MultiHeadCrossAttention, MultiHeadSelfAttention
from regard.attention.channel import SqueezeExcitation
from regard.costing import Counts, Growth, growth
from regard.errors import UserError

ONES = Counts(1, 1, 1)


class Scores(nn.Module):
    """Every position with every other one: N² products of C channels."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)
        return x.mT @ x


class OneSize(nn.Module):
    def __init__(self, *side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] not in self.side:
            raise ValueError(f"only {self.side},\n not {x.shape[-1]}")
        return x + 1


def exponent(found: Growth, measure: str) -> float:
    fit = found.fit(measure)  # type: ignore[arg-type]
    assert fit is not None
    return fit.exponent


def test_linear_and_quadratic_costs() -> None:
    convolution = growth(nn.Conv2d(3, 5, 1, bias=False), torch.rand(2, 3, 10, 6))
    assert list(convolution.counts) == [(5, 3), (10, 6), (15, 9), (20, 12)]
    assert [counts.macs for counts in convolution.counts.values()] == [2 * 3 * 5 * n for n in (15, 60, 135, 240)]
    assert exponent(convolution, "macs") == pytest.approx(1)
    assert exponent(convolution, "activation_bytes") == pytest.approx(1)
    assert exponent(growth(Scores(), (2, 3, 10, 6)), "macs") == pytest.approx(2)
    assert exponent(growth(nn.ReLU(), (2, 3, 4, 10, 6)), "bytes_moved") == pytest.approx(1)


def test_the_fit_is_that_of_least_squares() -> None:
    sizes, values = [(3, 5), (7, 5), (11, 13), (20, 20)], [7, 31, 100, 1009]
    found = Growth({size: Counts(value, value, value) for size, value in zip(sizes, values, strict=True)})
    x = numpy.log([math.prod(size) for size in sizes])
    slope, intercept = numpy.polyfit(x, numpy.log(values), 1)
    fit = found.fit("macs")
    assert fit is not None
    assert fit.exponent == pytest.approx(slope)
    law = numpy.exp(intercept + slope * x)
    assert fit.error == pytest.approx(max(abs(numpy.array(values) - law) / law))
    assert str(fit) == f"N^{slope:.2f} ±{fit.error:.0%}"


def test_a_constant_cost_has_power_zero_and_none_has_none() -> None:
    constant = Growth({(2, 2): ONES, (3, 3): ONES})
    assert str(constant.fit("macs")) == "N^0.00"
    assert Growth({(2, 2): ONES, (3, 3): Counts(0, 1, 1)}).fit("macs") is None
    assert Growth({(2, 2): ONES}).fit("macs") is None


def test_attention_alone_is_what_it_adds() -> None:
    plain = nn.Conv2d(3, 3, 1)
    difference = growth(nn.Sequential(plain, Scores()), (1, 3, 4, 6)) - growth(plain, (1, 3, 4, 6))
    assert {size: counts.macs for size, counts in difference.counts.items()} == {
        (2, 3): 3 * 6**2, (4, 6): 3 * 24**2, (6, 9): 3 * 54**2, (8, 12): 3 * 96**2
    }  # fmt: skip
    assert exponent(difference, "macs") == pytest.approx(2)


def test_a_refused_size_is_told_and_left_out() -> None:
    found = growth(OneSize(6, 9), (1, 3, 6, 6))
    assert list(found.counts) == [(6, 6), (9, 9)]
    assert found.refused == {(3, 3): "only (6, 9), not 3", (12, 12): "only (6, 9), not 12"}
    difference = found - growth(nn.Identity(), (1, 3, 6, 6))
    assert list(difference.counts) == [(6, 6), (9, 9)]
    assert difference.refused == found.refused
    with pytest.raises(UserError, match=r"none of the sizes; at 3×3 it says: only \(5,\), not 3"):
        growth(OneSize(5), (1, 3, 6, 6))


def test_a_model_that_is_built_for_one_size_is_built_for_each() -> None:
    found = growth(lambda sizes: OneSize(sizes[-1]), (1, 3, 6, 6))
    assert not found.refused
    assert len(found.counts) == 4


def test_of_tokens_their_number_grows_and_of_reads_the_memory() -> None:
    refine = growth(MultiHeadSelfAttention(8, heads=2), torch.rand(3, 14, 8))
    assert {size: counts.macs for size, counts in refine.counts.items()} == {
        (n,): 3 * (4 * n * 8 * 8 + 2 * n * n * 8) for n in (7, 14, 21, 28)
    }
    read = MultiHeadCrossAttention(8, 16, heads=2)
    query, memory = torch.rand(3, 5, 8), torch.rand(3, 14, 16)
    mask = torch.ones(3, 14, dtype=torch.bool)
    expected = {(n,): 3 * (2 * 5 * 8 * 8 + 2 * n * 16 * 8 + 2 * 5 * n * 8) for n in (7, 14, 21, 28)}
    for found in (
        growth(read, query, memory),
        growth(read, query, memory, mask),
        growth(read, query, memory, mask[:, None].expand(3, 5, 14)),
        growth(read, {"query": query, "memory": memory, "mask": mask}),
    ):
        assert {size: counts.macs for size, counts in found.counts.items()} == expected


def test_a_map_of_one_axis_grows_where_a_refinement_says_that_it_is_one() -> None:
    found = growth(SqueezeExcitation(32), (1, 32, 20))
    assert [*found.counts] == [(10,), (20,), (30,), (40,)]
    kept = [counts.activation_bytes for counts in found.counts.values()]
    assert [b - a for a, b in pairwise(kept)] == [32 * 10 * 4] * 3


def test_no_size_is_counted_twice_or_empty() -> None:
    assert list(growth(nn.ReLU(), (1, 3, 1, 1)).counts) == [(1, 1), (2, 2)]
    assert list(growth(nn.ReLU(), (1, 3, 4, 4), factors=(2, 1, 2)).counts) == [(4, 4), (8, 8)]


def test_bad_input() -> None:
    for factors in ((), (1,), (1, 1), (0, 1), (-1, 1), (1, math.inf), (1, math.nan)):
        with pytest.raises(UserError, match="at least two different positive"):
            growth(nn.ReLU(), (1, 3, 4, 4), factors=factors)
    with pytest.raises(UserError, match=r"with at least two spatial axes; .* \(3, 5\)"):
        growth(nn.Linear(5, 7), (3, 5))
    with pytest.raises(UserError, match="needs an example"):
        growth(lambda sizes: nn.ReLU())
    with pytest.raises(UserError, match="give one as example="):
        growth(nn.ReLU())
