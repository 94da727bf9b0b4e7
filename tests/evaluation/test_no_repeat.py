"""The n-gram processor against a literal loop."""

from __future__ import annotations

import pytest
import torch

from dora_cli.evaluation.no_repeat import NoRepeatNgram, forbid_repeats

INF = float("inf")


def forbidden(generated: list[int], size: int) -> set[int]:
    """Tokens after which the last `size` tokens would stand in `generated` already."""
    seen = {tuple(generated[i : i + size]) for i in range(len(generated) - size + 1)}
    begun = tuple(generated[len(generated) - size + 1 :])
    return {ngram[-1] for ngram in seen if ngram[:-1] == begun}


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("vocabulary", [2, 3, 5])
def test_it_forbids_what_the_loop_forbids(size: int, vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(size * 10 + vocabulary)
    prompt, count = 5, 0
    for length in range(24):
        ids = torch.randint(vocabulary, (20, prompt + length), generator=generator)
        scores = torch.randn(20, vocabulary, generator=generator)
        before = scores.clone()
        found = NoRepeatNgram(size, prompt)(ids, scores)
        assert scores.equal(before)
        for row, old, new in zip(ids[:, prompt:].tolist(), before, found, strict=True):
            banned = forbidden(row, size)
            count += len(banned)
            assert new.tolist() == [-INF if token in banned else value for token, value in enumerate(old.tolist())]
    assert count > 20, "random rows that hardly repeat show nothing"


def test_n_grams_of_the_prompt_stay_free() -> None:
    name = [11, 12, 13, 14, 15]
    scores = torch.zeros(1, 20)
    process = NoRepeatNgram(4, prompt_length=7)
    # copying the name out of the prompt, token by token
    for copied in range(5):
        assert process(torch.tensor([[3, *name, 4, *name[:copied]]]), scores).equal(scores)
    # a second copy breaks off where its fourth token would follow
    twice = process(torch.tensor([[3, *name, 4, *name, 9, *name[:3]]]), scores)
    assert twice.isinf().nonzero().tolist() == [[0, 14]]


def test_a_token_that_ends_matching_and_other_windows_is_forbidden() -> None:
    """5 follows (1, 2) and later (3, 4): the window that does not match must not free it again,
    whichever comes last.
    """
    for row in ([1, 2, 5, 3, 4, 5, 1, 2], [3, 4, 5, 1, 2, 5, 1, 2]):
        assert NoRepeatNgram(3, 0)(torch.tensor([row]), torch.zeros(1, 8)).isinf().nonzero().tolist() == [[0, 5]]


def test_half_precision_scores_keep_their_type() -> None:
    found = NoRepeatNgram(1, 0)(torch.tensor([[2, 1]]), torch.ones(1, 4, dtype=torch.bfloat16))
    assert found.dtype == torch.bfloat16
    assert found.tolist() == [[1, -INF, -INF, 1]]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_what_stands_behind_the_written_tokens_is_of_no_account(size: int) -> None:
    """With room for more than is written, as the search calls it, and the number on the device."""
    generator = torch.Generator().manual_seed(size)
    ids, scores = torch.randint(3, (20, 16), generator=generator), torch.randn(20, 3, generator=generator)
    for written in range(17):
        expected = NoRepeatNgram(size, 0)(ids[:, :written], scores)
        assert torch.equal(forbid_repeats(scores, ids, torch.tensor(written), size), expected)
