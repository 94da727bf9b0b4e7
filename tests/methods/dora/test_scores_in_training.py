"""Scores, and what rotations follow, through whole optimiser steps: accumulation, padding, skipped steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from dora_cli.methods import Dora
from dora_cli.training.optimizer import make_optimizer, make_scheduler
from dora_cli.training.step import TrainingStep
from tests.methods.small import linear_maps, new_dora, sites, tiny_roberta

TOTAL = 20  # W = 3, events after 7 and 10
Batch = Mapping[str, torch.Tensor]

KINDS = {
    "published": {"score": "published"},
    "norm": {"score": "norm"},
    "output": {"score": "output"},
    "taylor": {"score": "taylor"},
    "fisher": {"score": "fisher"},
    "kfac": {"score": "kfac"},
    "taylor, gates fixed": {"score": "taylor", "gates": "fixed"},
    "fisher, gates fixed": {"score": "fisher", "gates": "fixed"},
    "inputs of a rotation": {"rotate": "input"},
    "refit": {"score": "norm", "gates": "fixed", "refit": True},
}
EVERY = pytest.mark.parametrize("kind", KINDS)


class _Accelerator:
    device, num_processes, mixed_precision, scaler = torch.device("cpu"), 1, "no", None

    def autocast(self, handler: Any) -> Any:
        return torch.autocast("cpu", enabled=False)


def started(kind: str) -> tuple[TrainingStep, Dora]:
    """A step of a model in float64, whose scores are neither zero nor alike."""
    model = tiny_roberta().train()
    model.requires_grad_(False)
    head = [parameter.requires_grad_() for parameter in model.classifier.parameters()]
    method = new_dora(**{"rank": 2, "start_rank": 4, "dropout": 0.0, "start": "lora", "events": 2} | KINDS[kind])
    places = sites(linear_maps(model, "encoder.layer"))
    method.attach(model, places, head, method.plan(TOTAL, places), seed=3)
    optimizer = make_optimizer(method, learning_rate=1e-2, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8)
    step = TrainingStep(
        model=model,
        method=method,
        loss=lambda outputs, batch: nn.functional.cross_entropy(outputs.logits, batch["labels"], reduction="none"),
        optimizer=optimizer,
        scheduler=make_scheduler(optimizer, warmup_steps=0, total_steps=TOTAL),
        accelerator=_Accelerator(),  # type: ignore[arg-type]
        max_grad_norm=1.0,
        skip_nonfinite=5,
    )
    return step, method


def batch(seed: int, examples: int = 6, width: int = 9) -> dict[str, torch.Tensor]:
    """Texts of 3 and more tokens, filled up with what is no text."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, width + 1, (examples, 1), generator=generator)
    return {
        "input_ids": torch.randint(5, 40, (examples, width), generator=generator),
        "attention_mask": (torch.arange(width) < lengths).long(),
        "labels": torch.randint(3, (examples,), generator=generator),
    }


def padded(one: Batch, by: int = 6) -> dict[str, torch.Tensor]:
    """The same texts, filled up further."""
    examples = len(one["input_ids"])
    more = torch.randint(5, 40, (examples, by), generator=torch.Generator().manual_seed(9))
    none = torch.zeros(examples, by, dtype=torch.long)
    return {
        **one,
        "input_ids": torch.cat([one["input_ids"], more], 1),
        "attention_mask": torch.cat([one["attention_mask"], none], 1),
    }


def rows(one: Batch, first: int, last: int) -> dict[str, torch.Tensor]:
    return {key: value[first:last] for key, value in one.items()}


def followed(method: Dora) -> dict[str, torch.Tensor]:
    """All that is averaged over steps."""
    kept = {"scores": method.state_dict()["scores"], **method.training_state()}
    return {key: value.clone() for key, value in kept.items()}


def run(kind: str, steps: Sequence[Sequence[Batch]]) -> dict[str, torch.Tensor]:
    step, method = started(kind)
    for number, parts in enumerate(steps, 1):
        step(number, parts, sum(len(part["labels"]) for part in parts), event=False)
    found = followed(method)
    moving = found["scores"] if "rotate" not in KINDS[kind] else found["second_moments.0"]
    assert moving.any(), "there is something to compare"
    return found


def assert_alike(one: Mapping[str, torch.Tensor], two: Mapping[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(value, two[key], rtol=1e-9, atol=1e-9 * float(value.abs().max()), msg=key)


WHOLE = [batch(seed) for seed in range(4)]


@EVERY
def test_accumulated_micro_batches_are_one_batch(kind: str) -> None:
    parts = [[rows(one, 0, 2), rows(one, 2, 6)] for one in WHOLE]
    assert_alike(run(kind, parts), run(kind, [[one] for one in WHOLE]))


@EVERY
def test_padding_changes_nothing(kind: str) -> None:
    assert_alike(run(kind, [[padded(one)] for one in WHOLE]), run(kind, [[one] for one in WHOLE]))


@EVERY
def test_a_skipped_step_changes_nothing(kind: str) -> None:
    """Nor does it leave anything behind in the sums of a step."""
    step, method = started(kind)
    loss = step.loss
    for number, one in enumerate(WHOLE, 1):
        bad = number == 3
        step.loss = (lambda outputs, batch: loss(outputs, batch) * math.nan) if bad else loss
        before = followed(method)
        step(number, [one], len(one["labels"]), event=False)
        after = followed(method)
        unchanged = all(torch.equal(before[key], after[key]) for key in before)
        if number > 1:  # at the first step some scores are 0, as B is
            assert unchanged == bad
        assert all(bool(value.isfinite().all()) for value in after.values())
