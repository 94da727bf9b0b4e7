"""The statistics over several seeds, by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from dora_cli.errors import CheckpointError
from dora_cli.json_text import to_json
from dora_cli.runs.records.summary import seeds_summary, spread
from tests.reports.examples import metrics


def test_seeds_summary_by_hand():
    values, last = [0.71, 0.74, 0.69], [0.70, 0.72, 0.66]
    summary = seeds_summary(
        [metrics(seed=seed, accuracy=a, last_accuracy=b) for seed, a, b in zip((1, 2, 5), values, last, strict=True)]
    )
    assert summary["seeds"] == [1, 2, 5]
    best, last_one = summary["metrics"]["accuracy"]["best"], summary["metrics"]["accuracy"]["last"]
    # mean 2.14 / 3; squares of the deviations over n - 1 = 2
    assert best["mean"] == pytest.approx(2.14 / 3, abs=1e-15)
    assert best["sd"] == pytest.approx(math.sqrt(sum((value - 2.14 / 3) ** 2 for value in values) / 2), abs=1e-15)
    assert best["values"] == values
    assert last_one["mean"] == pytest.approx(2.08 / 3, abs=1e-15)
    assert last_one["sd"] == pytest.approx(np.std(last, ddof=1), abs=1e-15)
    assert list(summary["metrics"]) == ["accuracy", "f1"]
    assert summary["budget"]["adapter_parameters_final"]["mean"] == 1_312_512
    assert json.loads(to_json(summary)) == summary


def test_one_seed_has_no_deviation_and_an_undefined_value_no_mean():
    assert spread([0.5]) == {"mean": 0.5, "sd": None, "values": [0.5]}
    assert spread([0.5, None]) == {"mean": None, "sd": None, "values": [0.5, None]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "glue/rte"}, "seeds 1 and 2 are not runs of one recipe: task is glue/mrpc in one and glue/rte"),
        ({"method": "head"}, "method is dora in one and head"),
        ({"seed": 1}, "a seed occurs twice in 1, 1"),
        ({"metrics": {"accuracy": 0.5}}, "different metrics"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(change: dict[str, Any], message: str):
    with pytest.raises(CheckpointError, match=message):
        seeds_summary([metrics(seed=1), metrics(**{"seed": 2, **change})])
