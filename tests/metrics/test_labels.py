"""Metrics of the user's own classes and numbers, worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dora_cli.metrics.labels import class_metrics, number_metrics


def test_three_classes_by_hand() -> None:
    # Predicted 0 0 1 2 2, expected 0 1 1 2 0. Class 0: 1 right of 2 predicted and 2 there, F1 1/2; class 1: 1 of 1 and
    # 2, F1 2/3; class 2: 1 of 2 and 1, F1 2/3.
    found = class_metrics(np.eye(3)[[0, 0, 1, 2, 2]], [0, 1, 1, 2, 0])
    assert found["accuracy"] == found["micro_f1"] == pytest.approx(3 / 5)
    assert found["macro_f1"] == pytest.approx((1 / 2 + 2 / 3 + 2 / 3) / 3)
    # Matthews of several classes: (c s - sum p t) / sqrt((s^2 - sum p^2)(s^2 - sum t^2)) with c = 3 right of s = 5,
    # predicted p = 2 1 2, there t = 2 2 1: (15 - 8) / sqrt((25 - 9)(25 - 9)).
    assert found["matthews_correlation"] == pytest.approx(7 / 16)
    assert "auroc" not in found


def test_auroc_counts_the_pairs_in_order() -> None:
    shares = np.array([0.1, 0.4, 0.35, 0.8])
    found = class_metrics(np.stack([1 - shares, shares], axis=1), [0, 0, 1, 1])
    assert found["auroc"] == pytest.approx(3 / 4)  # of four pairs, (0.4, 0.35) is out of order


def test_one_class_alone_says_nothing() -> None:
    found = class_metrics(np.eye(2)[[0, 0]], [0, 0])
    assert (found["accuracy"], found["matthews_correlation"], found["auroc"]) == (1.0, 0.0, 0.5)


def test_a_probability_that_is_none_has_no_place_in_an_order() -> None:
    found = class_metrics([[0.2, 0.8], [np.nan, np.nan], [0.7, 0.3]], [1, 1, 0])
    assert math.isnan(found["auroc"])
    assert found["accuracy"] == pytest.approx(2 / 3)


def test_numbers_by_hand() -> None:
    found = number_metrics([1.0, 2.0, 4.0], [10.0, 20.0, 30.0])
    assert found["spearmanr"] == pytest.approx(1.0)
    assert found["rmse"] == pytest.approx(((81 + 324 + 676) / 3) ** 0.5)
    assert number_metrics([3.0, 3.0], [1.0, 5.0]) == {"pearson": 0.0, "spearmanr": 0.0, "rmse": 2.0}
