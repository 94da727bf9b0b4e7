from __future__ import annotations

import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from dora_cli.training.optimizer import make_scheduler


@pytest.mark.parametrize(("warmup_steps", "total_steps"), [(0, 7), (3, 10), (4, 5), (0, 1), (10, 10)])
def test_the_learning_rate_is_that_of_transformers(warmup_steps: int, total_steps: int) -> None:
    def rates(schedule: object) -> list[float]:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
        scheduler = schedule(optimizer)  # type: ignore[operator]
        seen = []
        for _ in range(total_steps + 2):
            seen.append(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
        return seen

    ours = rates(lambda optimizer: make_scheduler(optimizer, warmup_steps=warmup_steps, total_steps=total_steps))
    assert ours == rates(lambda optimizer: get_linear_schedule_with_warmup(optimizer, warmup_steps, total_steps))
    assert max(ours) > 0.0
