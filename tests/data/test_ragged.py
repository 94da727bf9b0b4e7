from __future__ import annotations

import numpy as np
import pytest

from dora_cli.data.ragged import Ragged, padded_width

ROWS = [[1, 2, 3], [], [4], [5, 6]]


def ragged(rows: list[list[int]]) -> Ragged:
    return Ragged.of(np.array([value for row in rows for value in row], dtype=np.int32), [len(row) for row in rows])


def as_lists(rows: Ragged) -> list[list[int]]:
    return [rows.values[rows.offsets[i] : rows.offsets[i + 1]].tolist() for i in range(len(rows))]


def test_rows_and_lengths() -> None:
    rows = ragged(ROWS)
    assert len(rows) == 4
    assert as_lists(rows) == ROWS
    assert rows.lengths.tolist() == [3, 0, 1, 2]
    assert rows.lengths_of(np.array([3, 0])).tolist() == [2, 3]
    assert len(ragged([])) == 0


def test_taking_surrounding_and_cutting() -> None:
    rows = ragged(ROWS)
    assert as_lists(rows.take(np.array([3, 0, 3, 1]))) == [[5, 6], [1, 2, 3], [5, 6], []]
    assert as_lists(rows.surrounded((8, 9), (7,))) == [[8, 9, *row, 7] for row in ROWS]
    assert as_lists(rows.surrounded((), ())) == ROWS
    assert as_lists(rows.cut(np.array([2, 2, 0, 5]))) == [[1, 2], [], [], [5, 6]]


@pytest.mark.parametrize("left", [False, True])
def test_padding(left: bool) -> None:
    out, filled = ragged(ROWS).padded(np.array([0, 2, 1]), -1, 4, left=left)
    expected = [[-1, 1, 2, 3], [-1, -1, -1, 4], [-1] * 4] if left else [[1, 2, 3, -1], [4, -1, -1, -1], [-1] * 4]
    assert out.tolist() == expected
    assert out.dtype == np.int64
    assert filled.tolist() == [[value != -1 for value in row] for row in expected]


def test_writing_at_different_columns_leaves_the_rest_alone() -> None:
    out = np.zeros((2, 6), dtype=np.int64)
    ragged(ROWS).write(np.array([0, 3]), out, np.array([1, 4]))
    assert out.tolist() == [[0, 1, 2, 3, 0, 0], [0, 0, 0, 0, 5, 6]]
    ragged(ROWS).write(np.array([3, 2]), out, leave_out=1)
    assert out.tolist() == [[5, 1, 2, 3, 0, 0], [0, 0, 0, 0, 5, 6]]


@pytest.mark.parametrize(
    ("longest", "multiple", "most", "width"),
    [
        (1, 8, 64, 8),
        (8, 8, 64, 8),
        (9, 8, 64, 16),
        (61, 8, 63, 63),
        (9, 1, 64, 9),
        (5, 8, 3, 5),
        (64, 8, 512, 64),
        (65, 8, 512, 80),
        (129, 8, 512, 160),
        (300, 1, 512, 300),
        (500, 8, 505, 505),
    ],
)
def test_widths(longest: int, multiple: int, most: int, width: int) -> None:
    assert padded_width(longest, multiple, most) == width


def test_widths_are_few() -> None:
    assert len({padded_width(longest, 8, 512) for longest in range(1, 513)}) == 8 + 4 + 4 + 4
