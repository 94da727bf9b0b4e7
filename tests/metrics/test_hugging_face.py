"""The same numbers by way of `evaluate`, which leaves nothing behind."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import ModuleType

import pytest

from dora_cli.metrics.e2e import measures, tokenisation
from dora_cli.metrics.e2e.java import JavaError
from dora_cli.metrics.e2e.score import score_e2e
from dora_cli.metrics.glue import compute_metrics, metric_names

OUTPUTS = ["The Eagle is a cheap pub.", "Cotto isn't family-friendly"]
REFERENCES = [["The Eagle is a cheap pub.", "A pub"], ["Zizzi"]]


@pytest.fixture(scope="module")
def ours() -> ModuleType:
    """Imported here, since it loads `evaluate`, which takes seconds."""
    from dora_cli.metrics import hugging_face

    return hugging_face


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object) -> list[str]:
        raise JavaError("install it")

    monkeypatch.setattr(tokenisation, "ptb_lines", absent)
    monkeypatch.setattr(measures, "meteor_score", absent)


@pytest.mark.usefixtures("no_java")
def test_each_of_e2e_is_an_evaluate_metric_of_several_references(ours: ModuleType) -> None:
    values = {}
    for each in (ours.Bleu, ours.Nist, ours.Meteor, ours.RougeL, ours.Cider):
        assert issubclass(each, ours.evaluate.Metric)
        values |= ours.compute(each, OUTPUTS, REFERENCES)
    # 13a tokens: 7 + 3 in the outputs, all 7, 6, 5 and 4 n-grams of the first match; references nearest in length: 7 +
    # 1.
    assert values["bleu"] == pytest.approx((7 / 10 * 6 / 8 * 5 / 6 * 4 / 4) ** (1 / 4))
    assert values["rouge_l"] == pytest.approx(0.5)
    # Six Treebank words equal the first reference's; of the second, 2 words, "a" and "pub" match: cosine 2 / sqrt(6 *
    # 2), 5 bigrams to 1.
    assert values["cider"] == pytest.approx(10 * (1 + 2 / 12**0.5 * 2.718281828459045 ** (-16 / 72) / 4) / 2 / 2)
    assert values["nist"] > 0.0
    assert (values.pop("meteor"), values.pop("problem")) == (None, "install it")
    assert values == score_e2e(OUTPUTS, REFERENCES, meteor=False).metrics


def test_those_of_glue_are_what_a_run_computes(ours: ModuleType) -> None:
    predictions, references = [1.0, 1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 1.0, 1.0]
    classes = (ours.Accuracy, ours.AccuracyF1, ours.Matthews, ours.PearsonSpearman)
    for name, each in zip(metric_names(), classes, strict=True):
        assert issubclass(each, ours.evaluate.Metric)
        assert ours.compute(each, predictions, references) == compute_metrics(name, predictions, references)


@pytest.mark.usefixtures("no_java")
def test_nothing_is_written_to_the_shared_cache(
    ours: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, private = tmp_path / "shared", tmp_path / "private"
    private.mkdir()
    monkeypatch.setattr(ours.evaluate.config, "HF_METRICS_CACHE", shared)
    monkeypatch.setattr(tempfile, "tempdir", str(private))
    ours.compute(ours.RougeL, OUTPUTS, REFERENCES)
    ours.compute(ours.Accuracy, [0, 1], [1, 1])
    assert not shared.exists()
    assert not list(private.iterdir())


def test_meteor_gets_tokens(monkeypatch: pytest.MonkeyPatch, no_java: None) -> None:
    def score(outputs: list[str], references: list[list[str]]) -> float:
        assert outputs == ["the eagle is a cheap pub", "cotto is n't family-friendly"]
        assert references == [["the eagle is a cheap pub", "a pub"], ["zizzi"]]
        return 0.25

    monkeypatch.setattr(measures, "meteor_score", score)
    assert measures.meteor(OUTPUTS, REFERENCES) == {"meteor": 0.25}
