"""Numbers, durations and dates as people write them."""

import math

import pytest

from regard import formatting
from regard.formatting import (
    count,
    duration,
    milliseconds,
    moment,
    number,
    percent,
    probability,
    scaled,
    signed,
    weight,
)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (1170.0, "1,170"),
        (1234567.8, "1,234,568"),
        (999.96, "1,000"),
        (99.96, "100"),
        (9.996, "10.0"),
        (12.345, "12.3"),
        (0.41234, "0.412"),
        (0.00123456, "0.00123"),
        (0.00012, "0.000120"),
        (1.2e-7, "1.2e-7"),
        (-1.25e-7, "−1.25e-7"),
        (-1170, "−1,170"),
        (0, "0"),
        (None, "–"),
        (math.nan, "–"),
    ],
)
def test_a_number_has_the_digits_that_one_reads(value: float | None, written: str) -> None:
    assert number(value) == written


def test_no_number_from_a_millionth_to_a_million_million_has_an_exponent() -> None:
    for power in range(-4, 13):
        for digit in (1, 1.5, 9.9994, 9.9996):
            assert "e" not in number(digit * 10.0**power)
            assert float(number(digit * 10.0**power).replace(",", "")) == pytest.approx(digit * 10.0**power, rel=5e-3)


@pytest.mark.parametrize(
    ("value", "unit", "written"),
    [
        (0, "", "0"),
        (999, "", "999"),
        (1234, "", "1.234 k"),
        (-56_789_000, "", "−56.79 M"),
        (4_089_184_256, "", "4.089 G"),
        (999_960_000, "", "1.000 G"),
        (7 * 10**12, "", "7.000 T"),
        (-5, "B", "−5 B"),
        (1500, "B", "1.500 kB"),
        (0.5, "B", "0.5000 B"),
    ],
)
def test_a_quantity_has_the_prefix_of_its_unit(value: float, unit: str, written: str) -> None:
    assert scaled(value, unit, digits=4) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.04, "0.04 s"),
        (1, "1 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (99.4, "99 s"),
        (279.0, "5 min"),
        (5_940.0, "99 min"),
        (7_199.0, "2 h"),
        (7_800.0, "2 h 10 min"),
        (90_000.0, "25 h"),
        (None, "–"),
    ],
)
def test_a_duration_has_one_unit_or_two(seconds: float | None, written: str) -> None:
    assert duration(seconds) == written


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("2026-12-01T03:31:00+00:00", "1 December 2026, 03:31 UTC"),
        ("2026-12-01T01:31:59+02:00", "30 November 2026, 23:31 UTC"),
        ("2026-01-02T03:04:05", "2 January 2026, 03:04"),
        ("yesterday", "yesterday"),
    ],
)
def test_a_moment_is_a_date_and_a_time(text: str, written: str) -> None:
    assert moment(text) == written


def test_other_forms() -> None:
    assert milliseconds(1170.4) == "1,170 ms"
    assert milliseconds(1170.4, 12.3) == "1,170 ± 12 ms"
    assert milliseconds(0.4123, 0.0567) == "0.412 ± 0.057 ms"
    assert [signed(value) for value in (-0.04, 0.0, -0.06)] == ["0.0", "0.0", "−0.1"]
    assert formatting.fixed(-0.0001) == "0.000"
    assert signed(2.0) == "+2.0"
    assert count(1234567.0) == "1,234,567"
    assert percent(0.98437) == "98.4\N{NO-BREAK SPACE}%"
    assert [probability(value) for value in (0.0, 0.004, 0.5, 0.999, 1.0, None)] == [
        "0.00",
        "<0.01",
        "0.50",
        ">0.99",
        "1.00",
        "",
    ]
    assert [weight(value) for value in (0.123, 0.0567, 0.00012, 0.0)] == ["0.12", "0.057", "0.00012", "0"]
    assert len({formatting.moment(f"2026-{month:02}-01") for month in range(1, 13)}) == 12
