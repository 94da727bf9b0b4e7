"""Tokens that are counted from lengths, against those of the batches that are made of the same rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dora_cli.data import Encoded, Examples, encode, encode_pairs, pair_layout
from dora_cli.data.padding import TokenCount, count_tokens, pad_multiple, recorded_multiple
from tests.data import subwords
from tests.data.words import word_tokenizer

BATCHES = [np.array([3, 0, 2]), np.array([1]), np.array([4, 0]), np.array([], dtype=np.int64)]


def sentences() -> Encoded:
    texts = ["a b c", "d", "a b c d e f g h a b", "a", "a b c d e f g"]
    return encode(Examples((texts,), [0, 1, 0, 1, 0]), word_tokenizer(types=False), 11)


def pairs(tokenizer: Any, decoder_start: int | None) -> Encoded:
    sources = ["name[A]", "name[Blue Spice], area[city centre]", "area[city centre]", "name[B], area[north]", "name[C]"]
    targets = ["A pub, A.", "Blue Spice is in the city centre.", "A place.", "B is a pub in the north of it.", "C."]
    examples = Examples((sources, targets), None)
    return encode_pairs(examples, tokenizer, 40, pair_layout(tokenizer, decoder_start=decoder_start))


@pytest.mark.parametrize("kind", ["sentences", "decoder-only", "encoder-decoder"])
@pytest.mark.parametrize("multiple", [1, 8])
def test_what_is_counted_is_what_batches_hold(kind: str, multiple: int) -> None:
    split = {
        "sentences": sentences,
        "decoder-only": lambda: pairs(subwords.gpt2(), None),
        "encoder-decoder": lambda: pairs(subwords.bart(), 2),
    }[kind]().padded_to(multiple)
    assert split.pad_multiple == multiple
    real = computed = 0
    for rows in BATCHES:
        if not len(rows):
            continue
        batch = split.collate(rows)
        real += int(batch["attention_mask"].sum())
        computed += batch["input_ids"].numel()
        if "decoder_input_ids" in batch:
            # the decoder reads its start, and every target token but the last, which is a label as all of them are
            tokens = int((batch["labels"] >= 0).sum())
            real += tokens + len(rows) * (len(split.layout.start) - 1)  # type: ignore[attr-defined]
            computed += batch["decoder_input_ids"].numel()
    assert computed > real
    count = count_tokens(split.sides, BATCHES, max_length=split.max_length, multiple=multiple)
    assert count == TokenCount(real, computed)


def test_widths_are_rounded_but_never_above_what_is_allowed() -> None:
    """Rows of 3, 9 and 11 tokens: batches of width 8, of 11 twice."""
    lengths = np.array([3, 9, 11])
    assert count_tokens([lengths], [[0]], max_length=11) == TokenCount(3, 8)
    assert count_tokens([lengths], [[0, 1], [2]], max_length=11) == TokenCount(23, 33)
    assert count_tokens([lengths], [[0, 1], [2]], max_length=64) == TokenCount(23, 48)
    assert count_tokens([lengths], [[0, 1], [2]], max_length=64, multiple=1) == TokenCount(23, 29)
    assert count_tokens([lengths], [[0, 1], [2]], max_length=64).share == 23 / 48
    assert count_tokens([lengths], [], max_length=64).share is None


def test_no_column_is_wasted_on_the_cpu() -> None:
    """Where no work is captured by its shape."""
    widths = {}
    for device in ("cpu", "cuda"):
        split = sentences().padded_to(pad_multiple(device))
        widths[device] = split.collate([0, 3])["input_ids"].shape[1]
    assert widths == {"cpu": 5, "cuda": 8}


def test_a_run_keeps_the_widths_that_it_began_with() -> None:
    """Older ones have not recorded them."""
    assert recorded_multiple({"pad_multiple": 1}) == 1
    assert recorded_multiple({}) == 8
