"""The official GLUE metrics, as `evaluate` metrics that need no network.

`evaluate.load` fetches a script per metric; these are classes of the package, on scikit-learn and scipy, which are
loaded by the metrics that compute with them and by no other. They keep their data in memory and their cache in a folder
of their own that is removed again, so they work without a writable home and in any number of processes at once.

Where a value is undefined, it is 0: F1 without a positive prediction or label, and every correlation (Matthews,
Pearson, Spearman) with a constant or non-finite argument or with fewer than two examples. A model that says the same of
every example knows nothing of their order.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import datasets
import evaluate
import numpy as np
import numpy.typing as npt


def metric_info(description: str, *, predictions: Any, references: Any, source: str) -> evaluate.MetricInfo:
    """What `evaluate` wants to know of a metric: the features of one prediction and of what it is compared with, and a
    web address.
    """
    features = datasets.Features({"predictions": predictions, "references": references})
    return evaluate.MetricInfo(
        description=description, citation="", inputs_description="", features=features, reference_urls=[source]
    )


def _info(description: str, dtype: str, source: str) -> evaluate.MetricInfo:
    return metric_info(description, predictions=datasets.Value(dtype), references=datasets.Value(dtype), source=source)


def _scipy() -> Any:
    from scipy import stats

    return stats


def _sklearn() -> Any:
    from sklearn import metrics

    return metrics


_SKLEARN = "https://scikit-learn.org/stable/modules/model_evaluation.html"


class Accuracy(evaluate.Metric):  # type: ignore[misc]
    """Share of examples whose class is predicted: ``accuracy``."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("Share of right predictions.", "int64", _SKLEARN)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"accuracy": float(np.mean(np.asarray(predictions) == np.asarray(references)))}


class AccuracyF1(evaluate.Metric):  # type: ignore[misc]
    """``accuracy``, and ``f1`` of class 1 (equivalent, duplicate)."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("Accuracy, and F1 of class 1.", "int64", _SKLEARN)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        accuracy = float(np.mean(np.asarray(predictions) == np.asarray(references)))
        return {
            "accuracy": accuracy,
            "f1": float(_sklearn().f1_score(references, predictions, pos_label=1, zero_division=0.0)),
        }


class Matthews(evaluate.Metric):  # type: ignore[misc]
    """Matthews' correlation coefficient: ``matthews_correlation``."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("Matthews' correlation coefficient.", "int64", _SKLEARN)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        if len(set(predictions)) < 2 or len(set(references)) < 2:
            return {"matthews_correlation": 0.0}
        return {"matthews_correlation": float(_sklearn().matthews_corrcoef(references, predictions))}


class PearsonSpearman(evaluate.Metric):  # type: ignore[misc]
    """``pearson``: linear correlation; ``spearmanr``: that of the ranks, with mean ranks for ties. In float64."""

    def _info(self) -> evaluate.MetricInfo:
        return _info(
            "Pearson's and Spearman's correlation.", "float64", "https://docs.scipy.org/doc/scipy/reference/stats.html"
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        x, y = np.asarray(predictions, dtype=np.float64), np.asarray(references, dtype=np.float64)
        if len(x) < 2 or not (np.isfinite(x).all() and np.isfinite(y).all()) or np.ptp(x) == 0.0 or np.ptp(y) == 0.0:
            return {"pearson": 0.0, "spearmanr": 0.0}
        stats = _scipy()
        with warnings.catch_warnings():
            # Nearly constant input: the value is what it is, and a value lost to rounding becomes 0 below.
            warnings.simplefilter("ignore")
            values = {"pearson": stats.pearsonr(x, y).statistic, "spearmanr": stats.spearmanr(x, y).statistic}
        return {name: float(value) if np.isfinite(value) else 0.0 for name, value in values.items()}


_METRICS: dict[str, type[evaluate.Metric]] = {
    "accuracy": Accuracy,
    "accuracy_f1": AccuracyF1,
    "matthews": Matthews,
    "pearson_spearman": PearsonSpearman,
}
_COMPUTED_WITH: dict[str, Callable[[], Any]] = {
    "accuracy_f1": _sklearn,
    "matthews": _sklearn,
    "pearson_spearman": _scipy,
}


def metric_names() -> tuple[str, ...]:
    """Names that `compute_metrics` knows."""
    return tuple(_METRICS)


def load_libraries(name: str) -> None:
    """Loads what `compute_metrics` of that name computes with: a second's work where it is scipy or scikit-learn."""
    if name in _COMPUTED_WITH:
        _COMPUTED_WITH[name]()


def compute_metrics(name: str, predictions: npt.ArrayLike, labels: npt.ArrayLike) -> dict[str, float]:
    """Metrics of one split.

    Args:
        name: a task's `metric`: one of `metric_names`.
        predictions: ``(N,)``; class ids, or numbers for a regression. N is at least 1.
        labels: ``(N,)``, likewise.

    Returns:
        Finite values by name, as fractions (accuracy 0.9, not 90).
    """
    predicted, expected = np.asarray(predictions), np.asarray(labels)
    assert predicted.ndim == 1
    assert predicted.shape == expected.shape, "one prediction per label"
    assert len(predicted), "a split has at least one example"
    return compute(_METRICS[name], predicted, expected)


def compute(metric: type[evaluate.Metric], predictions: Any, references: Any) -> dict[str, Any]:
    """Values of a metric of this package, with nothing written but to a folder of its own that is removed again."""
    with tempfile.TemporaryDirectory(prefix="dora-metrics-") as cache:
        values: dict[str, Any] = metric(keep_in_memory=True, cache_dir=cache).compute(
            predictions=predictions, references=references
        )
    return values
