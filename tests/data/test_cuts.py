"""Batches cut into parts: the cheapest way of all there are, with every row in it once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest

from dora_cli.data import Encoded, Examples, encode, encode_pairs, pair_layout, plan_epoch
from dora_cli.data.cuts import MOST_PARTS, UNCUT, Cuts, cut_batches, deal, recorded_cuts
from dora_cli.data.padding import count_tokens
from tests.data import subwords
from tests.data.words import word_tokenizer

RNG = np.random.default_rng(3)


def sentences(lengths: npt.NDArray[np.int64], multiple: int = 1) -> Encoded:
    """Sentences of so many tokens with the two that are put around them, 30 at the most."""
    texts = [" ".join("a" for _ in range(length - 2)) for length in lengths]
    return encode(Examples((texts,), [0] * len(texts)), word_tokenizer(types=False), 30).padded_to(multiple)


def pairs(count: int) -> Encoded:
    """An encoder-decoder's, sources and targets of any lengths."""
    sources = [f"name[{'A ' * int(RNG.integers(1, 12))}]" for _ in range(count)]
    targets = ["A pub. " * int(RNG.integers(1, 6)) for _ in range(count)]
    tokenizer = subwords.bart()
    layout = pair_layout(tokenizer, decoder_start=2)
    return encode_pairs(Examples((sources, targets), None), tokenizer, 60, layout).padded_to(1)


def all_ways(pieces: int, most: int) -> Iterator[list[int]]:
    """Where parts begin, in every way to make at most `most` of them."""
    for count in range(most):
        for inner in combinations(range(1, pieces), count):
            yield [0, *inner]


def cost(split: Encoded, parts: list[npt.NDArray[np.int64]], cuts: Cuts) -> int:
    """All tokens of the batches that are made, and their passes."""
    tokens = 0
    for rows in parts:
        batch = split.collate(rows)
        tokens += batch["input_ids"].numel()
        if "decoder_input_ids" in batch:
            tokens += batch["decoder_input_ids"].numel()
    return tokens + cuts.pass_tokens * len(parts)


