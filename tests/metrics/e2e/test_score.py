from __future__ import annotations

import json

import pytest

from dora_cli.metrics.e2e import measures, tokenisation
from dora_cli.metrics.e2e.java import JavaError
from dora_cli.metrics.e2e.score import score_e2e
from tests.metrics.e2e.data import OFFICIAL, held_out, needs_data, worn
from tests.metrics.e2e.java import needs_java


def without_java(monkeypatch: pytest.MonkeyPatch, *, tokenizer: str | None, meteor: str | None) -> None:
    def fails(message: str) -> object:
        def call(*_: object) -> None:
            raise JavaError(message)

        return call

    if tokenizer is not None:
        monkeypatch.setattr(tokenisation, "ptb_lines", fails(tokenizer))
    if meteor is not None:
        monkeypatch.setattr(measures, "meteor_score", fails(meteor))


@needs_data
def test_the_official_script_agrees_without_java(monkeypatch: pytest.MonkeyPatch) -> None:
    without_java(monkeypatch, tokenizer="install it", meteor="install it")
    outputs, references = held_out()
    assert (len(outputs), sum(map(len, references))) == (616, 4063)
    found = score_e2e(worn(outputs), references).metrics
    assert found == pytest.approx(OFFICIAL | {"meteor": None}, abs=1e-6)


@needs_data
@needs_java
def test_the_official_script_agrees_with_java() -> None:
    outputs, references = held_out()
    scores = score_e2e(worn(outputs), references)
    assert scores.metrics == pytest.approx(OFFICIAL, abs=1e-6)
    assert scores.notes == ()


@pytest.mark.parametrize(
    ("tokenizer", "meteor", "notes"),
    [
        (
            "install it",
            "install it",
            ["METEOR is not computed: install it", "agrees with the official one on E2E text"],
        ),
        (
            "it broke",
            "install it",
            ["METEOR is not computed: install it", "agrees with the official one on E2E text: it broke"],
        ),
    ],
)
def test_what_is_missing_is_said(
    monkeypatch: pytest.MonkeyPatch, tokenizer: str, meteor: str, notes: list[str]
) -> None:
    without_java(monkeypatch, tokenizer=tokenizer, meteor=meteor)
    scores = score_e2e(["A cheap pub.", "x"], [["A cheap pub."], ["y", "z"]])
    assert list(scores.metrics) == ["bleu", "nist", "meteor", "rouge_l", "cider"]
    assert scores.metrics["meteor"] is None
    assert [note[-len(end) :] for note, end in zip(scores.notes, notes, strict=True)] == notes


def test_empty_outputs_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    without_java(monkeypatch, tokenizer="install it", meteor="install it")
    metrics = score_e2e(["", ""], [["A cheap pub."], ["y", "z"]]).metrics
    assert metrics == pytest.approx({"bleu": 0.0, "nist": 0.0, "meteor": None, "rouge_l": 0.0, "cider": 0.0}, abs=1e-4)
    json.dumps(metrics, allow_nan=False)


def test_a_single_output(monkeypatch: pytest.MonkeyPatch) -> None:
    without_java(monkeypatch, tokenizer="install it", meteor="install it")
    metrics = score_e2e(["A cheap pub in town"], [["A cheap pub in town"]]).metrics
    # Each of five words: log2(5) of information, longer n-grams are certain.
    assert metrics["bleu"] == pytest.approx(1.0)
    assert metrics["nist"] == pytest.approx(2.321928094887362)
    assert metrics["cider"] == 0.0
