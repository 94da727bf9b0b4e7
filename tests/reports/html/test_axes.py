"""Round numbers on axes."""

from __future__ import annotations

import math

import pytest

from dora_cli.reports.html.axes import MOST_LOG, labels, log_ticks, short, ticks


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (0, 180, 6, (0, 50, 100, 150)),
        (0, 1, 6, (0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        (0.676, 0.7, 6, (0.68, 0.685, 0.69, 0.695, 0.7)),
        (-3, 3, 4, (-2, 0, 2)),
        (0, 2520, 6, (0, 500, 1000, 1500, 2000, 2500)),
    ],
)
def test_ticks(low: float, high: float, most: int, expected: tuple[float, ...]) -> None:
    assert ticks(low, high, most) == pytest.approx(expected)


def test_ticks_are_few_round_and_inside_whatever_the_range() -> None:
    for exponent in range(-8, 15):
        for factor in (1, 1.3, 2.4, 4.99, 7.7, 9.999):
            for low in (0.0, -factor, 0.37 * factor):
                start, end = low * 10.0**exponent, (low + factor) * 10.0**exponent
                found = ticks(start, end, 6)
                assert 2 <= len(found) <= 6
                assert all(start - 1e-9 * abs(end) <= value <= end * (1 + 1e-9) for value in found)
                assert len(set(labels(found))) == len(found)


def test_steps_are_whole() -> None:
    assert ticks(0, 3, 6, whole=True) == (0, 1, 2, 3)
    assert ticks(0, 1, 6, whole=True) == (0, 1)


def test_steps_are_one_two_two_and_a_half_or_five() -> None:
    """Never 15 or 30, whatever the range."""
    for high in range(1, 1500, 7):
        for low in (0.0, high / 3):
            found = ticks(low, high, 6)
            step = (found[1] - found[0]) / 10 ** math.floor(math.log10(found[1] - found[0]) + 1e-9)
            assert min(abs(step - nice) for nice in (1, 2, 2.5, 5)) < 1e-6


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (30, 1000, (50, 100, 200, 500, 1000)),
        (36, 864, (50, 100, 200, 500)),
        (1, 1e6, (1, 10, 100, 1000, 1e4, 1e5, 1e6)),
        (3, 4, ()),
    ],
)
def test_ticks_of_a_logarithmic_axis(low: float, high: float, expected: tuple[float, ...]) -> None:
    assert log_ticks(low, high) == pytest.approx(expected)
    assert len(expected) <= MOST_LOG


def test_labels() -> None:
    assert labels((0, 0.25, 0.5)) == ("0", "0.25", "0.50")
    assert labels((0, 500, 1000)) == ("0", "500", "1,000")
    assert labels((0, 500_000, 1_000_000, 1_500_000)) == ("0", "0.5M", "1.0M", "1.5M")
    assert labels((0, 1e-5, 2e-5)) == ("0", "1e-05", "2e-05")


def test_many_decades_are_thinned() -> None:
    found = log_ticks(0.5, 2e9, 5)
    assert found == (1, 100, 1e4, 1e6, 1e8)
    assert log_ticks(0.09, 11, 3) == (0.1, 1, 10), "none is left out where all have room"


def test_numbers_are_written_as_people_write_learning_rates() -> None:
    written = [short(value) for value in (1e-4, 5.6234e-4, 1.78e-3, 0.01, 0.025, 1.0, 32.0, 0.0, 20_000.0, 1e-10)]
    assert written == ["1e-4", "5.62e-4", "1.78e-3", "0.01", "0.025", "1", "32", "0", "2e4", "1e-10"]
    assert [short(value, 6) for value in (5.62341e-4, 0.0177828)] == ["5.62341e-4", "0.0177828"]
