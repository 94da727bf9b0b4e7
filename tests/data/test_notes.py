"""Odd examples: each kind is counted by hand, sound ones give no note."""

from __future__ import annotations

import pytest

from dora_cli.data import Examples
from dora_cli.data.builtin import builtin_tasks, generate
from dora_cli.data.notes import label_notes, limit_note, text_notes
from dora_cli.data.sources.fields import Labels
from dora_cli.tasks import get_task


def texts(*columns: list[str]) -> list[str]:
    return list(text_notes("split train", Examples(columns, None)))


def labels(task: str, *values: float, training: bool = True) -> list[str]:
    examples = Examples((["a"] * len(values),), list(values))
    return list(get_task(task).notes("split train", examples, training=training))


@pytest.mark.parametrize("name", builtin_tasks())
def test_sound_examples_give_no_note(name: str) -> None:
    task = get_task(name)
    for split in task.splits:
        examples = generate(name, split)
        assert [
            *text_notes(split, examples),
            *label_notes(split, task.fields.labels, examples, training=split == "train"),
        ] == []


def test_empty_texts_and_nul_characters_are_counted_by_rows() -> None:
    assert texts(["a", "b"]) == []
    assert texts(["a", "", " \t", "b"]) == ["split train: 2 of 4 rows have an empty text"]
    assert texts(["", "b"], ["", "d"]) == ["split train: 1 of 2 rows has an empty text"]
    assert texts(["a", "b", "c\0"], ["\0", "d", "\0e"]) == [
        r"split train: 2 of 3 rows have a text with NUL characters (\x00), such as a wrong encoding leaves in it"
    ]
    assert texts([""]) == ["split train: 1 of 1 row has an empty text"]


def test_one_class_only() -> None:
    assert labels("glue/sst2", 1, 1, 1) == [
        "split train: all 3 rows have the label 'positive'; the model can learn nothing but to say that"
    ]
    assert labels("glue/sst2", 0, training=False) == [
        "split train: the only row has the label 'negative'; scores say nothing of other labels"
    ]
    assert labels("glue/cola", 0, 0, training=False) == [
        "split train: all 2 rows have the label 'unacceptable'; matthews_correlation will be 0"
    ]
    assert labels("glue/sst2", 0, 1) == []


def test_constant_numbers() -> None:
    assert labels("glue/stsb", 2.5, 2.5) == [
        "split train: all 2 rows have the label 2.5; the model can learn nothing but to say that"
    ]
    assert labels("glue/stsb", 2.5, 2.5, training=False) == [
        "split train: all 2 rows have the label 2.5; pearson and spearmanr will be 0"
    ]
    assert labels("glue/stsb", 2.5, 2.6) == []


@pytest.mark.parametrize(("name", "metric"), [("glue/stsb", "pearson_spearman"), ("glue/cola", "matthews")])
def test_what_is_said_to_be_0_is_0(name: str, metric: str) -> None:
    """Whatever is predicted; and every other score is not."""
    from dora_cli.metrics.glue import compute_metrics

    (note,) = labels(name, 1, 1, 1, training=False)
    scores = compute_metrics(metric, [0, 1, 1], [1, 1, 1])
    assert {value for score, value in scores.items() if score in note} == {0.0}
    assert set(scores) == {score for score in scores if score in note}


def test_a_class_that_is_missing() -> None:
    assert labels("glue/mnli", 0, 2, 2) == [
        "split train: none of 3 rows has the label 'neutral' (1 'entailment', 2 'contradiction')"
    ]
    assert labels("glue/mnli", 0, 1, 2) == []


def test_examples_without_labels_give_no_note() -> None:
    assert list(label_notes("split test", Labels(("a", "b")), Examples((["a"],), None), training=False)) == []
    assert list(label_notes("split test", None, Examples((["a"], ["b"]), None), training=False)) == []


def test_a_limit_above_what_there_is() -> None:
    assert limit_note("split train", "data.max_train_samples", None, 5, "example") is None
    assert limit_note("split train", "data.max_train_samples", 5, 5, "example") is None
    assert (
        limit_note("split train", "data.max_train_samples", 5000, 1200, "example")
        == "split train: data.max_train_samples is 5,000, but there are 1,200 examples, so all are used"
    )
    assert "there is 1 example, so" in str(limit_note("split train", "data.max_train_samples", 2, 1, "example"))
