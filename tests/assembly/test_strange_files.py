"""Files as people have them: each can be trained on, with a note where something is odd, or is one error with the place
and the fix.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dora_cli import train
from dora_cli.assembly.data import load_data
from dora_cli.assembly.notes import notes_before_training
from dora_cli.assembly.resolve import resolve
from dora_cli.errors import DataError
from dora_cli.recipe import Recipe, parse_recipe


def table(*rows: Sequence[Any], header: Sequence[str] = ("text", "label"), separator: str = ",") -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


GOOD = [["one", "a"], ["two", "b"], ["three", "a"], ["four", "b"]]


def recipe(folder: Path, model: object = "builtin:tiny-encoder", *changes: str) -> Recipe:
    text = f"""
        task: classification
        model: {{name: "{model}"}}
        data: {{source: files, path: {folder / "own.csv"}, validation: 0.5}}
        method: {{name: lora, rank: 1, dropout: 0.0}}
        train: {{max_steps: 2, batch_size: 4, device: cpu}}
    """
    return parse_recipe(text, overrides=changes)


@pytest.mark.parametrize(
    ("content", "changes", "labels", "note"),
    [
        pytest.param(table(*GOOD).encode("utf-8-sig"), (), ("a", "b"), None, id="byte-order mark"),
        pytest.param(table(*GOOD).replace("\n", "\r\n").encode(), (), ("a", "b"), None, id="lines of windows"),
        pytest.param(table(*GOOD, separator=";").encode(), ("data.separator=semicolon",), ("a", "b"), None, id=";"),
        pytest.param(table(*GOOD, ["two\nlines", "a"]).encode(), (), ("a", "b"), None, id="quoted line break"),
        pytest.param(
            table(*([str(row), row % 3 * 5] for row in range(6))).encode(), (), ("0", "5", "10"), None, id="numbers"
        ),
        pytest.param(
            table(*([str(row), f"class {row % 77:02}"] for row in range(154))).encode(),
            (),
            tuple(f"class {row:02}" for row in range(77)),
            None,
            id="77 classes",
        ),
        pytest.param(table(*GOOD, ["x", "c"]).encode(), (), ("a", "b", "c"), "label 'c' (", id="a class of one"),
        pytest.param(table(*GOOD, ["", "a"]).encode(), (), ("a", "b"), "1 of 3 rows has an empty text", id="empty"),
        pytest.param(table(*GOOD, [" ", "a"]).encode(), ("data.invalid=skip",), ("a", "b"), "line 6", id="skipped"),
        pytest.param(table(*GOOD, ["x", "A "]).encode(), (), ("A ", "a", "b"), "'A ', 'a'", id="labels alike"),
        pytest.param(
            table(*GOOD, ["nul\0", "a"], ["nul\0", "a"], ["nul\0", "a"]).encode(),
            (),
            ("a", "b"),
            "NUL",
            id="NUL",
            marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="older versions of csv refuse the row"),
        ),
    ],
)
def test_what_can_be_trained_on(
    content: bytes, changes: Sequence[str], labels: Sequence[str], note: str | None, tmp_path: Path
) -> None:
    (tmp_path / "own.csv").write_bytes(content)
    settled, task = resolve(recipe(tmp_path, "builtin:tiny-encoder", *changes))
    data = load_data(settled, task)
    assert task.labels == labels
    said = [line for line in notes_before_training(settled, task, data.training, data.evaluated, read=data.read)
            if "data.validation" not in line]  # fmt: skip
    if note is None:
        assert said == []
    else:
        assert any(note in line for line in said), said


@pytest.mark.parametrize(
    ("content", "changes", "says"),
    [
        pytest.param(table(*GOOD, separator=";").encode(), (), ["data.separator: semicolon"], id=";"),
        pytest.param(table(*GOOD, ["caf\xe9", "a"]).encode("latin-1"), (), ["line 6", "UTF-8"], id="Latin-1"),
        pytest.param(table(*GOOD).encode("utf-16"), (), ["UTF-16", "UTF-8"], id="UTF-16"),
        pytest.param(table(["x", "a"], ["y", "a"]).encode(), (), ["'a'", "data.labels"], id="one class"),
        pytest.param(table(*GOOD, ["x", ""]).encode(), (), ["line 6", "data.invalid: skip"], id="no label"),
        pytest.param((table(*GOOD) + "a, b,a\n").encode(), (), ["line 6", "stands in quotes"], id="a bare comma"),
        pytest.param((table(*GOOD) + '"open,a\n').encode(), (), ["line 6", "quote"], id="an open quote"),
        pytest.param(b"", (), ["empty"], id="nothing"),
        pytest.param(table().encode(), (), ["no examples"], id="a header"),
        pytest.param(table(*GOOD, header=("a", "a")).encode(), (), ["'a' more than once"], id="a name twice"),
        pytest.param(table(*GOOD, header=("x", "y")).encode(), (), ["'x', 'y'", "data.columns"], id="other names"),
        pytest.param(
            table(*GOOD).encode(), ("data.labels=[a, c]",), ["line 3", "'b'", "data.labels"], id="another class"
        ),
        pytest.param(
            table(*([str(row), row] for row in range(1001))).encode(), (), ["1,001", "regression"], id="no classes"
        ),
        pytest.param(
            table(["x", "1.5"], ["y", "2,5"]).encode(),
            ("task=regression",),
            ["line 3", "'2,5'"],
            id="a comma in a number",
        ),
    ],
)
def test_what_is_one_error(content: bytes, changes: Sequence[str], says: Sequence[str], tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_data(*resolve(recipe(tmp_path, "builtin:tiny-encoder", *changes)))
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path / "own.csv") in message
    for part in says:
        assert part in message


def test_many_classes_and_one_of_one_example(tiny_model: Path, tmp_path: Path) -> None:
    """To the end of a run, whose metrics and confusion matrix have to bear classes without a row to evaluate."""
    rows = [[f"text {row}", f"class {row % 77}"] for row in range(154)]
    (tmp_path / "own.csv").write_text(table(*rows, ["", "single"]))
    metrics = train(recipe(tmp_path, tiny_model), tmp_path / "run").metrics
    assert len(metrics["confusion"]["labels"]) == 78
    assert metrics["baseline"]["metrics"]["accuracy"] == pytest.approx(1 / 77)