@pytest.mark.parametrize("kind", ["encoder", "encoder, few widths", "encoder-decoder"])
@pytest.mark.parametrize(
    "cuts", [Cuts(3), Cuts(8), Cuts(8, 4), Cuts(4, 12), Cuts(2, 3, pieces=4), Cuts(5, 6, pieces=4), Cuts(8, 10_000)]
)
def test_no_other_way_is_cheaper(kind: str, cuts: Cuts) -> None:
    """The ways are all that keep the rows in the order of their lengths and the pieces whole."""
    if kind == "encoder-decoder":
        split = pairs(9)
    else:
        split = sentences(RNG.integers(3, 30, 9), 8 if "widths" in kind else 1)
    rows = RNG.permutation(9)
    parts = cuts.parts(split, rows)
    assert sorted(np.concatenate(parts)) == list(range(9))
    assert len(parts) <= cuts.most

    order = rows[np.argsort(-np.sum([side[rows] for side in split.sides], axis=0), kind="stable")]
    starts = range(0, 9, -(-9 // cuts.pieces))
    ways = [np.split(order, [starts[piece] for piece in way[1:]]) for way in all_ways(len(starts), cuts.most)]
    cheapest = min(cost(split, way, cuts) for way in ways)
    assert cost(split, parts, cuts) == cheapest
    assert len(parts) == min(len(way) for way in ways if cost(split, way, cuts) == cheapest)
    for part in parts if len(parts) > 1 else ():
        assert any(np.array_equal(part, order[start : start + len(part)]) for start in starts)


def test_lengths_that_say_where_to_cut() -> None:
    """Two of 20 and six of 5 tokens: whole 160 tokens, in two parts 70."""
    split = sentences(np.array([5, 20, 5, 5, 20, 5, 5, 5]))
    rows = np.arange(8)
    parts = [list(part) for part in Cuts(8, 89).parts(split, rows)]
    assert parts == [[1, 4], [0, 2, 3, 5, 6, 7]]
    assert [list(part) for part in Cuts(8, 90).parts(split, rows)] == [list(rows)]  # no cheaper: not cut
    assert [list(part) for part in Cuts(1).parts(split, rows)] == [list(rows)]


def test_what_is_not_cut_keeps_its_order() -> None:
    split = sentences(np.array([4, 9, 6]))
    for cuts in (UNCUT, Cuts(8, 1000)):
        (part,) = cuts.parts(split, np.array([1, 0, 2]))
        assert list(part) == [1, 0, 2]
    (part,) = Cuts(8).parts(sentences(np.array([7, 7, 7])), np.array([1, 0, 2]))
    assert list(part) == [1, 0, 2]
    (part,) = Cuts(8).parts(split, np.array([2]))
    assert list(part) == [2]


def test_few_pieces_give_few_shapes() -> None:
    split = sentences(RNG.integers(3, 30, 320), 8)
    batches = RNG.permutation(320).reshape(10, 32)
    shapes = {tuple(split.collate(rows)["input_ids"].shape) for rows in cut_batches(split, batches, Cuts(8, pieces=4))}
    assert {rows for rows, _ in shapes} <= {8, 16, 24, 32}
    assert len(shapes) > 4
    sizes = {len(rows) for rows in cut_batches(split, batches, Cuts(8))}
    assert len(sizes) > 4


def test_more_parts_pad_less() -> None:
    split = sentences(RNG.integers(3, 30, 320))
    batches = list(RNG.permutation(320).reshape(10, 32))

    def share(most: int) -> float:
        cut = cut_batches(split, batches, Cuts(most))
        found = count_tokens(split.sides, cut, max_length=30, multiple=1).share
        assert found is not None
        return found

    shares = [share(most) for most in (1, 2, 3, MOST_PARTS, 32)]
    assert shares == sorted(shares)
    assert shares[0] < 0.6
    assert shares[-2] > 0.9
    assert shares[-1] == 1  # each length by itself


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("cuts", [Cuts(8), Cuts(8, 5), Cuts(8, 3, pieces=4), Cuts(8, 10_000)])
def test_no_other_shares_have_less_for_the_one_with_most(cuts: Cuts, processes: int) -> None:
    """The shares are all that keep the rows in the order of their lengths and the pieces whole."""
    lengths = RNG.integers(3, 30, 9)
    split, rows = sentences(lengths), RNG.permutation(9)
    shares = cuts.shares(split, rows, processes)
    assert len(shares) == processes
    assert sorted(np.concatenate(shares)) == sorted(rows)

    def most_to_do(parts: list[npt.NDArray[np.int64]]) -> int:
        return max(cost(split, cuts.parts(split, share), cuts) for share in parts if len(share))

    order = rows[np.argsort(-lengths[rows], kind="stable")]
    starts = np.arange(0, 9, -(-9 // cuts.pieces))
    ways = [np.split(order, starts[begins[1:]]) for begins in all_ways(len(starts), processes)]
    assert most_to_do(shares) == min(most_to_do(way) for way in ways)


def test_few_rows_leave_processes_without() -> None:
    split = sentences(np.array([5, 9]))
    assert [list(share) for share in Cuts(8).shares(split, np.array([0, 1]), 3)] == [[1], [0], []]
    assert [list(share) for share in Cuts(8).shares(split, np.array([], dtype=np.int64), 2)] == [[], []]
    assert [list(share) for share in Cuts(8).shares(split, np.array([0, 1]), 1)] == [[0, 1]]


def test_what_is_dealt_makes_up_the_steps() -> None:
    """Each process has its share of every micro-batch, and none that is empty."""
    split = sentences(RNG.integers(3, 30, 21))
    planned = {"seed": 1, "epoch": 1, "micro_batch": 4, "accumulation": 2}
    steps = list(plan_epoch(split.lengths, split.units, **planned))
    of_each = [list(deal(split, steps, Cuts(8), 3, rank)) for rank in range(3)]
    for step, *parts in zip(steps, *of_each, strict=True):
        assert all((part.units, part.examples) == (step.units, step.examples) for part in parts)
        found = [row for part in parts for rows in part.micro_batches for row in rows]
        assert sorted(found) == sorted(np.concatenate(step.micro_batches))
        assert all(len(rows) for part in parts for rows in part.micro_batches)


def test_a_run_keeps_the_cuts_that_it_began_with() -> None:
    assert recorded_cuts({"batch_parts": {"most": 8, "pass_tokens": 76, "pieces": 32}}) == Cuts(8, 76, 32, dealt=False)
    assert recorded_cuts({"batch_parts": asdict(Cuts(8, 76, 32, dealt=True))}) == Cuts(8, 76, 32, dealt=True)
    assert recorded_cuts({}) == recorded_cuts({"batch_parts": None}) == UNCUT
