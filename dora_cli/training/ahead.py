"""Kernels of training steps compiled side by side before the first step, which would compile one after the other."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn

from dora_cli.machine.threads import own_cores
from dora_cli.methods import triton_obstacle

MOST_THREADS = 16
"""Kernels that are compiled at a time; a step has about that many."""

_compiled: set[Hashable] = set()
"""What this process has compiled ahead, which Triton keeps: its later runs of the same kind need not."""


def compile_ahead(
    work: Callable[[], None], kind: Hashable, parameters: Sequence[nn.Parameter], zero: Iterable[torch.Tensor]
) -> None:
    """Has the kernels compiled that the forward and backward pass `work` launches, where Triton launches them and
    compiles side by side; nothing where this process has done so before for the same `kind`.

    Args:
        work: adds to the gradients of `parameters`, if they have any, and to `zero`; all of that is zero before.
    """
    if kind in _compiled or triton_obstacle() is not None:
        return
    from dora_cli.methods.triton_launch import announced, can_announce

    _compiled.add(kind)
    if can_announce():
        device = torch.cuda.current_device()
        with ThreadPoolExecutor(min(MOST_THREADS, own_cores()), "dora", torch.cuda.set_device, (device,)) as pool:
            pass_in_vain(work, parameters, zero, announced(pool))


def pass_in_vain(
    work: Callable[[], None],
    parameters: Sequence[nn.Parameter],
    zero: Iterable[torch.Tensor],
    announced: AbstractContextManager[None],
) -> None:
    """Does `work` within `announced`, where what it computes is worth nothing, and leaves gradients, `zero` and random
    states as they were.

    Args:
        work, parameters, zero: see `compile_ahead`.
        announced: around the pass, which is in the thread that calls this.
    """
    reached = [parameter for parameter in parameters if parameter.grad is not None]
    known = set(map(id, reached))
    with _random_states_kept(), announced, torch.autograd.set_multithreading_enabled(False):
        work()
    for parameter in parameters:
        if id(parameter) not in known:
            parameter.grad = None
    for tensor in [*(parameter.grad for parameter in reached if parameter.grad is not None), *zero]:
        tensor.zero_()


@contextmanager
def _random_states_kept() -> Iterator[None]:
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices):
        yield
