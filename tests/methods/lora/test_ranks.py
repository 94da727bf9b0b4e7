"""Which rank each projection gets."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from dora_cli.errors import BudgetError, ProjectionError
from dora_cli.methods.lora.ranks import ranks_of
from tests.methods.small import linear_maps, new_lora, sites, small_encoder, tiny_gpt2

SITES = sites(linear_maps(small_encoder(), "blocks"))
NAMES = [f"blocks.{block}.{name}" for block in (0, 1) for name in ("att", "up", "down")]


def ranks(patterns: dict[str, int] | None = None, *, shuffle: int | None = None) -> list[int]:
    found = ranks_of(SITES, 3, patterns, shuffle=shuffle)
    assert list(found) == NAMES, "in model order"
    return list(found.values())


def test_without_patterns_all_are_alike() -> None:
    assert ranks() == [3] * 6


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ({"att": 1}, [1, 3, 3, 1, 3, 3]),  # the path in the block
        ({"*att": 1}, [1, 3, 3, 1, 3, 3]),
        ({"blocks.1.*": 5}, [3, 3, 3, 5, 5, 5]),
        ({"1.up": 5}, [3, 3, 3, 3, 5, 3]),  # any dotted end of the full path
        ({"blocks.0.down": 0, "*": 2}, [2, 2, 0, 2, 2, 2]),
        ({"*.up": 7, "blocks.1.*": 4, "*": 1}, [1, 7, 1, 4, 7, 4]),  # the first that fits
        ({"[ad]*": 6}, [6, 3, 6, 6, 3, 6]),
    ],
)
def test_the_first_pattern_that_fits_counts(patterns: dict[str, int], expected: list[int]) -> None:
    assert ranks(patterns) == expected


def test_a_pattern_fits_whole_segments_only() -> None:
    with pytest.raises(ProjectionError, match="'tt' fits none"):
        ranks({"tt": 1})


@pytest.mark.parametrize("patterns", [{"att": 2, "*.key": 4}, {"*": 2, "*.key": 4}, {"*.key": 0}])
def test_a_pattern_that_fits_none_is_named(patterns: dict[str, int]) -> None:
    with pytest.raises(ProjectionError) as caught:
        ranks(patterns)
    assert "method.ranks: '*.key' fits none of the adapted projections" in str(caught.value)
    assert "blocks.0.att" in str(caught.value)


def test_a_pattern_behind_one_that_takes_all_is_named() -> None:
    with pytest.raises(ProjectionError, match=r"^method\.ranks: '\*\.up' .* earlier "):
        ranks({"*": 2, "*.up": 4})


def test_shuffling_keeps_the_ranks_of_every_shape() -> None:
    places = sites(linear_maps(tiny_gpt2(), "h."))
    given = {site.name: number for number, site in enumerate(places)}  # all different
    found = ranks_of(places, 1, given, shuffle=4)
    assert list(found) == list(given)
    for shape in {site.shape for site in places}:
        names = [site.name for site in places if site.shape == shape]
        assert Counter(found[name] for name in names) == Counter(given[name] for name in names)
    assert found == ranks_of(places, 1, given, shuffle=4), "the same seed, the same ranks"
    assert len({tuple(ranks_of(places, 1, given, shuffle=seed).values()) for seed in range(8)}) > 1


def test_shuffling_takes_nothing_from_the_global_generator() -> None:
    state = torch.random.get_rng_state()
    ranks({"blocks.1.*": 5}, shuffle=1)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_plan_counts_components() -> None:
    lora = new_lora(rank=3, alpha=8, dropout=0.0, ranks={"blocks.0.att": 0, "up": 5})
    schedule = lora.plan(7, SITES)
    assert (schedule.start_components, schedule.final_components) == (0 + 5 + 3 + 3 + 5 + 3,) * 2
    assert [schedule.budget(step) for step in (1, 7)] == [19, 19]
    assert schedule.phases == (("training", 1, 7),)
    assert (schedule.freeze_step, schedule.next_event(0)) == (0, None)


def test_a_plan_that_adapts_nothing_is_refused() -> None:
    with pytest.raises(BudgetError, match="rank 0"):
        new_lora(rank=3, alpha=8, dropout=0.0, ranks={"*": 0}).plan(7, SITES)
    with pytest.raises(BudgetError, match="at least 1"):
        new_lora(rank=3, alpha=8, dropout=0.0).plan(0, SITES)
