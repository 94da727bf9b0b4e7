"""What a confusion matrix says of each class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from dora_cli.printable import shown

MATRIX = 12
"""Classes above which a matrix is too wide to read: what each is mostly taken for says more then."""


class ClassResult(NamedTuple):
    """One class: how many rows have it, and how well it was told.

    Attributes:
        precision: share of the rows taken for it that are of it; 0 where there are none.
        recall: share of its rows that were taken for it; 0 where there are none.
        f1: their harmonic mean.
        taken_for: the other class that its rows were most often taken for, and how often; None where for none.
    """

    label: str
    examples: int
    precision: float
    recall: float
    f1: float
    taken_for: tuple[str, int] | None


def class_results(confusion: Mapping[str, Any]) -> Iterator[ClassResult]:
    """Every class of a record's ``confusion``, in its order."""
    labels, counts = [shown(label, 60) for label in confusion["labels"]], confusion["counts"]
    for index, label in enumerate(labels):
        row, right = counts[index], counts[index][index]
        examples, taken = sum(row), sum(other[index] for other in counts)
        wrong = max((count, -place) for place, count in enumerate(row) if place != index)
        yield ClassResult(
            label,
            examples,
            right / taken if taken else 0.0,
            right / examples if examples else 0.0,
            2 * right / (examples + taken) if examples + taken else 0.0,
            (labels[-wrong[1]], wrong[0]) if wrong[0] else None,
        )
