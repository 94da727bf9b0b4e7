"""Rows of pictures are full: nothing stands alone beside a void."""

from __future__ import annotations

from itertools import product

import pytest

from dora_cli.reports.html.rows import HALF, SLOT, WHOLE, per_row, spans


def rows(units: list[int]) -> list[list[int]]:
    """Units as they fall into rows, in order, as the browser's grid places them."""
    made: list[list[int]] = [[]]
    for unit in units:
        if sum(made[-1]) + unit > WHOLE:
            made.append([])
        made[-1].append(unit)
    return made


@pytest.mark.parametrize(("need", "maps"), list(product([SLOT, HALF, HALF + 1], range(4))))
def test_every_row_is_full(need: int, maps: int) -> None:
    for charts in range(12):
        places = spans([need] * maps, charts)
        assert len(places) == maps + charts
        for units in ([place.medium for place in places], [place.wide for place in places]):
            assert all(sum(row) == WHOLE for row in rows(units) if row)


@pytest.mark.parametrize("maps", [[], [SLOT], [HALF], [HALF + 1], [SLOT] * 3, [HALF] * 3])
def test_no_chart_is_alone_in_a_row(maps: list[int]) -> None:
    for charts in range(2, 12):
        places = spans(maps, charts)[len(maps) :]
        assert all(place.medium < WHOLE and place.wide < WHOLE for place in places)


def test_a_small_map_is_a_picture_among_others() -> None:
    """The demonstration: its map, loss, accuracy and budget are two rows of two."""
    assert [(place.medium, place.wide) for place in spans([280], 3)] == [(3, 3)] * 4
    assert [place.wide for place in spans([500], 4)] == [3, 3, 2, 2, 2]


@pytest.mark.parametrize(
    ("count", "most", "expected"), [(8, 8, 8), (9, 8, 5), (9, 5, 5), (8, 5, 4), (1, 5, 1), (0, 5, 0)]
)
def test_rows_are_about_equally_long(count: int, most: int, expected: int) -> None:
    assert per_row(count, most) == expected
