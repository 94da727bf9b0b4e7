"""AdamW over the adapters and the head, and what happens to its moments when tensors shrink."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from dora_cli.methods.base import Replacement


def make_optimizer(
    parameters: Iterable[nn.Parameter],
    *,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
) -> torch.optim.AdamW:
    """Fused AdamW, one group: weight decay falls on every trainable tensor, gates included, as in the
    published code.
    """
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, betas=betas, eps=eps, fused=True)


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
