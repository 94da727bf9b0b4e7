"""The examples of one split, as text."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from dora_cli.data.ties import Groups, part_groups
from dora_cli.wording import plural


@dataclass(frozen=True)
class Examples:
    """Texts and labels of one split, in the order of their source.

    Attributes:
        texts: one list for single sentences, two lists of equal length for pairs. For generation the sources and their
            references, a source once for each of its references; the sources alone where there are no references.
        labels: class ids, or floats for a regression; None where there are none, as in official test files and for
            generation.
        notes: what is to be said of how they came about; no part of what they are.
        groups: which of them share texts, also with examples that are not among them; None where nobody has looked. By
            them `parted` keeps together what belongs together. No part of what the examples are either.
    """

    texts: tuple[list[str], ...]
    labels: list[int] | list[float] | None
    notes: tuple[str, ...] = field(default=(), compare=False)
    groups: Groups | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        assert len(self.texts) in (1, 2), "one or two texts per example"
        assert (
            len({len(column) for column in self.texts} | ({len(self.labels)} if self.labels is not None else set()))
            == 1
        )

    def __len__(self) -> int:
        return len(self.texts[0])

    def fingerprint(self) -> str:
        """SHA-256 of the contents, as 64 hexadecimal digits.

        Equal for equal texts and labels in equal order, wherever they came from.
        """
        digest = hashlib.sha256()
        kind = (
            "none"
            if self.labels is None
            else "float"
            if any(isinstance(label, float) for label in self.labels)
            else "int"
        )
        digest.update(f"examples 1;{len(self.texts)};{len(self)};{kind};".encode())
        for column in self.texts:
            encoded = [text.encode("utf-8", "surrogatepass") for text in column]
            # Lengths first, so that no two different lists give the same bytes.
            digest.update(np.array([len(text) for text in encoded], dtype="<i8").tobytes())
            digest.update(b"".join(encoded))
        if self.labels is not None:
            digest.update(np.array(self.labels, dtype="<f8").tobytes())
        return digest.hexdigest()

    def sample(self, count: int, seed: int) -> Examples:
        """A random subset of `count` examples in their original order, or all of them if there are not more.

        The choice depends on the number of examples, `count` and `seed` only.
        """
        return self if count >= len(self) else self._rows(_choice(len(self), count, seed))

    def sample_sources(self, count: int, seed: int) -> Examples:
        """All examples of a random subset of `count` different sources (first texts), in their original order.

        The choice depends on the number of different sources, `count` and `seed` only.
        """
        sources = list(dict.fromkeys(self.texts[0]))
        if count >= len(sources):
            return self
        kept = {sources[i] for i in _choice(len(sources), count, seed)}
        return self._rows([i for i, source in enumerate(self.texts[0]) if source in kept])

    def parted(self, share: float) -> tuple[Examples, Examples]:
        """The examples in two parts, of which the second holds about `share` of them; each in the original order.

        Of every class its share, and at least one example where it has two. What has references is parted by its
        sources; what has `groups`, by these (see `part_groups`), so that no text is in both parts, and the first part
        has a note of examples that therefore could not be held out. The choice depends on labels, sources or groups,
        and on `share` only.
        """
        if self.groups is not None and self.labels is not None:
            return self._parted_by_groups(self.groups, self.labels, share)
        if self.labels is None:
            groups: dict[object, list[int]] = {}
            for row, source in enumerate(self.texts[0]):
                groups.setdefault(source, []).append(row)
            strata = [list(groups.values())]
        else:
            by_label: dict[object, list[list[int]]] = {}
            numbers = any(isinstance(label, float) for label in self.labels)
            for row, label in enumerate(self.labels):
                by_label.setdefault(None if numbers else label, []).append([row])
            strata = list(by_label.values())
        held: set[int] = set()
        for members in strata:
            count = min(max(round(share * len(members)), 1), len(members) - 1)
            for chosen in _choice(len(members), count, seed=0) if count else ():
                held.update(members[chosen])
        return self._without(held), self._rows(sorted(held))

    def _parted_by_groups(
        self, groups: Groups, labels: list[int] | list[float], share: float
    ) -> tuple[Examples, Examples]:
        numbers = any(isinstance(label, float) for label in labels)
        parting = part_groups(groups, [None] * len(self) if numbers else labels, share)
        learned, held = self._without(parting.held), self._rows(sorted(parting.held))
        if not parting.tied:
            return learned, held
        note = (
            f"split train: {plural(parting.tied, 'example')} hang together by shared texts in groups larger than "
            f"{share:g} of the split, and none of these was held out"
        )
        return replace(learned, notes=(*learned.notes, note)), held

    def only(self, rows: Iterable[int]) -> Examples:
        """Some of the examples, by their indices."""
        return self._rows([int(row) for row in rows])

    def _rows(self, kept: list[int]) -> Examples:
        labels = None if self.labels is None else [self.labels[i] for i in kept]
        groups = None if self.groups is None else [self.groups[i] for i in kept]
        return Examples(tuple([column[i] for i in kept] for column in self.texts), labels, self.notes, groups)

    def _without(self, left_out: Container[int]) -> Examples:
        return self._rows([row for row in range(len(self)) if row not in left_out])


def parted_off(total: int, share: float) -> int:
    """How many of `total` examples `Examples.parted` holds out, as far as that is known without classes, sources and
    groups.
    """
    return min(max(round(share * total), 1), total - 1) if share else 0


def _choice(total: int, count: int, seed: int) -> list[int]:
    assert count > 0
    return np.sort(np.random.default_rng(seed).permutation(total)[:count]).tolist()
