"""Examples parted by what they share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from dora_cli.data.ties import Groups, part_groups


def held(groups: Groups, classes: Sequence[object], share: float) -> list[int]:
    return sorted(part_groups(groups, classes, share).held)


def by_rows(classes: Sequence[object], share: float) -> list[int]:
    """What is drawn where no example has anything to do with another."""
    found: list[int] = []
    for each in dict.fromkeys(classes):
        rows = [row for row, other in enumerate(classes) if other == each]
        count = min(max(round(share * len(rows)), 1), len(rows) - 1)
        found += [rows[index] for index in np.random.default_rng(0).permutation(len(rows))[:count]]
    return sorted(found)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("counts", [(60, 40, 2, 1), (45, 45), (7, 3), (2, 2), (15,)])
def test_alone_they_are_drawn_as_by_rows(counts: tuple[int, ...], share: float) -> None:
    classes = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts)).tolist()
    assert held([(row,) for row in range(len(classes))], classes, share) == by_rows(classes, share)


def random_groups(count: int, most: int, seed: int) -> tuple[list[tuple[int, ...]], list[int]]:
    """Groups of up to `most` examples, and classes."""
    draw = np.random.default_rng(seed)
    sizes: list[int] = []
    while sum(sizes) < count:
        sizes.append(int(draw.integers(1, most + 1)))
    groups = np.repeat(np.arange(len(sizes)), sizes)[:count]
    return [(int(group),) for group in draw.permutation(groups)], draw.integers(3, size=count).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_on_both_sides_and_of_every_class_its_share_is_held(seed: int) -> None:
    groups, classes = random_groups(3000, 12, seed)
    found = held(groups, classes, 0.1)
    learned = set(range(3000)) - set(found)
    assert not {groups[row] for row in found} & {groups[row] for row in learned}
    assert len(found) == pytest.approx(300, abs=6)  # half of the largest group
    whole = Counter(classes)
    for label, count in Counter(classes[row] for row in found).items():
        assert count == pytest.approx(whole[label] / 10, rel=0.3)
    assert held(groups, classes, 0.1) == found
    assert held([(group + 7,) for (group,) in groups], classes, 0.1) == found  # whatever groups are called


def test_a_group_larger_than_the_share_is_learned_from() -> None:
    groups = [(0,)] * 60 + [(row,) for row in range(1, 41)]
    parting = part_groups(groups, [row % 2 for row in range(100)], 0.1)
    assert parting.tied == 60
    assert len(parting.held) == 10
    assert min(parting.held) >= 60
    assert part_groups([(0,)] * 10 + [(row,) for row in range(1, 91)], [0] * 100, 0.1).tied == 0


def test_nothing_is_held_where_all_hang_together() -> None:
    parting = part_groups([(0,)] * 10, [0, 1] * 5, 0.3)
    assert (parting.held, parting.tied) == (frozenset(), 10)


def test_every_class_is_on_both_sides_where_it_can_be() -> None:
    # class 1 stands in one group with class 0, and in one alone
    groups = [(row,) for row in range(40)]
    groups[1], classes = (0,), [0] * 40
    classes[1] = classes[2] = 1
    for share in (0.05, 0.1, 0.5):
        found = held(groups, classes, share)
        assert sum(classes[row] for row in found) == 1
        assert (0 in found) == (1 in found)
    # in one group alone it is learned from
    groups[2] = (0,)
    assert not {0, 1, 2} & set(held(groups, classes, 0.5))


def test_what_is_part_of_several_follows_them_all() -> None:
    """Sentences of three examples each; one more is in two of them, in one here and one elsewhere, or in none here."""
    groups: list[tuple[int, ...]] = [(row // 3,) for row in range(60)]
    draw = np.random.default_rng(3)
    several = [tuple(sorted(draw.choice(20, size=2, replace=False).tolist())) for _ in range(200)]
    groups += [*several, (4, 99), (98, 99)]
    classes = [row % 2 for row in range(len(groups))]
    found = set(held(groups, classes, 0.2))
    sentences = {row // 3 for row in range(60) if row in found}
    assert all(row in found for row in range(60) if row // 3 in sentences)
    assert sentences
    for row, both in enumerate(several, start=60):
        assert (row in found) == (set(both) <= sentences)
    assert (260 in found) == (4 in sentences)
    assert 261 not in found
    assert any(set(both) <= sentences for both in several), "else nothing was seen"


def test_what_is_part_of_several_ties_none() -> None:
    """Though all sentences have a word in common, single ones are held out."""
    groups: list[tuple[int, ...]] = [(row,) for row in range(50)]
    found = held([*groups, tuple(range(50))], [0] * 51, 0.1)
    assert len(found) == 5
    assert 50 not in found
