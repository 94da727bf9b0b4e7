from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import get_linear_schedule_with_warmup

from dora_cli.errors import CheckpointError
from dora_cli.methods.base import Group, Method, Replacement, StepReport
from dora_cli.training.optimizer import (
    RATE,
    Unless,
    follow,
    load_moments,
    make_capturable,
    make_optimizer,
    make_scheduler,
    moments_of,
    parameters_of,
    rates_on_device,
)

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


# -- what a report changes ---------------------------------------------------------------------------------------------


class Parts(Method):
    """Trains whatever parameters it is told to."""

    name = "parts"

    def __init__(self, *parameters: nn.Parameter) -> None:
        self.trained = list(parameters)
        self.attach(nn.Module(), [])

    def groups(self) -> list[Group]:
        return [Group([parameter], rate=1.0 + index) for index, parameter in enumerate(self.trained)]


def stepped(method: Method) -> torch.optim.Optimizer:
    """Its AdamW after one step of gradients that are all 1."""
    optimizer = make_optimizer(method, learning_rate=0.1, weight_decay=0.3, betas=(0.9, 0.999), eps=1e-8)
    for parameter in parameters_of(optimizer):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


def report(**changes: Any) -> StepReport:
    return StepReport("training", 0, 0, **changes)


@pytest.mark.parametrize("dimension", [0, 1])
def test_a_parameter_that_grows_keeps_its_moments_and_begins_at_zero_where_it_is_new(dimension: int) -> None:
    old = nn.Parameter(torch.zeros(2, 3))
    method = Parts(old)
    optimizer = stepped(method)
    moments = optimizer.state[old]["exp_avg"].clone()
    added = torch.zeros(2, 2) if dimension else torch.zeros(2, 3)
    new = nn.Parameter(torch.cat([old.detach(), added], dimension))
    kept = torch.arange(old.shape[dimension])
    method.trained = [new]
    follow(optimizer, method, report(replaced=[Replacement(old, new, dimension, kept)]))
    assert parameters_of(optimizer) == [new]
    assert old not in optimizer.state
    assert torch.equal(optimizer.state[new]["exp_avg"], torch.cat([moments, added], dimension))
    assert float(optimizer.state[new]["step"]) == 1


def test_moments_start_anew_where_the_report_says_so() -> None:
    one, two = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    method = Parts(one, two)
    optimizer = stepped(method)
    follow(optimizer, method, report(restarted=[one]))
    assert one not in optimizer.state
    assert two in optimizer.state


@pytest.mark.parametrize("captured", [False, True])
def test_parameters_begin_and_cease_to_train_in_the_order_of_the_groups(captured: bool) -> None:
    """The order is that of a new optimiser over the same groups, which is what a resumed run makes."""
    one, two, three = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    method = Parts(one, two)
    optimizer = stepped(method)
    if captured:
        rates_on_device(optimizer, torch.device("cpu"))
        make_capturable(optimizer)
    kept = optimizer.state[two]
    for trained in ([two], [two, three, one]):
        method.trained = trained
        follow(optimizer, method, report(regrouped=True))
        fresh = make_optimizer(method, learning_rate=0.1, weight_decay=0.3, betas=(0.9, 0.999), eps=1e-8)
        assert parameters_of(optimizer) == parameters_of(fresh) == trained
        for mine, theirs in zip(optimizer.param_groups, fresh.param_groups, strict=True):
            assert mine.keys() == theirs.keys()
            assert (mine[RATE], mine["weight_decay"]) == (theirs[RATE], theirs["weight_decay"])
        assert optimizer.state[two] is kept
        assert one not in optimizer.state  # it ceased to train once
    rates = [group["lr"] for group in optimizer.param_groups]
    assert all(torch.is_tensor(rate) == captured for rate in rates)
    assert len({id(rate) for rate in rates}) == (3 if captured else len({id(rate) for rate in rates}))


def test_the_learning_rate_starts_anew_with_its_share_of_the_warm_up() -> None:
    """20 steps with 4 of warm-up, anew after 5: parts of 5 and 15 steps with 1 and 3 of them."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make_scheduler(optimizer, warmup_steps=4, total_steps=20, restarts=[5]).lr_lambdas[0]

    def part(steps: int, warmup: int) -> list[float]:
        alone = make_scheduler(optimizer, warmup_steps=warmup, total_steps=steps).lr_lambdas[0]
        return [alone(step) for step in range(steps)]

    assert [schedule(step) for step in range(20)] == [*part(5, 1), *part(15, 3)]
    assert schedule(20) == 0
