"""Texts in one row: what stands where, and how long rows are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dora_cli.data.cuts import UNCUT
from dora_cli.data.layout import PairLayout
from dora_cli.data.packed import BOUNDARIES, CAPTURES, GRAIN, TOTALS, Packing, training_batches
from dora_cli.data.padding import TokenCount
from dora_cli.data.pairs import IGNORED, EncodedPairs
from dora_cli.data.ragged import Ragged

PAD, END = 0, 3


def pairs() -> EncodedPairs:
    """Three examples, which read 4, 2 and 3 tokens."""
    sources = Ragged.of(np.array([10, 11, 12, 20, 21, 30], dtype=np.int32), [3, 2, 1])
    targets = Ragged.of(np.array([13, END, END, 31, 32, END], dtype=np.int32), [2, 1, 3])
    layout = PairLayout(False, before=(), separator=(), start=(), end=END, stops=(END,), pad=PAD)
    return EncodedPairs(sources, targets, cut=0, layout=layout, max_length=6)


def test_a_row_by_hand() -> None:
    """The last token that is read of a text predicts its own end, and none the next text's first."""
    batch = Packing(step=6, longest=6).collate(pairs(), [0, 2, 1])
    no = IGNORED
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[10, 11, 12, 13, 30, 31, 32, 20, 21, PAD, PAD, PAD]],
        "attention_mask": [[1] * 9 + [0] * 3],
        "position_ids": [[0, 1, 2, 3, 0, 1, 2, 0, 1, 0, 1, 2]],
        "labels": [[no, no, 13, END, 31, 32, END, no, END, no, no, no]],
        BOUNDARIES: [0, 4, 7, 9, 12],
    }
    assert {tensor.dtype for name, tensor in batch.items() if name != BOUNDARIES} == {torch.int64}
    assert batch[BOUNDARIES].dtype == torch.int32


def test_a_row_that_is_full_ends_in_an_empty_text() -> None:
    batch = Packing(step=3, longest=6).collate(pairs(), [0, 2, 1])
    assert batch["input_ids"].shape == batch["labels"].shape == (1, 9)
    assert batch[BOUNDARIES].tolist() == [0, 4, 7, 9, 9]


def test_what_fills_a_row_up_has_no_position_that_no_text_has() -> None:
    """Else a model of few positions would look up one that it does not have."""
    batch = Packing(step=16, longest=16).collate(pairs(), [1])
    assert batch["position_ids"].tolist() == [[0, 1] * 8]


def test_labels_are_those_of_the_padded_batch() -> None:
    """There are as many, and the same for each token that is read."""
    rows = [1, 0, 2]
    padded, packed = pairs().collate(rows), Packing(4, 6).collate(pairs(), rows)
    real = padded["attention_mask"].bool()
    for name in ("input_ids", "labels"):
        assert torch.equal(packed[name][packed["attention_mask"].bool()], padded[name][real])
    assert int((packed["labels"] != IGNORED).sum()) == int(pairs().units.sum())


@pytest.mark.parametrize("spread", [0, 1, 40, 1000])
def test_the_lengths_of_rows_are_few(spread: int) -> None:
    """And no longer than they must be for that in a long run."""
    random = np.random.default_rng(0)
    lengths = 50 + random.integers(0, spread + 1, 4000)
    batches = [random.permutation(4000)[:32] for _ in range(300)]
    packing = Packing.of(lengths, [*batches, np.arange(3)], 10**7)
    totals = [int(lengths[rows].sum()) for rows in batches]
    assert len({packing.total(tokens) for tokens in totals}) <= TOTALS + 1
    assert all(tokens <= packing.total(tokens) < tokens + packing.step for tokens in totals)
    assert packing.step % GRAIN == 0
    assert packing.step == GRAIN or (packing.step - GRAIN) * TOTALS < max(totals) - min(totals)
    assert packing.longest == max(lengths.max(), packing.step)


@pytest.mark.parametrize("passes", [1, 400, 3000, 30_000])
def test_a_run_has_as_many_lengths_as_are_worth_their_captures(passes: int) -> None:
    """By what another step of rounding would cost: padding of all passes, and captures of all lengths."""
    random = np.random.default_rng(0)
    lengths = 20 + random.integers(0, 1001, 4000)
    batches = [random.permutation(4000)[:32] for _ in range(300)]
    totals = np.array([int(lengths[rows].sum()) for rows in batches])
    spread = int(totals.max() - totals.min())

    def cost(step: int) -> float:
        """In passes over texts without padding."""
        return passes * step / (2 * totals.mean()) + CAPTURES * spread / step

    chosen = Packing.of(lengths, batches, passes).step
    others = [-(-spread // (count * GRAIN)) * GRAIN for count in range(1, TOTALS + 1)]
    assert chosen in others
    assert cost(chosen) <= 1.1 * min(map(cost, others))
    assert (chosen == others[0]) is (passes <= 400)


def test_tokens_of_rows_are_counted_as_they_are_made() -> None:
    split, packing = pairs(), Packing(step=4, longest=6)
    batches = [np.array([0, 1]), np.array([2]), np.array([], dtype=np.int64)]
    made = list(training_batches(split, batches[:2], UNCUT, packing))
    assert [batch["input_ids"].shape[1] for batch in made] == [8, 4]
    assert packing.count(split.sides[0], batches) == TokenCount(real=9, computed=12)


def test_without_a_packing_batches_are_padded() -> None:
    (batch,) = training_batches(pairs(), [np.array([0, 1])], UNCUT, None)
    assert BOUNDARIES not in batch
    assert batch["input_ids"].shape[0] == 2
