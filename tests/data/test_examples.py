from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest

from dora_cli.data import Examples
from dora_cli.data.examples import parted_off


def test_the_fingerprint_sees_every_difference() -> None:
    examples = [
        Examples((["ab", "c"],), [0, 1]),
        Examples((["a", "bc"],), [0, 1]),
        Examples((["ab", "c"],), [1, 0]),
        Examples((["ab", "c"],), [0.0, 1.0]),
        Examples((["ab", "c"],), None),
        Examples((["c", "ab"],), [0, 1]),
        Examples((["ab"], ["c"]), [0]),
        Examples((["ab", "c"], ["", ""]), [0, 1]),
    ]
    prints = [each.fingerprint() for each in examples]
    assert len(set(prints)) == len(prints)
    assert all(len(each) == 64 and int(each, 16) >= 0 for each in prints)


def test_equal_contents_have_equal_fingerprints() -> None:
    assert (
        Examples((["naïve \u2028 \ud800"],), [1]).fingerprint()
        == Examples((["naïve \u2028 \ud800"],), [1]).fingerprint()
    )


def test_the_fingerprint_is_fixed() -> None:
    # It is stored with runs and compared later, so it must not change from version to version.
    lengths = struct.pack("<2q", 1, 1)
    contents = b"examples 1;2;2;int;" + lengths + b"ab" + lengths + b"cd" + struct.pack("<2d", 0.0, 1.0)
    assert Examples((["a", "b"], ["c", "d"]), [0, 1]).fingerprint() == hashlib.sha256(contents).hexdigest()


def test_a_sample_is_random_fixed_and_in_order() -> None:
    examples = Examples(([str(i) for i in range(100)],), list(range(100)))
    sample = examples.sample(10, seed=3)
    labels = list(sample.labels or [])
    assert len(labels) == 10
    assert labels == sorted(labels)
    assert labels != list(range(10))
    assert sample.texts[0] == [str(label) for label in labels]
    assert examples.sample(10, seed=3) == sample
    assert examples.sample(10, seed=4) != sample


def test_a_sample_of_everything_is_everything() -> None:
    examples = Examples((["a", "b"],), None)
    assert examples.sample(2, seed=0) is examples
    assert examples.sample(5, seed=0) is examples
    assert examples.sample(1, seed=0).labels is None


def test_a_sample_of_sources_keeps_all_their_rows() -> None:
    examples = Examples(([f"s{i % 10}" for i in range(40)], [f"t{i}" for i in range(40)]), None)
    sample = examples.sample_sources(4, seed=3)
    kept = set(sample.texts[0])
    assert len(kept) == 4
    assert list(zip(*sample.texts, strict=True)) == [row for row in zip(*examples.texts, strict=True) if row[0] in kept]
    assert examples.sample_sources(4, seed=3) == sample
    assert examples.sample_sources(4, seed=4) != sample
    assert examples.sample_sources(10, seed=3) is examples
    # The choice is that among the different sources: how often each occurs does not matter.
    assert set(Examples(([f"s{i}" for i in range(10)],), None).sample_sources(4, seed=3).texts[0]) == kept


def test_of_every_class_its_share_is_parted() -> None:
    examples = Examples(([str(row) for row in range(103)],), [0] * 60 + [1] * 40 + [2] * 2 + [3])
    learned, held = examples.parted(0.1)
    assert [held.labels.count(label) for label in range(4)] == [6, 4, 1, 0]  # type: ignore[union-attr]
    assert [int(text) for text in held.texts[0]] == sorted(int(text) for text in held.texts[0])
    assert set(learned.texts[0]) | set(held.texts[0]) == set(examples.texts[0])
    assert not set(learned.texts[0]) & set(held.texts[0])


def test_by_rows_the_same_are_drawn_as_ever() -> None:
    """What experiments were chosen by must stay what it was: written down in 2026, and drawn by hand."""
    labels = [0, 1, 1, 0, 1] * 8
    _, held = Examples(([str(row) for row in range(40)],), labels).parted(0.15)
    assert [int(text) for text in held.texts[0]] == [5, 7, 17, 28, 31, 36]
    drawn = []
    for label in (0, 1):
        rows = [row for row in range(40) if labels[row] == label]
        drawn += [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[: round(0.15 * len(rows))]]
    assert [int(text) for text in held.texts[0]] == sorted(drawn)


def test_what_has_groups_is_parted_by_them() -> None:
    texts = [str(row // 2) for row in range(60)]
    examples = Examples((texts,), [0, 1, 1] * 20, ("read",), [(row // 2,) for row in range(60)])
    learned, held = examples.parted(0.2)
    assert (len(held), held.notes, learned.notes) == (12, ("read",), ("read",))
    assert not set(learned.texts[0]) & set(held.texts[0])
    assert [int(text) for text in held.texts[0]] == sorted(int(text) for text in held.texts[0])
    assert learned.groups == [(int(text),) for text in learned.texts[0]], "another share is parted by them too"
    again, _ = learned.sample(40, seed=0).parted(0.2)
    assert again.groups == [(int(text),) for text in again.texts[0]]
    numbers = Examples((texts,), [float(row) for row in range(60)], groups=examples.groups)
    learned, held = numbers.parted(0.2)
    assert len(held) == 12
    assert not set(learned.texts[0]) & set(held.texts[0])
    assert numbers == Examples((texts,), numbers.labels), "they are no part of what the examples are"


def test_what_is_tied_to_too_many_is_said() -> None:
    examples = Examples(
        ([str(row) for row in range(60)],), [0, 1] * 30, ("read",), [(0,)] * 30 + [(1,)] * 10 + [(2,)] * 20
    )
    learned, held = examples.parted(0.2)
    assert [len(learned), len(held)] == [50, 10]
    assert held.notes == ("read",)
    said, note = learned.notes
    assert said == "read"
    assert note.startswith("split train: 50 examples hang together")


def test_numbers_are_parted_at_random_and_references_by_their_sources() -> None:
    numbers = Examples(([str(row) for row in range(50)],), [float(row) for row in range(50)])
    assert [len(part) for part in numbers.parted(0.1)] == [45, 5]
    pairs = Examples(([f"s{row // 3}" for row in range(30)], [f"r{row}" for row in range(30)]), None)
    learned, held = pairs.parted(0.2)
    assert (len(set(held.texts[0])), len(held)) == (2, 6)
    assert not set(learned.texts[0]) & set(held.texts[0])


@pytest.mark.parametrize(
    ("total", "share", "count"), [(10, 0.1, 1), (16, 0.1, 2), (4, 0.9, 3), (2, 0.1, 1), (1, 0.5, 0)]
)
def test_without_classes_it_is_known_how_many_are_parted_off(total: int, share: float, count: int) -> None:
    examples = Examples(([str(row) for row in range(total)],), [0.5] * total)
    assert [len(part) for part in examples.parted(share)] == [total - count, count]
    assert parted_off(total, share) == count
    assert parted_off(total, 0.0) == 0
