from __future__ import annotations

import numpy as np
import pytest
import torch

from dora_cli.data import Examples, encode
from dora_cli.errors import DataError
from tests.data.words import CLS, PAD, SEP, ids, word_tokenizer


def test_single_sentences() -> None:
    split = encode(Examples((["a b c", "d"],), [1, 0]), word_tokenizer(types=False), 16)
    assert len(split) == 2
    assert split.lengths.tolist() == [5, 3]
    assert split.units.tolist() == [1, 1]
    assert split.units.dtype == np.int64
    assert split.tokens.values.dtype == np.int32
    batch = split.collate([1, 0])
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert batch["input_ids"].tolist() == [[CLS, *ids("d"), SEP, *[PAD] * 5], [CLS, *ids("a b c"), SEP, *[PAD] * 3]]
    assert batch["attention_mask"].tolist() == [[1] * 3 + [0] * 5, [1] * 5 + [0] * 3]
    assert batch["labels"].tolist() == [0, 1]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_pairs_have_token_types_where_the_model_takes_them() -> None:
    examples = Examples((["a b"], ["c"]), None)
    batch = encode(examples, word_tokenizer(), 8).collate([0])
    assert batch["input_ids"].tolist() == [[CLS, *ids("a b"), SEP, *ids("c"), SEP, PAD, PAD]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 0, 0]]
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids"}
    assert encode(examples, word_tokenizer(types=False), 8).token_types is None


def test_the_longer_text_is_cut() -> None:
    split = encode(Examples((["a b c d e f g"], ["h"]), [0]), word_tokenizer(), 7)
    assert split.collate([0])["input_ids"].tolist() == [[CLS, *ids("a b c"), SEP, *ids("h"), SEP]]


def test_width_is_rounded_up_but_never_above_max_length() -> None:
    split = encode(Examples((["a", "a b c d e f g", "a b c d e f g h a b"],), [0, 1, 0]), word_tokenizer(), 11)
    assert split.lengths.tolist() == [3, 9, 11]
    assert [split.collate([i])["input_ids"].shape[1] for i in range(3)] == [8, 11, 11]
    assert split.collate([0], pad_multiple=1)["input_ids"].shape[1] == 3
    assert split.collate([0, 1], pad_multiple=4)["input_ids"].shape[1] == 11


def test_labels_of_a_regression_are_fp32() -> None:
    split = encode(Examples((["a", "b"],), [2.5, 3.0]), word_tokenizer(), 8)
    assert split.labels is not None
    assert split.labels.dtype == np.float64
    labels = split.collate([0, 1])["labels"]
    assert labels.dtype == torch.float32
    assert labels.tolist() == [2.5, 3.0]


def test_batches_agree_with_the_tokenizers_own_padding() -> None:
    """Many examples, over several chunks, against the plain way of doing it."""
    generator = np.random.default_rng(0)
    words = np.array(list("abcdefgh"))
    texts = tuple(
        [" ".join(words[generator.integers(0, 8, generator.integers(1, 12))]) for _ in range(9000)] for _ in range(2)
    )
    tokenizer = word_tokenizer()
    split = encode(Examples(texts, [0] * 9000), tokenizer, 16)
    chosen = generator.permutation(9000)[:300]
    expected = tokenizer(
        [texts[0][i] for i in chosen],
        [texts[1][i] for i in chosen],
        truncation=True,
        max_length=16,
        padding="longest",
        return_tensors="pt",
    )
    batch = split.collate(chosen)
    assert set(expected) == set(batch) - {"labels"}
    for name in expected:
        assert torch.equal(batch[name], expected[name])


def test_max_length_must_leave_room_for_text() -> None:
    with pytest.raises(DataError, match=r"data\.max_length: 4 is below 5.*raise it to at least 5"):
        encode(Examples((["a"], ["b"]), [0]), word_tokenizer(), 4)
    assert encode(Examples((["a"], ["b"]), [0]), word_tokenizer(), 5).lengths.tolist() == [5]


def test_max_length_above_the_models_limit_is_an_error_only_where_it_matters() -> None:
    tokenizer = word_tokenizer(model_max_length=6)
    assert len(encode(Examples((["a b c d"],), [0]), tokenizer, 64)) == 1
    with pytest.raises(DataError, match=r"data\.max_length: 64 is above 6\b.*\b7 tokens"):
        encode(Examples((["a b c d e"],), [0]), tokenizer, 64)


def test_an_example_without_tokens_is_named() -> None:
    with pytest.raises(DataError, match="example 2: its text gives no tokens"):
        encode(Examples((["a", " ", "b"],), [0, 1, 0]), word_tokenizer(special=False), 8)
