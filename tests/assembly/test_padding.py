"""The tokens of a run, known beforehand, against those of the batches that its processes see."""

from __future__ import annotations

import numpy as np
import pytest

from dora_cli.assembly.length import RunLength
from dora_cli.assembly.padding import tokens_of_epoch, tokens_of_evaluation
from dora_cli.data import Examples, encode, plan_epoch
from dora_cli.data.cuts import UNCUT, Cuts, cut_batches, deal
from dora_cli.data.padding import TokenCount
from dora_cli.recipe import parse_recipe
from tests.data.words import word_tokenizer

RECIPE = """
task: glue/sst2
model: {name: "builtin:tiny-encoder"}
data: {source: builtin}
method: {name: lora}
train: {epochs: 3, batch_size: 4, gradient_accumulation: 2}
"""
RNG = np.random.default_rng(1)
TEXTS = [" ".join("a" for _ in range(length)) for length in RNG.integers(1, 30, 50)]
SPLIT = encode(Examples((TEXTS,), [0] * len(TEXTS)), word_tokenizer(types=False), 32)


def counted(batches: list[np.ndarray]) -> TokenCount:
    found = TokenCount()
    for rows in batches:
        mask = SPLIT.collate(rows)["attention_mask"]
        found += TokenCount(int(mask.sum()), mask.numel())
    return found


@pytest.mark.parametrize("cuts", [UNCUT, Cuts(3, 2), Cuts(3, 2, dealt=True)])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("processes", [1, 3])
def test_an_epoch_holds_what_all_processes_see(processes: int, grouped: bool, cuts: Cuts) -> None:
    recipe = parse_recipe(RECIPE, overrides=[f"data.group_by_length={str(grouped).lower()}", "train.max_steps=7"])
    length = RunLength.of(recipe, len(SPLIT), processes)
    for epoch in range(1, length.epochs + 1):
        seen = []
        for rank in range(processes):
            together = processes if cuts.dealt else 1
            groups = plan_epoch(
                SPLIT.lengths, SPLIT.units, seed=recipe.train.seed, epoch=epoch, micro_batch=4 * together,
                accumulation=2, processes=processes // together, rank=rank % (processes // together),
                group_by_length=grouped,
            )  # fmt: skip
            if cuts.dealt:
                groups = deal(SPLIT, groups, cuts, processes, rank)
            of_epoch = list(groups)[: length.steps_in(epoch)]
            seen += [part for group in of_epoch for part in cut_batches(SPLIT, group.micro_batches, cuts)]
        assert tokens_of_epoch(recipe, SPLIT, length, epoch, cuts) == counted(seen)
    assert length.steps_in(length.epochs) == (7 if processes == 1 else 1)


def test_an_evaluation_is_by_length() -> None:
    order = np.argsort(SPLIT.lengths, kind="stable")[::-1]
    batches = [order[start : start + 16] for start in range(0, 50, 16)]
    once = counted(batches)
    assert tokens_of_evaluation({"one": SPLIT}, 16) == once
    assert tokens_of_evaluation({"one": SPLIT, "two": SPLIT}, 16) == once + once
