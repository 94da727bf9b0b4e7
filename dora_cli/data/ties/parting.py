"""Examples in two parts that have no group in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dora_cli.data.ties.groups import Groups


@dataclass(frozen=True)
class Parting:
    """What part of the examples is held out.

    Attributes:
        held: their indices.
        tied: how many examples are in groups that are too large to be held out.
    """

    held: frozenset[int]
    tied: int


def part_groups(groups: Groups, classes: Sequence[object], share: float) -> Parting:
    """About `share` of the examples, group by group, of every class its share.

    A group counts as one of the class that most of its examples have. Within a class groups are drawn at random until
    the share is reached, one more or less, whichever is nearer; where every group is one example, these are as many as
    the class's share and the same as are drawn by rows. At least one example of every class is held out where it has
    two, if its groups allow that, and at least one is learned from. A group larger than the whole share stays in
    training. An example of several groups is held out where all of them are that have other examples here; so it
    shares nothing with what is learned from. The choice is a function of the arguments alone.

    Args:
        groups: see `dora_cli.data.ties.groups.Groups`.
        classes: of every example; the same one for all where there are none.
        share: above 0 and below 1.
    """
    members, several = _members(groups)
    most = max(round(share * len(classes)), 1)
    small = {group: rows for group, rows in members.items() if len(rows) <= most}
    draw = _Draw(members, classes)
    all_for_these = len(classes) / max(sum(map(len, members.values())), 1)  # those of several groups give nothing
    for of_class in _by_class(members, classes):
        count = sum(len(members[group]) for group in of_class)
        draw.wanted += min(max(round(share * count * all_for_these), 1), count - 1)
        for chosen in np.random.default_rng(0).permutation(len(of_class)).tolist():
            if of_class[chosen] in small and draw.nearer_with(of_class[chosen]):
                draw.hold(of_class[chosen])
    for missing, count in Counter(classes).items():
        if count > 1 and draw.learned[missing] == count:
            _hold_one_of(missing, small, draw)
    held = set(draw.rows)
    for row in several:
        inside = [group in draw.held for group in groups[row] if group in members]
        if inside and all(inside) and draw.learned[classes[row]] > 1:
            held.add(row)
            draw.learned[classes[row]] -= 1
    return Parting(frozenset(held), sum(map(len, members.values())) - sum(map(len, small.values())))


class _Draw:
    """What has been drawn.

    Attributes:
        classes: of every example.
        wanted: how many examples are to be held out of the classes that were looked at.
        held: groups.
        rows: their examples.
        learned: how many examples of every class are not held out.
    """

    def __init__(self, members: Mapping[int, Sequence[int]], classes: Sequence[object]) -> None:
        self._members, self.classes = members, classes
        self.wanted, self.held, self.rows = 0, set[int](), list[int]()
        self.learned = Counter(classes)

    def nearer_with(self, group: int) -> bool:
        """Whether as many as are wanted are nearer with `group` than without it, and every class is still learned."""
        rows = self._members[group]
        if 2 * (self.wanted - len(self.rows)) <= len(rows):
            return False
        return self.leaves_all(group)

    def leaves_all(self, group: int) -> bool:
        """Whether every class is still learned without `group`."""
        inside = Counter(self.classes[row] for row in self._members[group])
        return all(self.learned[each] > count for each, count in inside.items())

    def hold(self, group: int) -> None:
        """Holds a group out."""
        self.held.add(group)
        self.rows.extend(self._members[group])
        self.learned.subtract(self.classes[row] for row in self._members[group])


def _members(groups: Groups) -> tuple[dict[int, list[int]], list[int]]:
    """The examples of every group that has one of its own; and those of several such groups, or of none.

    An example of several groups of which one alone has others here is of that one.
    """
    own = {of_row[0] for of_row in groups if len(of_row) == 1}
    members, several = dict[int, list[int]](), list[int]()
    for row, of_row in enumerate(groups):
        there = of_row if len(of_row) == 1 else [group for group in of_row if group in own]
        if len(there) == 1:
            members.setdefault(there[0], []).append(row)
        else:
            several.append(row)
    return members, several


def _by_class(members: Mapping[int, Sequence[int]], classes: Sequence[object]) -> list[list[int]]:
    """The groups by the class that most of their examples have, the first of several; in the order of examples."""
    found: dict[object, list[int]] = {}
    for group, rows in members.items():
        found.setdefault(Counter(classes[row] for row in rows).most_common(1)[0][0], []).append(group)
    return list(found.values())


def _hold_one_of(missing: object, small: Mapping[int, Sequence[int]], draw: _Draw) -> None:
    """Holds out the smallest group with an example of the class, the first of several; none where all would leave a
    class without examples to learn from.
    """
    classes = draw.classes
    fit = [g for g, rows in small.items() if any(classes[row] == missing for row in rows) and draw.leaves_all(g)]
    if fit:
        draw.hold(min(fit, key=lambda group: len(small[group])))
