"""All metrics of this package as metrics of the library `evaluate`, for programs that compute with it.

A run does not: `evaluate` writes every list of predictions into a table of its own first, and loading it takes seconds.
`evaluate.load` fetches a script per metric; these are classes, and need no network. They keep their data in memory and
their cache in a folder of their own that `compute` removes again, so they work without a writable home and in any
number of processes at once.
"""

from __future__ import annotations

import tempfile
from typing import Any

import datasets
import evaluate

from dora_cli.metrics import glue
from dora_cli.metrics.e2e import measures as e2e

_SKLEARN = "https://scikit-learn.org/stable/modules/model_evaluation.html"
_SCIPY = "https://docs.scipy.org/doc/scipy/reference/stats.html"
_E2E = "https://github.com/tuetschek/e2e-metrics"


def compute(metric: type[evaluate.Metric], predictions: Any, references: Any) -> dict[str, Any]:
    """Values of one of these metrics, with nothing written but to a folder that is removed again."""
    with tempfile.TemporaryDirectory(prefix="dora-metrics-") as cache:
        values: dict[str, Any] = metric(keep_in_memory=True, cache_dir=cache).compute(
            predictions=predictions, references=references
        )
    return values


def _info(description: str, *, predictions: Any, references: Any, source: str) -> evaluate.MetricInfo:
    """What `evaluate` wants to know: the features of one prediction and of what it is compared with, and an address."""
    features = datasets.Features({"predictions": predictions, "references": references})
    return evaluate.MetricInfo(
        description=description, citation="", inputs_description="", features=features, reference_urls=[source]
    )


def _numbers(description: str, dtype: str, source: str) -> evaluate.MetricInfo:
    return _info(description, predictions=datasets.Value(dtype), references=datasets.Value(dtype), source=source)


def _texts(description: str) -> evaluate.MetricInfo:
    text = datasets.Value("string")
    return _info(description, predictions=text, references=datasets.Sequence(text), source=_E2E)


class Accuracy(evaluate.Metric):  # type: ignore[misc]
    def _info(self) -> evaluate.MetricInfo:
        return _numbers("Share of right predictions.", "int64", _SKLEARN)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return glue.accuracy(predictions, references)


class AccuracyF1(evaluate.Metric):  # type: ignore[misc]
    def _info(self) -> evaluate.MetricInfo:
        return _numbers("Accuracy, and F1 of class 1.", "int64", _SKLEARN)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return glue.accuracy_f1(predictions, references)


class Matthews(evaluate.Metric):  # type: ignore[misc]
    def _info(self) -> evaluate.MetricInfo:
        return _numbers("Matthews' correlation coefficient.", "int64", _SKLEARN)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return glue.matthews(predictions, references)


class PearsonSpearman(evaluate.Metric):  # type: ignore[misc]
    def _info(self) -> evaluate.MetricInfo:
        return _numbers("Pearson's and Spearman's correlation.", "float64", _SCIPY)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return glue.pearson_spearman(predictions, references)


class Bleu(evaluate.Metric):  # type: ignore[misc]
    def _info(self) -> evaluate.MetricInfo:
        return _texts("BLEU, mteval-v13a tokens, case ignored.")

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return e2e.bleu(predictions, references)


class Nist(evaluate.Metric):  # type: ignore[misc]
    def _info(self) -> evaluate.MetricInfo:
        return _texts("NIST, mteval-v13a tokens, case ignored.")

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return e2e.nist(predictions, references)


class Meteor(evaluate.Metric):  # type: ignore[misc]
    def _info(self) -> evaluate.MetricInfo:
        return _texts("METEOR 1.5, Penn Treebank tokens. Needs Java and pycocoevalcap.")

    def _compute(self, predictions: Any, references: Any) -> dict[str, float | str | None]:
        return e2e.meteor(predictions, references)


class RougeL(evaluate.Metric):  # type: ignore[misc]
    def _info(self) -> evaluate.MetricInfo:
        return _texts("ROUGE-L, Penn Treebank tokens.")

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return e2e.rouge_l(predictions, references)


class Cider(evaluate.Metric):  # type: ignore[misc]
    def _info(self) -> evaluate.MetricInfo:
        return _texts("CIDEr, Penn Treebank tokens.")

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return e2e.cider(predictions, references)
