from __future__ import annotations

import json
import math

import numpy as np
import pytest

from dora_cli.metrics.glue import compute_metrics, metric_names


def test_accuracy_and_f1() -> None:
    predictions, labels = np.array([1, 1, 1, 0, 0]), np.array([1, 0, 1, 1, 0])
    assert compute_metrics("accuracy", predictions, labels) == {"accuracy": pytest.approx(3 / 5)}
    # True positives 2, false positives 1, false negatives 1: F1 = 2 * 2 / (2 * 2 + 1 + 1).
    assert compute_metrics("accuracy_f1", predictions, labels) == {
        "accuracy": pytest.approx(3 / 5),
        "f1": pytest.approx(4 / 6),
    }


def test_f1_is_of_class_one() -> None:
    # Class 0 alone is found: its F1 would be 2/3, that of class 1 is 0.
    assert compute_metrics("accuracy_f1", [0, 0], [0, 1])["f1"] == 0.0


def test_matthews() -> None:
    # TP 2, TN 1, FP 1, FN 1: (2 * 1 - 1 * 1) / sqrt((2 + 1)(2 + 1)(1 + 1)(1 + 1)) = 1 / 6.
    assert compute_metrics("matthews", [1, 1, 1, 0, 0], [1, 0, 1, 1, 0]) == {
        "matthews_correlation": pytest.approx(1 / 6)
    }


def test_pearson_and_spearman() -> None:
    x = np.array([0.0, 1.0, 2.0, 4.0])
    # x centred is (-7, -3, 1, 9) / 4; y = x^2 = (0, 1, 4, 16) centred is (-21, -17, -5, 43) / 4; the ranks agree.
    pearson = (147 + 51 - 5 + 387) / math.sqrt((49 + 9 + 1 + 81) * (441 + 289 + 25 + 1849))
    values = compute_metrics("pearson_spearman", x**2, x)
    assert values == {"pearson": pytest.approx(pearson), "spearmanr": pytest.approx(1.0)}


def test_correlations_are_computed_in_float64() -> None:
    # Differences of 1e-9 around 1 vanish in float32.
    labels = np.arange(10.0)
    assert compute_metrics("pearson_spearman", 1.0 + 1e-9 * labels, labels)["spearmanr"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("predictions", "labels"),
    [
        ([2.5, 2.5, 2.5], [1.0, 2.0, 3.0]),
        ([1.0, 2.0], [4.0, 4.0]),
        ([math.nan, 1.0], [1.0, 2.0]),
        ([math.inf, 1.0], [1.0, 2.0]),
        ([1.0], [2.0]),
    ],
)
def test_an_undefined_correlation_is_zero(
    predictions: list[float], labels: list[float], recwarn: pytest.WarningsRecorder
) -> None:
    assert compute_metrics("pearson_spearman", predictions, labels) == {"pearson": 0.0, "spearmanr": 0.0}
    assert not recwarn.list


@pytest.mark.parametrize(("predictions", "labels"), [([1, 1, 1], [0, 1, 1]), ([0, 1, 1], [1, 1, 1]), ([0, 0], [0, 0])])
def test_matthews_of_a_constant_is_zero(
    predictions: list[int], labels: list[int], recwarn: pytest.WarningsRecorder
) -> None:
    assert compute_metrics("matthews", predictions, labels) == {"matthews_correlation": 0.0}
    assert not recwarn.list


def test_f1_without_positives_is_zero(recwarn: pytest.WarningsRecorder) -> None:
    assert compute_metrics("accuracy_f1", [0, 0], [0, 0]) == {"accuracy": 1.0, "f1": 0.0}
    assert not recwarn.list


def test_values_are_plain_floats_and_the_random_state_is_left_alone() -> None:
    before = np.random.get_state()[1].copy()
    for name in metric_names():
        values = compute_metrics(name, np.array([0, 1, 1, 0], dtype=np.int32), np.array([0, 1, 0, 0], dtype=np.int64))
        assert all(type(value) is float for value in values.values())
        json.dumps(values, allow_nan=False)
    assert (np.random.get_state()[1] == before).all()
