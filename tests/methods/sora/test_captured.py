"""Steps as CUDA graphs: the threshold of every stage reaches them, and so do the gates' own rate and the end."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from dora_cli.machine.devices import make_accelerator
from dora_cli.models import find_projections
from dora_cli.training.optimizer import make_optimizer, make_scheduler
from dora_cli.training.step import TrainingStep
from tests.methods.small import new_sora, tiny_roberta

STEPS = 60


def trained(*, graph: bool, threshold: str) -> tuple[list[int], dict[str, torch.Tensor]]:
    """How many gates lived after every event, and what was left in the end."""
    device = torch.device("cuda")
    model = tiny_roberta(dtype=torch.float32).to(device).train().requires_grad_(False)
    method = new_sora(
        rank=5,
        threshold=threshold,
        gate_penalty=0.3,
        gate_threshold=0.0,
        gate_learning_rate_ratio=2.0,
        max_gate_threshold=0.02,
        threshold_stages=3,
        first_stage_fraction=0.5,
    )
    head = list(model.classifier.requires_grad_(True).parameters())
    places = find_projections(model)
    schedule = method.plan(STEPS, places)
    method.attach(model, places, head, schedule, seed=1)
    optimizer = make_optimizer(method, learning_rate=5e-3, weight_decay=0.1, betas=(0.9, 0.999), eps=1e-8)
    step = TrainingStep(
        model=model,
        method=method,
        loss=lambda outputs, batch: F.cross_entropy(outputs.logits.float(), batch["labels"], reduction="none"),
        optimizer=optimizer,
        scheduler=make_scheduler(optimizer, warmup_steps=6, total_steps=STEPS, restarts=schedule.restarts),
        accelerator=make_accelerator(device, "fp32"),
        max_grad_norm=1.0,
        cuda_graph=graph,
    )
    ids = torch.randint(3, 40, (8, 6), generator=torch.Generator().manual_seed(4)).to(device)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % 3}
    live = []
    for number in range(1, STEPS + 1):
        report = step(number, [batch], 8, event=schedule.is_event(number))
        if report.event:
            live.append(report.live)
    return live, {name: value.cpu() for name, value in method.state_dict().items()}


@pytest.mark.gpu
@pytest.mark.parametrize("threshold", ["soft", "official"])
def test_captured_steps_are_the_eager_ones(threshold: str) -> None:
    (eager, expected), (captured, found) = (trained(graph=graph, threshold=threshold) for graph in (False, True))
    assert captured == eager
    assert eager[0] == 60 > 45 > eager[-1] > 0, "no gate is zero without a threshold, many are in the end"
    assert found.keys() == expected.keys()
    assert torch.equal(found["keep"], expected["keep"])
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-4)
