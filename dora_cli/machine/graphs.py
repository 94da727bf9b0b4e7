"""Device work that repeats, launched as CUDA graphs: one launch instead of thousands.

What is captured must be free of synchronisation and may change tensors only in place; its own intermediate results live
in memory that all graphs share, so none may be read from outside. Random numbers are drawn anew at every replay, from
the device's own generator, in the order in which eager work would draw them: a run may switch between the two at any
step.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache

import torch

from dora_cli.errors import DeviceError

EAGER_FIRST = 1
"""How often work runs eagerly before it is captured: what is made at first use (moments, workspaces, compiled kernels)
is there then.
"""

PRIORITY = -1
"""What the stream that is captured has, above that of streams which ask for none."""

Inputs = Mapping[str, torch.Tensor]


def shapes(batch: Inputs) -> Hashable:
    """What two batches have in common that one graph can do: names, shapes and types of their tensors."""
    return tuple((name, tensor.shape, tensor.dtype) for name, tensor in batch.items())


class Graphs:
    """The graphs of one process, by key. Equal keys stand for the same work on inputs of the same shapes.

    Args:
        work: what is captured, and `fix` what helps where it cannot be; for the message.
    """

    def __init__(self, work: str, fix: str) -> None:
        self._work, self._fix = work, fix
        self.forget()

    def forget(self) -> None:
        """Drops all graphs and their memory: the work is another from here on."""
        self._pool = torch.cuda.graph_pool_handle()
        self._seen: Counter[Hashable] = Counter()
        self._graphs: dict[Hashable, tuple[torch.cuda.CUDAGraph, dict[str, torch.Tensor]]] = {}

    def run(
        self, key: Hashable, work: Callable[[Inputs], None], inputs: Inputs, *, eager_first: int = EAGER_FIRST
    ) -> None:
        """Does ``work(inputs)``: the first `eager_first` times as it stands, then captured, on a copy of `inputs`.

        Raises:
            DeviceError: it could not be captured. The device's random state is lost then, so the run cannot go on.
        """
        found = self._graphs.get(key)
        if found is None:
            self._seen[key] += 1
            if self._seen[key] <= eager_first:
                work(inputs)
                return
            found = self._graphs[key] = self._capture(work, inputs)
        graph, static = found
        if inputs:
            torch._foreach_copy_([static[name] for name in inputs], list(inputs.values()))
        graph.replay()

    def _capture(
        self, work: Callable[[Inputs], None], inputs: Inputs
    ) -> tuple[torch.cuda.CUDAGraph, dict[str, torch.Tensor]]:
        static = {name: tensor.clone() for name, tensor in inputs.items()}
        graph = torch.cuda.CUDAGraph()
        try:
            with (
                _no_collection(),
                torch.cuda.graph(graph, pool=self._pool, stream=_captured_stream(torch.cuda.current_device())),
            ):
                work(static)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise DeviceError(
                f"{self._work} could not be captured in a CUDA graph ({str(error).splitlines()[0]}); {self._fix}"
            ) from error
        return graph, static


@cache
def _captured_stream(device: int) -> torch.cuda.Stream:
    """One for all graphs on a device: PyTorch has few streams, and hands them out again."""
    return torch.cuda.Stream(device, priority=PRIORITY)  # type: ignore[no-untyped-call]


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keeps Python's garbage collector off during a capture, which ends when graphs and events of an earlier run, left
    in a cycle, are destroyed meanwhile.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
