"""Against PEFT's AdaLoRA: trained side by side in float64 for 60 steps, and what PEFT does otherwise, point by point.

PEFT's model computes its own loss with its own penalty, is stepped by AdamW, and its `update_and_allocate` is called as
its documentation says. What it does differently, and how the two are brought together:

* the penalty is in the loss of its inner model only: the outer one, made without a task type, leaves it out silently;
* what it divides the scale by asks for gradients, and would train: it is left out of the optimiser;
* that divisor is fp32 unless the model is cast: it is cast here;
* masked vectors count in the penalty to the end, as in the authors' code: `compact` is off here;
* it knows neither the step nor how many there are: it is told both, and exactly `total_step - tfinal` must be among
  them;
* its threshold takes all scores equal to it: no two are equal in this run, and the last test has those that are.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from tests.methods.adalora.running import Run, new_adalora, token_batches
from tests.methods.small import linear_maps, tiny_roberta

STEPS, WARMUP, FREEZE, START_RANK, RANK, ALPHA, WEIGHT = 60, 9, 30, 5, 2, 8.0, 0.4
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 0.01
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def peft_model(**changes: Any) -> nn.Module:
    from peft import AdaLoraConfig, get_peft_model

    model = tiny_roberta()
    settings: dict[str, Any] = {
        "init_r": START_RANK,
        "target_r": RANK,
        "tinit": WARMUP,
        "tfinal": STEPS - FREEZE,
        "deltaT": 4,
        "total_step": STEPS,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "orth_reg_weight": WEIGHT,
        "target_modules": list(linear_maps(model, "roberta.encoder")),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that r and lora_alpha mean something else here
        return get_peft_model(model, AdaLoraConfig(**(settings | changes))).double()


def factors_of(model: nn.Module, name: str) -> dict[str, nn.Parameter]:
    layer = model.base_model.model.get_submodule(name)
    return {"A": layer.lora_A["default"], "B": layer.lora_B["default"], "c": layer.lora_E["default"]}


def ours(interval: int) -> Run:
    method = new_adalora(
        rank=RANK,
        start_rank=START_RANK,
        alpha=ALPHA,
        prune_interval=interval,
        orthogonality_weight=WEIGHT,
        compact=False,
    )
    return Run(
        tiny_roberta(),
        method,
        total_steps=STEPS,
        batches=token_batches(),
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        lr_warmup=0,
    )


def test_adalora_equals_pefts() -> None:
    run, peft = ours(4), peft_model(deltaT=4)
    names = run.names()
    with torch.no_grad():
        for name in names:
            for key, factor in factors_of(peft, name).items():
                factor.copy_(run.state(f"{name}.{key}").view(factor.shape))
    head = [p.requires_grad_() for name, p in peft.named_parameters() if "classifier" in name]
    trained = [*(factor for name in names for factor in factors_of(peft, name).values()), *head]
    optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=WEIGHT_DECAY, eps=1e-8)
    keeps: dict[int, torch.Tensor] = {}
    losses = []
    for step in range(1, STEPS + 1):
        run.step(step)
        loss = peft.base_model(**run.batches[step % len(run.batches)]).loss
        losses.append(float(loss.detach()))
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (STEPS - step + 1) / STEPS
        optimizer.step()
        peft.base_model.update_and_allocate(step)
        optimizer.zero_grad()
        if run.schedule.is_event(step):
            keeps[step] = torch.stack([factors_of(peft, name)["c"].detach().view(-1) != 0 for name in names])

    assert keeps.keys() == run.keeps.keys()
    for step, keep in run.keeps.items():
        assert torch.equal(keep, keeps[step]), f"keep sets differ at step {step}"
    found = [loss + float(penalty or 0) for loss, penalty in zip(run.losses, run.penalties, strict=True)]
    torch.testing.assert_close(found, losses, rtol=0, atol=1e-9)
    state = run.method.state_dict()
    for name in names:
        for key, wanted in factors_of(peft, name).items():
            torch.testing.assert_close(state[f"{name}.{key}"], wanted.detach().view_as(state[f"{name}.{key}"]),
                                       rtol=0, atol=1e-9)  # fmt: skip
        layer = peft.base_model.model.get_submodule(name)
        torch.testing.assert_close(
            run.model.get_submodule(name).delta(torch.float64),
            layer.get_delta_weight("default").detach(),
            rtol=0,
            atol=1e-9,
        )
    pattern = peft.peft_config["default"].rank_pattern
    assert [sum(kept) for kept in pattern.values()] == run.keeps[FREEZE].sum(1).tolist()


def test_pefts_threshold_overshoots_where_scores_are_equal() -> None:
    """Gradients of zero make all scores equal: PEFT masks everything, we what the budget says."""
    peft = peft_model(deltaT=1)
    for parameter in peft.parameters():
        parameter.grad = torch.zeros_like(parameter)
    names = list(linear_maps(tiny_roberta(), "roberta.encoder"))
    with torch.no_grad():
        for name in names:
            factors_of(peft, name)["c"].fill_(1.0)
    peft.base_model.update_and_allocate(WARMUP + 1)
    assert not any(factors_of(peft, name)["c"].any() for name in names)

    run = ours(1)
    method = run.method
    for parameter in method.parameters():
        parameter.grad = torch.zeros_like(parameter)
    method.begin_step(WARMUP + 1, 0.0)
    method.observe()
    report = method.advance(WARMUP + 1)
    assert report.live == report.budget == int(run.state("keep").sum()) == run.schedule.budget(WARMUP + 1)


def test_pefts_outer_model_leaves_the_penalty_out_and_its_divisor_asks_for_gradients() -> None:
    peft, (batch, *_) = peft_model(), token_batches()
    inner, outer = peft.base_model(**batch).loss, peft(**batch).loss
    assert (
        float((inner - outer).detach()) > 0.5 * WEIGHT
    )  # factors near zero: the norm of the identity, sqrt(5), times the weight
    layer = peft.base_model.model.get_submodule(next(iter(linear_maps(tiny_roberta(), "roberta.encoder"))))
    assert layer.ranknum["default"].requires_grad


def test_pefts_freeze_must_be_hit_to_the_step() -> None:
    """A loop that steps over it fails after it."""
    peft = peft_model(tinit=FREEZE - 1, deltaT=1_000)  # without a mask before it
    for parameter in peft.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with pytest.raises(AttributeError):
        peft.base_model.update_and_allocate(FREEZE + 1)
