"""What a confusion matrix says of each class, by hand, and how it is printed."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from dora_cli.reports.classes import class_results
from dora_cli.reports.evaluation import print_classes

CONFUSION = {"labels": ["red", "green", "blue"], "counts": [[6, 2, 0], [0, 3, 1], [0, 0, 0]]}


def test_precision_recall_and_f1_by_hand() -> None:
    red, green, blue = class_results(CONFUSION)
    assert (red.examples, red.precision, red.recall, red.taken_for) == (8, 1.0, 0.75, ("green", 2))
    assert red.f1 == pytest.approx(2 * 1.0 * 0.75 / 1.75)
    assert (green.precision, green.recall, green.taken_for) == (0.6, 0.75, ("blue", 1))
    assert blue[1:] == (0, 0.0, 0.0, 0.0, None)  # never there, once said


@pytest.mark.parametrize("classes", [3, 13])
def test_few_classes_have_a_matrix_many_what_they_are_taken_for(classes: int) -> None:
    labels = [f"class{index}" for index in range(classes)]
    counts = [[int(column == (row + 1) % classes) for column in range(classes)] for row in range(classes)]
    console = Console(file=io.StringIO(), width=200, highlight=False)
    print_classes(console, {"labels": labels, "counts": counts})
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    (first,) = [line.split() for line in lines if line.startswith("class0 ")]
    if classes == 3:
        assert first == ["class0", "1", "0.0000", "0.0000", "0.0000", "0", "1", "0"]
    else:
        assert first == ["class0", "1", "0.0000", "0.0000", "0.0000", "class1", "(1)"]


def test_names_are_shown_not_obeyed() -> None:
    (first, _) = class_results({"labels": ["a\x1b[31m", "b"], "counts": [[1, 0], [0, 1]]})
    assert "\x1b" not in first.label
