from __future__ import annotations

import tempfile
from pathlib import Path

import evaluate
import pytest

from dora_cli.metrics.e2e import metric, tokenisation
from dora_cli.metrics.e2e.java import JavaError
from dora_cli.metrics.e2e.metric import Bleu, Cider, Meteor, Nist, RougeL
from dora_cli.metrics.glue import compute

OUTPUTS = ["The Eagle is a cheap pub.", "Cotto isn't family-friendly"]
REFERENCES = [["The Eagle is a cheap pub.", "A pub"], ["Zizzi"]]


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object) -> list[str]:
        raise JavaError("install it")

    monkeypatch.setattr(tokenisation, "ptb_lines", absent)
    monkeypatch.setattr(metric, "meteor_score", absent)


@pytest.mark.usefixtures("no_java")
def test_each_is_an_evaluate_metric_of_several_references() -> None:
    values = {}
    for each in (Bleu, Nist, Meteor, RougeL, Cider):
        assert issubclass(each, evaluate.Metric)
        values |= compute(each, OUTPUTS, REFERENCES)
    # 13a tokens: 7 + 3 in the outputs, all 7, 6, 5 and 4 n-grams of the first match; references nearest in length: 7 +
    # 1.
    assert values["bleu"] == pytest.approx((7 / 10 * 6 / 8 * 5 / 6 * 4 / 4) ** (1 / 4))
    assert values["rouge_l"] == pytest.approx(0.5)
    # Six Treebank words equal the first reference's; of the second, 2 words, "a" and "pub" match: cosine 2 / sqrt(6 *
    # 2), 5 bigrams to 1.
    assert values["cider"] == pytest.approx(10 * (1 + 2 / 12**0.5 * 2.718281828459045 ** (-16 / 72) / 4) / 2 / 2)
    assert values["nist"] > 0.0
    assert (values["meteor"], values["problem"]) == (None, "install it")


@pytest.mark.usefixtures("no_java")
def test_nothing_is_written_to_the_shared_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, private = tmp_path / "shared", tmp_path / "private"
    private.mkdir()
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", shared)
    monkeypatch.setattr(tempfile, "tempdir", str(private))
    compute(RougeL, OUTPUTS, REFERENCES)
    assert not shared.exists()
    assert not list(private.iterdir())


@pytest.mark.usefixtures("no_java")
def test_meteor_gets_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    def score(outputs: list[str], references: list[list[str]]) -> float:
        assert outputs == ["the eagle is a cheap pub", "cotto is n't family-friendly"]
        assert references == [["the eagle is a cheap pub", "a pub"], ["zizzi"]]
        return 0.25

    monkeypatch.setattr(metric, "meteor_score", score)
    assert compute(Meteor, OUTPUTS, REFERENCES) == {"meteor": 0.25}
