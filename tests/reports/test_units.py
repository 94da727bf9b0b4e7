from __future__ import annotations

import math

import pytest

from dora_cli.reports.units import duration, number, size, speed
from dora_cli.wording import plural


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0s"), (9.94, "9.9s"), (9.96, "10s"), (59.4, "59s"), (59.6, "1m00s"), (3599.4, "59m59s"), (3599.6, "1h00m"),
    (7325, "2h02m"),
     (None, "-"), (math.nan, "-"), (math.inf, "-")],
)  # fmt: skip
def test_duration(seconds: float | None, text: str):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**20 - 1, "1.0 MiB"), (2**31, "2.0 GiB"), (None, "-")],
)
def test_size(count: int | None, text: str):
    assert size(count) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0312, "0.03"), (9.994, "9.99"), (9.996, "10.0"), (99.96, "100"), (12345.6, "12346"), (None, "-")],
)
def test_speed(value: float | None, text: str):
    assert speed(value) == text


def test_numbers_and_counts():
    assert number(0.87654) == "0.8765"
    assert number(math.nan) == "-"
    assert plural(1, "step") == "1 step"
    assert plural(1234, "step") == "1,234 steps"
