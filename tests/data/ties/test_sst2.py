"""What is held out of the real SST-2 training split, of which most rows are phrases of its sentences."""

from __future__ import annotations

from pathlib import Path

import pytest

from dora_cli.data import Examples, load_examples
from dora_cli.tasks import get_task

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "glue"
pytestmark = pytest.mark.skipif(
    not (DATA / "SST-2" / "train.tsv").is_file(), reason="needs the official SST-2 files beside the checkout"
)
LIMIT = 16_000


def load(split: str = "train", *, tied: bool = False, limit: int | None = None) -> Examples:
    fields = get_task("glue/sst2").fields
    return load_examples(fields, "glue-tsv", split, path=DATA, max_samples=limit, tied=tied)


def sharing(learned: Examples, held: Examples) -> float:
    """Which part of the rows of `held` with four words or more have four in a row that a row of `learned` has."""

    def fours(text: str) -> set[tuple[str, ...]]:
        words = text.split()
        return {tuple(words[at : at + 4]) for at in range(len(words) - 3)}

    known = set().union(*map(fours, learned.texts[0]))
    long = [fours(text) for text in held.texts[0] if len(text.split()) >= 4]
    return sum(bool(one & known) for one in long) / len(long)


def test_sentences_and_phrases_are_found() -> None:
    plain = load()
    tied = load(tied=True)
    assert tied == plain
    assert tied.groups is not None
    assert len({group for groups in tied.groups for group in groups}) == 6885
    assert sum(len(groups) > 1 for groups in tied.groups) == 4269


def test_what_is_held_out_is_as_new_as_the_dev_split() -> None:
    plain, tied = load(limit=LIMIT), load(tied=True, limit=LIMIT)
    assert tied == plain, "the same rows are drawn"
    learned, held = tied.parted(0.1)
    assert len(held) == pytest.approx(LIMIT / 10, rel=0.01)
    assert sum(held.labels or ()) / len(held) == pytest.approx(sum(plain.labels or ()) / LIMIT, abs=0.005)
    assert sharing(*plain.parted(0.1)) == pytest.approx(0.733, abs=0.005)
    assert sharing(learned, held) == pytest.approx(0.144, abs=0.005)
    assert sharing(learned, load("validation")) == pytest.approx(0.301, abs=0.005)
