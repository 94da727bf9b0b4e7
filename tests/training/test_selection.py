"""Which evaluation counts."""

from __future__ import annotations

import pytest

from dora_cli.training.selection import Selection


def offer(selection: Selection, values: list[float | None], *, frozen_from: int = 0) -> list[bool]:
    return [
        selection.offer(epoch=i + 1, step=10 * (i + 1), metrics={"m": value}, frozen=i >= frozen_from)
        for i, value in enumerate(values)
    ]


@pytest.mark.parametrize(("lower", "best"), [(False, 2), (True, 3)])
def test_the_best_by_direction(lower: bool, best: int) -> None:
    selection = Selection("best", "m", lower)
    offer(selection, [0.5, 0.9, 0.1, 0.7])
    assert selection.epoch == best


def test_of_equals_the_first() -> None:
    for lower in (False, True):
        selection = Selection("best", "m", lower)
        assert offer(selection, [0.5, 0.5]) == [True, False]


def test_the_last() -> None:
    selection = Selection("last", "m", True)
    assert offer(selection, [0.1, 0.9]) == [True, True]


def test_only_after_the_freeze() -> None:
    selection = Selection("best-after-freeze", "m", True)
    assert offer(selection, [0.1, 0.5, 0.4], frozen_from=1) == [False, True, True]
    assert selection.epoch == 3


def test_an_undefined_value_never_beats_a_defined_one() -> None:
    for lower in (False, True):
        selection = Selection("best", "m", lower)
        assert offer(selection, [None, 0.5, float("nan"), None]) == [True, True, False, False]
