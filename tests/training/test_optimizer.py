from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import get_linear_schedule_with_warmup

from dora_cli.errors import CheckpointError
from dora_cli.training.optimizer import Unless, load_moments, make_scheduler, moments_of

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, fused=True),
    "AdamW, one by one": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, fused=False, foreach=False),
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "SGD with momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "fused SGD with momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, fused=True),
    "RMSprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.1, momentum=0.9, centered=True),
    "Adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.1),
}
NAN = float("nan")


def trained(
    make: Make, gradients: list[float], *, guarded: bool = True
) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
    """Two parameters after a step per gradient; a step whose gradient is not finite is one that must change nothing."""
    parameters = [nn.Parameter(torch.arange(6.0).view(2, 3)), nn.Parameter(torch.ones(4))]
    optimizer = make(parameters)
    step = Unless(optimizer, torch.device("cpu"))
    for gradient in gradients:
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, gradient) * (1 + torch.arange(parameter.numel())).view_as(
                parameter
            )
        if guarded:
            step(torch.tensor(gradient != gradient))
        else:
            optimizer.step()
    return parameters, optimizer


def everything(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {f"weight {index}": weight.detach() for index, weight in enumerate(parameters)} | moments_of(optimizer)


def assert_same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("gradients", [[1.0, NAN, -2.0], [NAN, 1.0, -2.0], [NAN, NAN, 1.0, NAN, -2.0, NAN]])
def test_a_step_that_is_none_changes_nothing(name: str, gradients: list[float]) -> None:
    """Wherever they stand, first or last: the same as if there had been the others alone."""
    found = everything(*trained(OPTIMIZERS[name], gradients))
    assert_same(found, everything(*trained(OPTIMIZERS[name], [1.0, -2.0], guarded=False)))
    assert all(tensor.isfinite().all() for tensor in found.values())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_whatever_an_optimiser_keeps_is_restored(name: str) -> None:
    make = OPTIMIZERS[name]
    straight = everything(*trained(make, [1.0, -2.0, 0.5]))
    before, optimizer = trained(make, [1.0, -2.0])
    parameters, resumed = trained(make, [])
    with torch.no_grad():
        for parameter, saved in zip(parameters, before, strict=True):
            parameter.copy_(saved)
    load_moments(resumed, moments_of(optimizer))
    for parameter in parameters:
        parameter.grad = 0.5 * (1 + torch.arange(parameter.numel())).view_as(parameter)
    Unless(resumed, torch.device("cpu"))(torch.tensor(False))
    assert_same(everything(parameters, resumed), straight)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"0.momentum_buffer": torch.zeros(3, 2)}, r"0\.momentum_buffer is \(3, 2\).*need \(2, 3\) or a scalar"),
        ({"0.momentum_buffer": torch.full((2, 3), NAN)}, r"0\.\* hold values that no training leaves"),
        ({"2.momentum_buffer": torch.zeros(2, 3)}, r"^optimiser tensor 2\.momentum_buffer .* have no place for it$"),
        ({"-1.momentum_buffer": torch.zeros(2, 3)}, r"^optimiser tensor -1\.momentum_buffer "),
        ({"momentum_buffer": torch.zeros(2, 3)}, r"^optimiser tensor momentum_buffer "),
        ({"00.momentum_buffer": torch.zeros(2, 3)}, r"^optimiser tensor 00\.momentum_buffer "),
    ],
)
def test_what_no_optimiser_has_kept_is_refused(tensors: dict[str, torch.Tensor], says: str) -> None:
    _, optimizer = trained(OPTIMIZERS["SGD with momentum"], [])
    with pytest.raises(CheckpointError, match=says):
        load_moments(optimizer, tensors)
    assert not optimizer.state


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
