"""Passes of an evaluation, over batches by length shared between processes; and the mode of the model meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dora_cli.data.transfer import inputs_of
from dora_cli.machine.devices import autocast, without_cache
from dora_cli.models.attention_masks import masks_always_made

if TYPE_CHECKING:
    from accelerate import Accelerator

Indices = npt.NDArray[np.int64]
T = TypeVar("T")

_SHORT = 256
"""Tokens of a batch up to which attention takes too little time for a plan to win back what making it takes."""

Batch = Mapping[str, torch.Tensor]
Work = Callable[[Batch], torch.Tensor]
Run = Callable[[Work, Batch], torch.Tensor]
"""Does work on a batch, in one way or another; the work is the same for all batches of an evaluation."""


def directly(work: Work, batch: Batch) -> torch.Tensor:
    """``work(batch)`` as it stands."""
    return work(batch)


def work_of(
    model: nn.Module, keep: Callable[[Any, Batch], torch.Tensor], accelerator: Accelerator, run: Run = directly
) -> Work:
    """A pass of `model` over a batch, to what is kept of it; `run` will do it.

    On CUDA it makes its masks always, so that it runs the same kernels whether it is captured or not, and asks the
    device for nothing; and its attention makes no plans for batches of short texts.

    Args:
        keep: from what the model gave, and the batch.
    """
    settings = None if run is directly else without_cache()
    on_cuda = accelerator.device.type == "cuda"

    def work(batch: Batch) -> torch.Tensor:
        inputs = inputs_of(batch)
        with autocast(accelerator, settings), _on_cuda(inputs) if on_cuda else nullcontext():
            outputs = model(**inputs)
        return keep(outputs, batch)

    return work


@contextmanager
def _on_cuda(inputs: Batch) -> Iterator[None]:
    """Around a model's computation on CUDA, see `work_of`."""
    with masks_always_made(), _few_plans(inputs):
        yield


@contextmanager
def _few_plans(inputs: Batch) -> Iterator[None]:
    """Within it, attention over short texts is none of cuDNN's, which makes a plan for every shape, some 50 ms of the
    host each: more than what it wins over all of a small dev split. It holds for all threads.
    """
    width = max((tensor.shape[1] for tensor in inputs.values() if tensor.ndim > 1), default=0)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(before and width > _SHORT)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Without dropout and gradients; training goes on afterwards if it did before.

    No inference mode: tensors that a module keeps from it (rotary frequencies) could never be trained through again.
    """
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def extremes(lengths: npt.NDArray[np.integer], batch_size: int) -> list[Indices]:
    """The two longest examples and the two shortest: the widest batch and the narrowest, to try a model on."""
    order, rows = np.argsort(lengths, kind="stable"), min(2, batch_size)
    return [order[-rows:], order[:rows]]


def by_length(lengths: npt.NDArray[np.integer], batch_size: int) -> list[Indices]:
    """Batches over examples of `lengths`, the longest first.

    They gather examples of similar length, so that little is padded, and depend on nothing but `lengths` and
    `batch_size`: the same weights give the same numbers.
    """
    order = np.argsort(lengths, kind="stable")[::-1]
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def batches_by_length(lengths: npt.NDArray[np.integer], batch_size: int, accelerator: Accelerator) -> list[Indices]:
    """This process's batches of those of `by_length`."""
    return by_length(lengths, batch_size)[accelerator.process_index :: accelerator.num_processes]


def in_order(batches: Sequence[Indices], values: Sequence[T], accelerator: Accelerator) -> list[T]:
    """The values of all processes, one per example, in the order of the examples.

    Args:
        batches: of this process.
        values: of this process, in the order of its batches.
    """
    positions = np.concatenate(batches) if batches else np.empty(0, dtype=np.int64)
    parts = [(positions, list(values))]
    if accelerator.num_processes > 1:
        from accelerate.utils import gather_object

        parts = gather_object(parts)
    found = {int(position): value for positions, part in parts for position, value in zip(positions, part, strict=True)}
    return [found[position] for position in range(len(found))]
