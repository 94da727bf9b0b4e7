"""The optimiser over the adapters and the head; what becomes of its moments when tensors shrink, and in checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from dora_cli.errors import CheckpointError
from dora_cli.methods.base import Method, Replacement

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of a parameter."""


RATE = "rate"
"""The key of a parameter group that holds its factor on the learning rate, which the step applies."""


def make_optimizer(
    method: Method, *, learning_rate: float, weight_decay: float, betas: tuple[float, float], eps: float
) -> torch.optim.Optimizer:
    """The method's optimiser over all that trains, the head included.

    Weight decay falls on every tensor whose group does not say otherwise: on gates too, as in the published code.
    """
    groups = [
        {
            "params": list(group.parameters),
            "lr": learning_rate,
            RATE: group.rate,
            "weight_decay": weight_decay if group.weight_decay is None else group.weight_decay,
            "betas": betas,
            "eps": eps,
        }
        for group in method.groups()
    ]
    return method.make_optimizer(groups)


def make_scheduler(optimizer: torch.optim.Optimizer, *, warmup_steps: int, total_steps: int) -> LambdaLR:
    """Linear warm-up from zero, then linear decay to zero; stepped once per optimiser step.

    The same as transformers' ``get_linear_schedule_with_warmup``, which brings half of its Trainer, and PEFT, with it.
    """
    return LambdaLR(optimizer, partial(_linear, warmup_steps=warmup_steps, total_steps=total_steps))


def _linear(step: int, *, warmup_steps: int, total_steps: int) -> float:
    """Share of the learning rate after `step` steps."""
    if step < warmup_steps:
        return step / warmup_steps
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))


def parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """All that `optimizer` trains, in its order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def shrink(optimizer: torch.optim.Optimizer, replaced: Sequence[Replacement]) -> None:
    """Puts shrunken parameters in the place of the old ones and slices their moments alike; forgets parameters that are
    gone.

    What an optimiser keeps in another shape than the parameter's (Adafactor's rows and columns) cannot be sliced; it
    starts anew.
    """
    by_old = {id(item.old): item for item in replaced}
    for group in optimizer.param_groups:
        kept = []
        for parameter in group["params"]:
            item = by_old.get(id(parameter))
            if item is None:
                kept.append(parameter)
                continue
            state = optimizer.state.pop(parameter, {})
            if item.new is None:
                continue
            kept.append(item.new)
            # a step counter is a scalar
            tensors = {key: value for key, value in state.items() if torch.is_tensor(value) and value.ndim}
            if state and all(value.shape == parameter.shape for value in tensors.values()):
                # In the storage order of the parameter, which fused kernels take for granted.
                sliced = {
                    key: torch.empty_like(item.new, dtype=value.dtype).copy_(
                        value.index_select(item.dimension, item.kept)
                    )
                    for key, value in tensors.items()
                }
                optimizer.state[item.new] = {**state, **sliced}
        group["params"] = kept


def moments_of(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """What `optimizer` keeps of its parameters, by ``INDEX.KEY``."""
    return {
        f"{index}.{key}": value
        for index, parameter in enumerate(parameters_of(optimizer))
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_moments(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Restores what `moments_of` gave, on parameters of the same shapes. Raises CheckpointError on the first misfit."""
    parameters = parameters_of(optimizer)
    known = [{key: f"{index}.{key}" for key in _MOMENTS} for index in range(len(parameters))]
    if unknown := set(tensors) - {name for names in known for name in names.values()}:
        raise CheckpointError(
            f"optimiser tensor {min(unknown)} is in the checkpoint, but this model and recipe have no place for it"
        )
    for index, (parameter, names) in enumerate(zip(parameters, known, strict=True)):
        if not any(name in tensors for name in names.values()):
            continue  # a parameter that no gradient has reached yet
        if missing := [name for name in names.values() if name not in tensors]:
            raise CheckpointError(f"optimiser tensor {missing[0]} is missing from the checkpoint; it is damaged")
        state = {key: tensors[name] for key, name in names.items()}
        _check_moments(index, parameter, state)
        optimizer.state[parameter] = {
            # In the storage order of the parameter, which fused kernels take for granted.
            key: value.to(parameter.device, copy=True) if key == "step" else torch.empty_like(parameter).copy_(value)
            for key, value in state.items()
        }


def _check_moments(index: int, parameter: nn.Parameter, state: Mapping[str, torch.Tensor]) -> None:
    for key, value in state.items():
        shape = () if key == "step" else parameter.shape
        if value.shape != shape or value.dtype != torch.float32:
            raise CheckpointError(
                f"optimiser tensor {index}.{key} is {value.dtype} {tuple(value.shape)} in the checkpoint; "
                f"this model and recipe need torch.float32 {tuple(shape)}"
            )
    finite = all(bool(value.isfinite().all()) for value in state.values())
    if not finite or float(state["step"]) < 0 or bool((state["exp_avg_sq"] < 0).any()):
        raise CheckpointError(
            f"optimiser tensors {index}.* hold values that no training leaves (not finite, or below 0); the "
            "checkpoint is damaged, use another one of the run"
        )
