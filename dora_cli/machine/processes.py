"""What one process decides for all."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from dora_cli.errors import DoraError

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

T = TypeVar("T")

AGREE_EVERY = 10
"""Optimiser steps after which several processes ask each other whether to stop or save.

Alone, a process looks after every step.
"""


def is_main() -> bool:
    """Whether this is the first of several processes, or the only one; known before anything heavy is imported."""
    return os.environ.get("RANK", "0") == "0"


def on_main(accelerator: Accelerator, action: Callable[[], T]) -> T | None:
    """Runs `action` on the main process; an error a user can fix is raised in every process, so that none waits for
    the others.
    """
    result: T | None = None
    failure: list[DoraError | None] = [None]
    if accelerator.is_main_process:
        try:
            result = action()
        except DoraError as error:
            failure[0] = error
    if accelerator.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        broadcast_object_list(failure)
    if failure[0] is not None:
        raise failure[0]
    return result


def any_process(accelerator: Accelerator, value: int) -> int:
    """The largest `value` (0 or more) of all processes, the same in each.

    Several processes wait for one another here.
    """
    if accelerator.num_processes == 1:
        return int(value)
    import torch

    largest = torch.tensor(int(value), device=accelerator.device)
    torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
    return int(largest)


def take_those_of_main(accelerator: Accelerator, tensors: Sequence[torch.Tensor]) -> None:
    """Writes the main process's values into `tensors`, as many of the same shapes in every process."""
    if accelerator.num_processes == 1:
        return
    import torch

    for tensor in tensors:
        shared = tensor.detach().contiguous()
        torch.distributed.broadcast(shared, 0)
        with torch.no_grad():
            tensor.copy_(shared)


def gathered(accelerator: Accelerator, value: T) -> list[T]:
    """The values of all processes, by their index."""
    if accelerator.num_processes == 1:
        return [value]
    from accelerate.utils import gather_object

    found: list[T] = gather_object([value])
    return found
