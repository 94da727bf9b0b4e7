"""Metrics of the user's own classes and numbers, by scikit-learn and scipy.

Where a value is undefined it says what a model is worth that knows nothing: 0 for F1 and correlations, 0.5 for the area
under the ROC curve; NaN where a probability is none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import metrics

from dora_cli.metrics.glue import compute_metrics


def class_metrics(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> dict[str, float]:
    """Metrics of classes.

    Args:
        probabilities: ``(N, classes)``, of every class; the greatest is what is predicted.
        labels: ``(N,)``, class ids.

    Returns:
        ``accuracy``; ``macro_f1``, the mean F1 of the classes that are predicted or there; ``micro_f1``, the F1 of all
            decisions together; ``matthews_correlation``; of two classes ``auroc``, the chance that a row of the second
            class gets a greater probability of it than one of the first.
    """
    shares, expected = np.asarray(probabilities), np.asarray(labels)
    predicted = shares.argmax(axis=1)
    found: dict[str, Any] = {
        "accuracy": (predicted == expected).mean(),
        "macro_f1": metrics.f1_score(expected, predicted, average="macro", zero_division=0.0),
        "micro_f1": metrics.f1_score(expected, predicted, average="micro", zero_division=0.0),
        "matthews_correlation": compute_metrics("matthews", predicted, expected)["matthews_correlation"],
    }
    if shares.shape[1] == 2:
        both = 0 < expected.sum() < len(expected)
        if not np.isfinite(shares).all():
            found["auroc"] = np.nan  # such a row stands nowhere in the order
        else:
            found["auroc"] = metrics.roc_auc_score(expected, shares[:, 1]) if both else 0.5
    return {name: float(value) for name, value in found.items()}


def number_metrics(predictions: npt.ArrayLike, labels: npt.ArrayLike) -> dict[str, float]:
    """Metrics of numbers, ``(N,)`` each.

    Returns:
        ``pearson``, ``spearmanr``, and ``rmse``: the root of the mean squared error, in the units of the labels.
    """
    predicted, expected = np.asarray(predictions, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    rmse = float(np.sqrt(np.mean((predicted - expected) ** 2)))
    return {**compute_metrics("pearson_spearman", predicted, expected), "rmse": rmse}
