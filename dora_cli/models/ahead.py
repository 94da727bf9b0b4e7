"""Kernels of a pass compiled side by side before the first one, which would compile one after the other."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import torch
from torch import nn

from dora_cli.machine.random_state import random_state, restore_random_state
from dora_cli.machine.threads import own_cores
from dora_cli.methods import takes_triton

MOST_THREADS = 16
"""Kernels that are compiled at a time; a step has about that many."""

_compiled: set[Hashable] = set()
"""What this process has compiled ahead, which Triton keeps: its later runs of the same kind need not."""


def compile_ahead(
    work: Callable[[], None],
    kind: Hashable,
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    zero: Iterable[torch.Tensor],
) -> None:
    """Has the kernels compiled that the pass `work` launches, forward or backward too, where Triton launches them and
    compiles side by side; nothing where this process has done so before for the same `kind`.

    Args:
        work: adds to the gradients of `parameters`, if they have any, and to `zero`; all of that is zero before.
        model: what it passes through, on one device.
    """
    if kind in _compiled or not takes_triton(next(model.parameters()).device):
        return
    from dora_cli.methods.triton_launch import announced, can_announce

    if can_announce():
        threads = min(MOST_THREADS, own_cores())
        with ThreadPoolExecutor(threads, "dora", torch.cuda.set_device, (torch.cuda.current_device(),)) as pool:
            pass_in_vain(work, model, parameters, zero, announced(pool))
    _compiled.add(kind)


def pass_in_vain(
    work: Callable[[], None],
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    zero: Iterable[torch.Tensor],
    announced: AbstractContextManager[None],
) -> None:
    """Does `work` within `announced`, where what it computes is worth nothing, and leaves gradients, `zero`, buffers
    and random states as they were, also where it fails.

    Args:
        work, model, parameters, zero: see `compile_ahead`.
        announced: around the pass, which is in the thread that calls this.
    """
    device = next(model.parameters()).device
    unreached = [parameter for parameter in parameters if parameter.grad is None]
    buffers = [(buffer, buffer._version, buffer.clone()) for buffer in model.buffers()]
    random = random_state(device)
    try:
        with announced, torch.autograd.set_multithreading_enabled(False):
            work()
    finally:
        for parameter in unreached:
            parameter.grad = None
        for tensor in [*(parameter.grad for parameter in parameters if parameter.grad is not None), *zero]:
            tensor.zero_()
        for buffer, version, before in buffers:
            if buffer._version != version:
                buffer.copy_(before)
        restore_random_state(random, device)
