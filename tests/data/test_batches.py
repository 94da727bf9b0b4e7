from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dora_cli.data import Group, plan_epoch, steps_per_epoch


def plan(
    n: int, micro: int, accumulation: int, processes: int = 1, *, seed: int = 1, epoch: int = 0, grouped: bool = False
) -> list[list[Group]]:
    """The groups of every process: ``[rank][step]``."""
    lengths = np.random.default_rng(n).integers(4, 60, n)
    units = np.arange(1, n + 1)
    return [
        list(
            plan_epoch(
                lengths,
                units,
                seed=seed,
                epoch=epoch,
                micro_batch=micro,
                accumulation=accumulation,
                processes=processes,
                rank=rank,
                group_by_length=grouped,
            )
        )
        for rank in range(processes)
    ]


def step_examples(ranks: list[list[Group]]) -> list[list[int]]:
    """The examples of each optimiser step over all processes, sorted."""
    return [
        sorted(int(i) for group in groups for micro in group.micro_batches for i in micro)
        for groups in zip(*ranks, strict=True)
    ]


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("n", [64, 70, 69, 16, 15, 3, 1])
def test_steps_hold_the_same_examples_however_the_batch_is_made_up(n: int, grouped: bool) -> None:
    whole = plan(n, 16, 1, grouped=grouped)
    reference = step_examples(whole)
    assert len(reference) == steps_per_epoch(n, 16)
    for micro, accumulation, processes in [(4, 4, 1), (2, 8, 1), (4, 2, 2), (8, 1, 2), (2, 2, 4)]:
        parts = plan(n, micro, accumulation, processes, grouped=grouped)
        assert step_examples(parts) == reference
        for groups, single in zip(zip(*parts, strict=True), whole[0], strict=True):
            # Every process divides by the units of the whole step.
            assert {(group.units, group.examples) for group in groups} == {(single.units, single.examples)}
            assert single.units == sum(int(i) + 1 for i in single.micro_batches[0])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 90), st.integers(1, 7), st.integers(1, 4), st.integers(1, 3), st.integers(0, 5), st.booleans())
def test_every_example_occurs_once_and_no_micro_batch_is_too_large(
    n: int, micro: int, accumulation: int, processes: int, epoch: int, grouped: bool
) -> None:
    ranks = plan(n, micro, accumulation, processes, epoch=epoch, grouped=grouped)
    steps = step_examples(ranks)
    assert sorted(i for step in steps for i in step) == list(range(n))
    global_batch = micro * accumulation * processes
    assert [len(step) for step in steps[:-1]] == [global_batch] * max(len(steps) - 1, 0)
    assert len(steps) == steps_per_epoch(n, global_batch)
    for groups in ranks:
        for group in groups:
            assert len(group.micro_batches) <= accumulation
            assert all(1 <= len(each) <= micro for each in group.micro_batches)


def test_a_last_step_may_leave_a_process_without_work() -> None:
    first, second = plan(11, 4, 1, 2)
    assert [[len(micro) for micro in group.micro_batches] for group in first] == [[4], [3]]
    assert [[len(micro) for micro in group.micro_batches] for group in second] == [[4], []]
    assert [group.examples for group in second] == [8, 3]


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    def order(**keys: int) -> list[int]:
        return [int(i) for group in plan(50, 8, 1, **keys)[0] for micro in group.micro_batches for i in micro]

    assert order(seed=1, epoch=0) == order(seed=1, epoch=0)
    assert order(seed=1, epoch=0) != order(seed=1, epoch=1)
    assert order(seed=1, epoch=0) != order(seed=2, epoch=0)
    # Neighbouring seeds and epochs are not each other's orders.
    assert order(seed=1, epoch=2) != order(seed=2, epoch=1)


def test_grouping_by_length_saves_padding_and_keeps_steps_shuffled() -> None:
    n, micro = 2000, 8
    lengths = np.random.default_rng(n).integers(4, 60, n)

    def padded(groups: list[Group]) -> int:
        return sum(len(each) * int(lengths[each].max()) for group in groups for each in group.micro_batches)

    grouped, shuffled = plan(n, micro, 2, grouped=True)[0], plan(n, micro, 2)[0]
    # Random batches of 8 pad each length (mean 31.5) to nearly the longest (59); grouped ones hardly pad.
    assert padded(grouped) < 1.1 * lengths.sum() < 0.8 * padded(shuffled)
    means = [float(np.mean([lengths[each].mean() for each in group.micro_batches])) for group in grouped]
    # Short and long steps alternate at random: the first half is not shorter than the second.
    assert abs(np.mean(means[: len(means) // 2]) - np.mean(means[len(means) // 2 :])) < 8
    assert [int(i) for group in grouped for each in group.micro_batches for i in each] == [
        int(i) for group in plan(n, micro, 2, grouped=True)[0] for each in group.micro_batches for i in each
    ]


def test_steps_per_epoch_rounds_up() -> None:
    assert [steps_per_epoch(n, 16) for n in (0, 1, 16, 17, 2490)] == [0, 1, 1, 2, 156]
