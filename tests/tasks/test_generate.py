from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from dora_cli.data.pairs import IGNORED
from dora_cli.recipe import DecodeSection, parse_recipe
from dora_cli.recipe.methods import lora
from dora_cli.tasks import get_task
from dora_cli.tasks.generate import GenerateTask
from tests.tasks.brought.stars_task import STARS, Stars


@pytest.fixture
def e2e() -> GenerateTask:
    task = get_task("e2e")
    assert isinstance(task, GenerateTask)
    return task


def losses_of(
    task: GenerateTask, logits: torch.Tensor, labels: Sequence[Sequence[int]], smoothing: float = 0.0
) -> torch.Tensor:
    outputs, batch = SimpleNamespace(logits=logits), {"labels": torch.tensor(labels)}
    return task.losses(outputs, batch, label_smoothing=smoothing)


def literal_losses(logits: torch.Tensor, labels: Sequence[Sequence[int]], smoothing: float) -> list[list[float]]:
    """``(1 - e) * NLL + e * mean over the vocabulary of -log p``, one token at a time in double precision."""
    losses = []
    for row, row_labels in zip(logits.double().tolist(), labels, strict=True):
        losses.append([])
        for scores, label in zip(row, row_labels, strict=True):
            if label == IGNORED:
                losses[-1].append(0.0)
                continue
            log_sum = math.log(sum(math.exp(score) for score in scores))
            negative = [log_sum - score for score in scores]
            losses[-1].append((1 - smoothing) * negative[label] + smoothing * sum(negative) / len(negative))
    return losses


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_against_a_literal_double_loop(smoothing: float, e2e: GenerateTask) -> None:
    logits = torch.randn(3, 5, 11, generator=torch.Generator().manual_seed(0)) * 3
    labels = [[IGNORED, IGNORED, 4, 0, 10], [IGNORED, 7, 7, IGNORED, IGNORED], [1, 2, 3, 4, 5]]
    losses = losses_of(e2e, logits, labels, smoothing)
    assert losses.shape == (3, 5)
    torch.testing.assert_close(losses, torch.tensor(literal_losses(logits, labels, smoothing)))
    # Nothing of an ignored position reaches the sum, whatever its logits.
    assert losses[0, :2].tolist() == [0.0, 0.0]


def test_ignored_positions_have_no_gradient(e2e: GenerateTask) -> None:
    logits = torch.zeros(1, 3, 4, requires_grad=True)
    losses_of(e2e, logits, [[IGNORED, 2, IGNORED]], 0.1).sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, [0, 2]].abs().max() == 0
    # d/ds of the smoothed loss at equal scores: p - ((1 - e) * onehot + e / V).
    torch.testing.assert_close(logits.grad[0, 1], torch.tensor([0.225, 0.225, -0.675, 0.225]))


def test_losses_of_half_precision_are_fp32(e2e: GenerateTask) -> None:
    # 256 equal logits: log 256 exactly, which bf16 could not hold.
    losses = losses_of(e2e, torch.full((1, 1, 256), 3.0, dtype=torch.bfloat16), [[0]])
    assert losses.dtype == torch.float32
    assert losses.item() == pytest.approx(math.log(256), abs=1e-6)


def test_the_task_e2e_fits_together(e2e: GenerateTask) -> None:
    assert e2e.text_columns == ("meaning_representation", "human_reference")
    assert e2e.splits == {"train": 42061, "validation": 4672, "test": 4693}
    assert [split for split in e2e.splits if e2e.fields.complete(split)] == ["train", "validation"]
    assert e2e.decoded_split in e2e.splits
    assert set(e2e.csv.files) == set(e2e.splits)
    assert e2e.hub.revision == "refs/convert/parquet"
    assert e2e.primary in e2e.epoch_metrics


def test_which_metrics_are_better_lower(e2e: GenerateTask) -> None:
    assert {name for name in e2e.epoch_metrics if e2e.lower_is_better(name)} == {"loss", "perplexity"}


def test_a_method_that_trains_a_head_alone_is_told_by_what_it_says_of_itself(
    e2e: GenerateTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = parse_recipe("task: e2e\nmodel: {name: builtin:tiny-decoder}\nmethod: {name: lora}")
    assert not e2e.problems(recipe)
    monkeypatch.setattr(lora, "ABOUT", replace(lora.ABOUT, head_only=True))
    (problem,) = e2e.problems(recipe)
    assert problem.startswith("method.name: lora trains a head alone")
    assert problem.endswith("such as dora")


class Telling(Stars):
    """A task of another package that writes texts, and leaves the recipe to the base class."""

    decodes = True


def test_a_task_that_writes_is_given_how() -> None:
    task = Telling(**vars(STARS))
    recipe = parse_recipe("task: film/stars\nmodel: {name: builtin:tiny-decoder}")
    settled, same = task.settle(recipe)
    assert same == task
    assert settled.decode == DecodeSection(split="validation")
    assert task.evaluated_splits(settled) == ("validation",)
    asked = recipe.model_copy(update={"decode": DecodeSection(split="test", beams=3)})
    assert not task.problems(asked)
    settled, _ = task.settle(asked)
    assert settled.decode == asked.decode
    assert task.evaluated_splits(settled) == ("validation", "test")
    assert task.predicted_splits(settled, None) == ("test",)
    silent = recipe.model_copy(update={"decode": DecodeSection(split="none")})
    assert not task.problems(silent)
    assert task.settle(silent)[0].decode == silent.decode
    assert task.evaluated_splits(silent) == ("validation",)
    assert task.predicted_splits(silent, None) == ("validation",)
    wrong = recipe.model_copy(update={"decode": DecodeSection(split="tset")})
    assert ["decode.split" in problem for problem in task.problems(wrong)] == [True]
