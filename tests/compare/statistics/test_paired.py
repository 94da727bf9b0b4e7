"""The estimand and its differences, and where there is nothing to test."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from dora_cli.compare.statistics import NoTest, paired_differences, paired_test
from dora_cli.compare.statistics.paired import Scores

TASKS = ("rte", "cola", "stsb")
SEEDS = (1, 2, 3, 4, 5)


def drawn(seed: int) -> dict[str, dict[int, float]]:
    random = np.random.default_rng(seed)
    return {task: {number: float(random.normal()) for number in SEEDS} for task in TASKS}


def test_tasks_are_averaged_within_a_seed() -> None:
    method, baseline = drawn(0), drawn(1)
    pairs = paired_differences(method, baseline, tasks=TASKS, seeds=SEEDS)
    assert pairs.seeds == SEEDS
    assert pairs.dropped == {}
    means = [[np.mean([scores[task][seed] for task in TASKS]) for seed in SEEDS] for scores in (method, baseline)]
    assert pairs.values == pytest.approx(np.subtract(*means).tolist())
    for task in TASKS:
        assert pairs.by_task[task] == pytest.approx([method[task][seed] - baseline[task][seed] for seed in SEEDS])
    expected = stats.ttest_rel(*means)
    found = paired_test(pairs.values)
    ends = expected.confidence_interval(0.95)
    assert (found.seeds, found.level, found.no_test) == (5, 0.95, None)
    assert found.mean == pytest.approx(np.mean(pairs.values))
    assert found.sd == pytest.approx(np.std(pairs.values, ddof=1))
    assert (found.p, found.low, found.high) == pytest.approx((expected.pvalue, ends.low, ends.high))


def test_better_is_above_zero_whichever_way_the_scores_go() -> None:
    method: Scores = {"accuracy": {1: 0.9}, "loss": {1: 0.5}}
    baseline: Scores = {"accuracy": {1: 0.8}, "loss": {1: 0.8}}
    pairs = paired_differences(
        method, baseline, tasks=["accuracy", "loss"], seeds=[1], lower_is_better={"accuracy": False, "loss": True}
    )
    assert pairs.by_task == {"accuracy": (pytest.approx(0.1),), "loss": (pytest.approx(0.3),)}
    assert pairs.values == (pytest.approx(0.2),)
    one_way = paired_differences(method, baseline, tasks=["loss"], seeds=[1], lower_is_better=True)
    assert one_way.values == (pytest.approx(0.3),)


def test_a_seed_that_lacks_a_run_is_left_out_of_all_tasks_and_said() -> None:
    method, baseline = drawn(0), drawn(1)
    del method["cola"][2]
    del baseline["rte"][2]
    del baseline["stsb"][5]
    pairs = paired_differences(method, baseline, tasks=TASKS, seeds=SEEDS)
    assert pairs.seeds == (1, 3, 4)
    assert pairs.dropped == {2: ("rte", "cola"), 5: ("stsb",)}
    assert {len(values) for values in pairs.by_task.values()} == {3}
    whole = paired_differences(drawn(0), drawn(1), tasks=TASKS, seeds=SEEDS)
    assert pairs.values == tuple(whole.values[index] for index in (0, 2, 3))


def test_a_method_without_any_run_of_a_task_has_no_differences() -> None:
    method = drawn(0)
    del method["cola"]
    pairs = paired_differences(method, drawn(1), tasks=TASKS, seeds=SEEDS)
    assert (pairs.seeds, pairs.values) == ((), ())
    assert set(pairs.dropped.values()) == {("cola",)}
    found = paired_test(pairs.values)
    assert (found.mean, found.sd, found.p, found.no_test) == (None, None, None, NoTest.FEW_SEEDS)


def test_declared_names_alone_are_read() -> None:
    method, baseline = drawn(0), drawn(1)
    assert paired_differences(method, baseline, tasks=["rte"], seeds=[4, 2]).values == pytest.approx(
        [method["rte"][seed] - baseline["rte"][seed] for seed in (4, 2)]
    )
    for tasks, seeds in (([], SEEDS), (["rte", "rte"], SEEDS), (["rte"], [1, 1])):
        with pytest.raises(ValueError, match="each named once"):
            paired_differences(method, baseline, tasks=tasks, seeds=seeds)


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_refused(score: float) -> None:
    method = drawn(0)
    method["rte"][3] = score
    with pytest.raises(ValueError, match="finite"):
        paired_differences(method, drawn(1), tasks=TASKS, seeds=SEEDS)


def test_one_pair_has_a_mean_and_no_test() -> None:
    found = paired_test([0.4])
    assert (found.mean, found.sd, found.low, found.high, found.p) == (0.4, None, None, None, None)
    assert found.no_test is NoTest.FEW_SEEDS


@pytest.mark.parametrize(("difference", "p"), [(0.0, 1.0), (0.1, None)])
def test_equal_differences_are_no_proof(difference: float, p: float | None) -> None:
    """A t test would say p = 0 (or 1e-60, by rounding): three runs of a coarse score that moved alike."""
    baseline = {"rte": {1: 0.3, 2: 0.7, 3: 0.6}}
    method = {"rte": {seed: score + difference for seed, score in baseline["rte"].items()}}
    pairs = paired_differences(method, baseline, tasks=["rte"], seeds=[1, 2, 3])
    if difference:
        assert len(set(pairs.values)) > 1, "rounding alone"
    found = paired_test(pairs.values, resolution=pairs.resolution)
    assert found.no_test is NoTest.NO_SPREAD
    assert (found.sd, found.low, found.high, found.p) == (0.0, None, None, p)
    assert found.mean == pytest.approx(difference)


def test_a_small_spread_is_one() -> None:
    found = paired_test([1e-9, 2e-9, 3e-9], resolution=1e-12)
    assert found.no_test is None
    assert found.p == pytest.approx(stats.ttest_1samp([1.0, 2.0, 3.0], 0.0).pvalue)


def test_an_unbounded_interval_has_no_ends() -> None:
    found = paired_test([1.0, 2.0, 4.0], test="bootstrap-t")
    assert (found.low, found.high, found.no_test, found.test) == (None, None, None, "bootstrap-t")
    assert found.p is not None
