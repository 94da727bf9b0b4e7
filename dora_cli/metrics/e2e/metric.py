"""The five metrics as `evaluate` metrics: predictions are texts, references lists of texts, at least one for each
prediction.
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from dora_cli.metrics.e2e.bleu import bleu
from dora_cli.metrics.e2e.cider import cider
from dora_cli.metrics.e2e.java import JavaError, meteor_score
from dora_cli.metrics.e2e.nist import nist
from dora_cli.metrics.e2e.rouge_l import rouge_l
from dora_cli.metrics.e2e.tokenisation import mteval, treebank
from dora_cli.metrics.glue import metric_info

_SOURCE = "https://github.com/tuetschek/e2e-metrics"


def _info(description: str) -> evaluate.MetricInfo:
    text = datasets.Value("string")
    return metric_info(description, predictions=text, references=datasets.Sequence(text), source=_SOURCE)


class Bleu(evaluate.Metric):  # type: ignore[misc]
    """``bleu``: n-gram precision up to four words, with a penalty for short outputs; a fraction."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("BLEU, mteval-v13a tokens, case ignored.")

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        tokens = mteval(predictions, references)
        return {"bleu": bleu(tokens.outputs, tokens.references)}


class Nist(evaluate.Metric):  # type: ignore[misc]
    """``nist``: information in the matched n-grams up to five words."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("NIST, mteval-v13a tokens, case ignored.")

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        tokens = mteval(predictions, references)
        return {"nist": nist(tokens.outputs, tokens.references)}


class Meteor(evaluate.Metric):  # type: ignore[misc]
    """``meteor``: METEOR 1.5 by its own Java program; None where that cannot be run, and then ``problem`` says why."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("METEOR 1.5, Penn Treebank tokens. Needs Java and pycocoevalcap.")

    def _compute(self, predictions: Any, references: Any) -> dict[str, float | str | None]:
        tokens = treebank(predictions, references)
        try:
            return {
                "meteor": meteor_score(
                    [*map(" ".join, tokens.outputs)], [[*map(" ".join, wanted)] for wanted in tokens.references]
                )
            }
        except JavaError as error:
            return {"meteor": None, "problem": str(error)}


class RougeL(evaluate.Metric):  # type: ignore[misc]
    """``rouge_l``: longest common subsequence with a reference."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("ROUGE-L, Penn Treebank tokens.")

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        tokens = treebank(predictions, references)
        return {"rouge_l": rouge_l(tokens.outputs, tokens.references)}


class Cider(evaluate.Metric):  # type: ignore[misc]
    """``cider``: agreement in n-grams that are rare among the references."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("CIDEr, Penn Treebank tokens.")

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        tokens = treebank(predictions, references)
        return {"cider": cider(tokens.outputs, tokens.references)}
