"""The best continuations of a source, against all of them ranked at once."""

from __future__ import annotations

import pytest
import torch

from dora_cli.evaluation.no_repeat import forbid_repeats
from dora_cli.evaluation.search.choosing import FAR, Beams, Greedy
from tests.evaluation.test_no_repeat import forbidden

CPU = torch.device("cpu")
SOURCES, BEAMS, ROOM, NGRAM = 3, 4, 20, 2


def beams_of(stops: list[int]) -> Beams:
    choice = Beams(SOURCES, beams=BEAMS, room=ROOM, length_penalty=1.0, stops=stops, no_repeat_ngram=NGRAM, device=CPU)
    choice.begin()
    return choice


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("vocabulary", "stops"), [(40, [0]), (9, [0]), (9, [0, 5]), (2000, [7])])
def test_they_are_those_of_all_sums_to_the_last_bit(vocabulary: int, stops: list[int], dtype: torch.dtype) -> None:
    """Log probabilities of the whole vocabulary in fp32, those of forbidden tokens at minus infinity, and the sums of
    their beams; also where a row has fewer tokens than are ranked. In bf16 many are equal.
    """
    choice, draw = beams_of(stops), torch.Generator().manual_seed(vocabulary)
    banned = 0
    for _ in range(ROOM - 1):
        logits = (torch.randn(SOURCES * BEAMS, vocabulary, generator=draw) * 3).to(dtype)
        written = int(choice.written)
        scores = logits.float().log_softmax(dim=-1)
        for row, tokens in zip(scores, choice.tokens[:, :written].tolist(), strict=True):
            ids = sorted(forbidden(tokens, NGRAM))
            row[ids] = -torch.inf
            banned += len(ids)
        sums = (scores.view(SOURCES, BEAMS, -1) + choice._scores[:, :, None]).flatten(1)
        best, beams, ids = choice._ranked_best(logits.clone())
        assert best.equal(sums.topk(best.shape[1])[0])
        assert sums.gather(1, beams * vocabulary + ids).equal(best)
        assert all(len(set(pairs)) == len(pairs) for pairs in (beams * vocabulary + ids).tolist())
        choice.choose(logits)
    assert banned > 0 or vocabulary == 2000


def test_a_source_starts_with_one_beam_that_counts() -> None:
    """All of its beams have read the same: the others would choose the same tokens again."""
    choice = beams_of([0])
    logits = torch.randn(SOURCES, 30, generator=torch.Generator().manual_seed(0)).repeat_interleave(BEAMS, dim=0)
    best, beams, ids = choice._ranked_best(logits.clone())
    assert (best > FAR / 2).all()
    assert not beams.any()
    assert ids.equal(logits[::BEAMS].topk(2 * BEAMS)[1])


def test_the_likeliest_token_that_is_not_forbidden() -> None:
    choice = Greedy(2, room=6, stops=[0], no_repeat_ngram=1, device=CPU)
    choice.begin()
    logits = torch.tensor([[0.0, 3.0, 2.0, 1.0], [0.0, 1.0, 2.0, 3.0]], dtype=torch.bfloat16)
    found = [choice.choose(logits.clone())[0].tolist() for _ in range(4)]
    assert found == [[1, 3], [2, 2], [3, 1], [0, 0]]
    assert choice.done


def test_n_grams_are_forbidden_in_place_and_nothing_else_changes() -> None:
    scores = torch.arange(12.0).view(2, 6)
    changed = forbid_repeats(scores, torch.tensor([[1, 2, 1, 4], [1, 2, 3, 4]]), 3, 2)
    assert changed is scores
    assert scores.tolist() == [[0, 1, -torch.inf, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
