"""How many boosters there are, which blocks they have, and when they begin, in integers."""

from __future__ import annotations

import random
from itertools import islice
from typing import Any

import pytest
import torch
from torch import nn

from dora_cli.errors import BudgetError
from dora_cli.methods.base import Site
from dora_cli.methods.xgblora import BoostingSchedule
from dora_cli.methods.xgblora.subsets import Kind, blocks_of, draw, kinds_of, shares

BERT = [(768, 768)] * 4 + [(3072, 768), (768, 3072)]
CROSS = [*BERT, *[(768, 768)] * 4]


def stack(blocks: int, shapes: list[tuple[int, int]], name: str = "encoder", path: str = "layer") -> list[Site]:
    return [
        Site(f"{name}.{path}.{block}.{number}", nn.Module(), shape, stack=name, block=block, projection=str(number))
        for block in range(blocks)
        for number, shape in enumerate(shapes)
    ]


ROBERTA = stack(12, BERT)
BART = [*stack(6, BERT), *stack(6, CROSS, "decoder")]


def plan(sites: list[Site], total_steps: int = 12_480, **changes: Any) -> BoostingSchedule:
    settings: dict[str, Any] = {"rank": 8, "layers": None, "anew": True}
    return BoostingSchedule.of(total_steps, sites, **(settings | changes))


@pytest.mark.parametrize(("layers", "boosters"), [(None, 24), (1, 96), (5, 19), (11, 8), (12, 8)])
def test_as_many_boosters_as_the_budget_holds(layers: int | None, boosters: int) -> None:
    """There are 12 blocks with 6 projections, at a mean rank of 8: floor(8 * 12 / layers); a third of 12 is 4."""
    schedule = plan(ROBERTA, layers=layers)
    each = 6 * (layers or 4)
    assert schedule.components == (each,) * boosters
    assert schedule.final_components <= 8 * 72 < schedule.final_components + each
    assert schedule.sizes == [165_888 // 12 * (layers or 4)] * boosters


def test_of_an_odd_number_of_blocks_a_third_is_rounded_up_as_the_paper_s_11_of_32() -> None:
    assert plan(stack(32, BERT)).layers == 11
    assert plan(stack(1, BERT)).layers == 1


def test_of_an_encoder_decoder_every_booster_has_both_stacks_in_proportion() -> None:
    """Blocks of 6 and of 10 projections: 768 components are 24 boosters of two and two blocks."""
    assert plan(BART).planned == ((2, 2),) * 24
    assert plan(BART).components == (2 * 6 + 2 * 10,) * 24
    uneven = plan(BART, layers=3)
    assert set(uneven.planned) == {(1, 2), (2, 1)}
    assert uneven.final_components <= 8 * 96 < uneven.final_components + 3 * 10
    costs = {kind: sum(map(sum, kind.shapes)) for kind in uneven.kinds}
    assert list(uneven.sizes) == [
        sum(count * costs[kind] for count, kind in zip(counts, uneven.kinds, strict=True)) for counts in uneven.planned
    ]


def test_shares_follow_the_numbers_of_blocks() -> None:
    """At every booster all places are given, no kind has more than its blocks, and none is a whole place behind."""
    generator = random.Random(3)
    for _ in range(60):
        counts = [generator.randint(1, 9) for _ in range(generator.randint(1, 4))]
        kinds = [Kind(tuple(range(count)), ((2, index + 2),)) for index, count in enumerate(counts)]
        layers = generator.randint(1, sum(counts))
        taken = [0] * len(kinds)
        for number, row in enumerate(islice(shares(kinds, layers), 30), start=1):
            assert sum(row) == layers
            assert all(0 <= share <= count for share, count in zip(row, counts, strict=True))
            taken = [before + share for before, share in zip(taken, row, strict=True)]
            fair = [number * layers * count / sum(counts) for count in counts]
            assert all(part - share < 1 for part, share in zip(fair, taken, strict=True)), (counts, layers, number)


def test_blocks_are_told_apart_by_stack_list_and_number() -> None:
    two_lists = [*stack(2, [(2, 2)], path="deep"), *stack(2, [(2, 2)], path="wide")]
    assert blocks_of([*two_lists, *stack(1, [(2, 2), (3, 3)], "decoder")]) == [0, 1, 2, 3, 4, 4]
    assert [kind.blocks for kind in kinds_of(BART)] == [tuple(range(6)), tuple(range(6, 12))]


def test_every_subset_is_drawn_about_as_often() -> None:
    """4 blocks make 6 pairs: 200 each in 1,200 draws, within 5 standard deviations (65)."""
    (kind,) = kinds_of(stack(4, BERT))
    subsets = draw([kind], [(2,)] * 1200, torch.Generator().manual_seed(1))
    assert subsets.shape == (1200, 4)
    counts: dict[tuple[bool, ...], int] = {}
    for row in subsets.tolist():
        counts[tuple(row)] = counts.get(tuple(row), 0) + 1
    assert len(counts) == 6
    assert all(sum(row) == 2 for row in counts)
    assert all(abs(count - 200) < 65 for count in counts.values())


def test_boosters_share_the_steps_and_each_begins_a_schedule_of_the_learning_rate() -> None:
    schedule = plan(ROBERTA, 1000, layers=11)
    ends = [125 * number for number in range(1, 9)]
    assert list(schedule.events()) == ends
    assert list(schedule.restarts) == ends[:-1]
    assert schedule.phases == (("boosting", 1, 1000),)
    assert {schedule.phase(step) for step in (1, 125, 126, 1000)} == {"boosting"}
    assert [schedule.budget(step) for step in (1, 124, 125, 874, 875, 1000)] == [66, 66, 132, 462, 528, 528]
    assert schedule.freeze_step == 1000
    assert schedule.next_event(999) == 1000
    assert schedule.next_event(1000) is None
    assert list(plan(ROBERTA, 1000, anew=False).restarts) == []
    described = schedule.describe()
    assert (described["links"], described["layers"], described["projections"]) == (8, 11, 72)
    assert (described["start_components"], described["final_components"]) == (66, 528)


def test_a_step_for_each_booster_is_enough() -> None:
    assert list(plan(ROBERTA, 24).events()) == list(range(1, 25))


@pytest.mark.parametrize(
    ("sites", "changes", "words"),
    [
        (ROBERTA, {"layers": 13}, ["method.layers is 13", "12 blocks"]),
        (ROBERTA, {"layers": 0}, ["method.layers is 0"]),
        (ROBERTA, {"rank": 0}, ["method.rank 0", "0 components", "24"]),
        (ROBERTA, {"total_steps": 23}, ["23 optimiser steps", "method.rank 8", "method.layers"]),
        (ROBERTA, {"total_steps": 0}, ["0 optimiser steps"]),
        (ROBERTA, {"rank": 2**31 - 1, "total_steps": 50}, ["50 optimiser steps"]),
        ([], {}, ["no projection", "method.targets"]),
    ],
)
def test_what_does_not_go_together_is_named(sites: list[Site], changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(BudgetError) as error:
        plan(sites, **changes)
    for word in words:
        assert word in str(error.value)
