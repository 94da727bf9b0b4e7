"""The official GLUE metrics, computed by scikit-learn and scipy, which are loaded by the metrics that compute with them
and by no other.

Where a value is undefined, it is 0: F1 without a positive prediction or label, and every correlation (Matthews,
Pearson, Spearman) with a constant or non-finite argument or with fewer than two examples. A model that says the same of
every example knows nothing of their order. As metrics of the library `evaluate`: `hugging_face.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt


def _scipy() -> Any:
    from scipy import stats

    return stats


def _sklearn() -> Any:
    from sklearn import metrics

    return metrics


def accuracy(predictions: npt.ArrayLike, references: npt.ArrayLike) -> dict[str, float]:
    """Share of examples whose class is predicted: ``accuracy``."""
    return {"accuracy": float(np.mean(np.asarray(predictions) == np.asarray(references)))}


def accuracy_f1(predictions: npt.ArrayLike, references: npt.ArrayLike) -> dict[str, float]:
    """``accuracy``, and ``f1`` of class 1 (equivalent, duplicate)."""
    f1 = float(_sklearn().f1_score(references, predictions, pos_label=1, zero_division=0.0))
    return {**accuracy(predictions, references), "f1": f1}


def matthews(predictions: npt.ArrayLike, references: npt.ArrayLike) -> dict[str, float]:
    """Matthews' correlation coefficient: ``matthews_correlation``."""
    if len(np.unique(predictions)) < 2 or len(np.unique(references)) < 2:
        return {"matthews_correlation": 0.0}
    return {"matthews_correlation": float(_sklearn().matthews_corrcoef(references, predictions))}


def pearson_spearman(predictions: npt.ArrayLike, references: npt.ArrayLike) -> dict[str, float]:
    """``pearson``: linear correlation; ``spearmanr``: that of the ranks, with mean ranks for ties. In float64."""
    x, y = np.asarray(predictions, dtype=np.float64), np.asarray(references, dtype=np.float64)
    if len(x) < 2 or not (np.isfinite(x).all() and np.isfinite(y).all()) or np.ptp(x) == 0.0 or np.ptp(y) == 0.0:
        return {"pearson": 0.0, "spearmanr": 0.0}
    stats = _scipy()
    with warnings.catch_warnings():
        # Nearly constant input: the value is what it is, and a value lost to rounding becomes 0 below.
        warnings.simplefilter("ignore")
        values = {"pearson": stats.pearsonr(x, y).statistic, "spearmanr": stats.spearmanr(x, y).statistic}
    return {name: float(value) if np.isfinite(value) else 0.0 for name, value in values.items()}


_METRICS: dict[str, Callable[[npt.ArrayLike, npt.ArrayLike], dict[str, float]]] = {
    "accuracy": accuracy,
    "accuracy_f1": accuracy_f1,
    "matthews": matthews,
    "pearson_spearman": pearson_spearman,
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
    return _METRICS[name](predicted, expected)
