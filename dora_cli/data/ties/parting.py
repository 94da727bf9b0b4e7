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
    members, followers = _members(groups)
    most = max(round(share * len(classes)), 1)
    small = {group: rows for group, rows in members.items() if len(rows) <= most}
    draw = _Draw(members, followers, classes)
    all_for_these = len(classes) / max(sum(map(len, members.values())), 1)  # those of several groups give hardly any
    for of_class in _by_class(members, classes):
        count = sum(len(members[group]) for group in of_class)
        draw.wanted += min(max(round(share * count * all_for_these), 1), count - 1)
        for chosen in np.random.default_rng(0).permutation(len(of_class)).tolist():
            if of_class[chosen] in small and draw.nearer_with(of_class[chosen]):
                draw.hold(of_class[chosen])
    for missing, count in Counter(classes).items():
        if count > 1 and draw.learned[missing] == count:
            _hold_one_of(missing, small, draw)
    return Parting(frozenset(draw.rows), sum(map(len, members.values())) - sum(map(len, small.values())))


class _Draw:
    """What has been drawn.

    Attributes:
        classes: of every example.
        wanted: how many examples are to be held out of the classes that were looked at.
        rows: what is held out.
        learned: how many examples of every class are not held out.
    """

    def __init__(
        self,
        members: Mapping[int, Sequence[int]],
        followers: Mapping[int, Sequence[int]],
        classes: Sequence[object],
    ) -> None:
        self._members, self._followers, self.classes = members, followers, classes
        self._waiting = Counter(row for rows in followers.values() for row in rows)
        self.wanted, self.rows = 0, list[int]()
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
        """Holds a group out, and what of several groups now has no other that is learned from."""
        self._take(self._members[group])
        for row in self._followers.get(group, ()):
            self._waiting[row] -= 1
            if not self._waiting[row] and self.learned[self.classes[row]] > 1:
                self._take([row])

    def _take(self, rows: Sequence[int]) -> None:
        self.rows.extend(rows)
        self.learned.subtract(self.classes[row] for row in rows)


def _members(groups: Groups) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """The examples of every group that has one of its own; and those that it has in common with other such groups.

    An example of several groups of which one alone has others here is of that one; of which none has, of no group.
    """
    own = {of_row[0] for of_row in groups if len(of_row) == 1}
    members, common = dict[int, list[int]](), dict[int, list[int]]()
    for row, of_row in enumerate(groups):
        there = of_row if len(of_row) == 1 else [group for group in of_row if group in own]
        for group in there:
            (members if len(there) == 1 else common).setdefault(group, []).append(row)
    return members, common


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
