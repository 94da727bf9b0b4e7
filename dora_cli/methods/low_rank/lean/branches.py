"""Products of a captured pass that nobody waits for, launched beside all else.

Kernels of one stream run one after the other, however little of a GPU each fills. A CUDA graph has branches where a
capture meets several streams, and what has no arrow between it may run at the same time. Of a projection's work these
are the outer products, which add to the gradients of its factors: nobody reads those before the pass ends. Their stream
has a lower priority than the model's, so they take what the others leave of the device. (`down` beside the frozen
product, which `up` waits for as well, takes its turns with it and wins nothing; see docs/results/steps.md.)

Each is the same kernel on the same numbers, and those that add to the same sums stay in the order of their calls, so
all results keep their bits. Steps that are not captured wait for the host, and have one stream.

Memory: PyTorch's allocator gives a freed block to whatever the block's stream asks for next, in the order of the host,
and knows nothing of what other streams still read; told so (`record_stream`), it gives the block to nobody before the
capture ends. So what the sums read is kept here until the pass ends. That is no more than its beginning had: what is
kept of a block, inputs and gradients of its projections, is less than what its backward pass has freed by then (not so
where a model computes its forward passes again by a checkpoint of its own: then the inputs too are kept for it). The
model's stream waits for no sum before: each wait would cost it the time in which the sums are behind. Autograd adds to
no gradient in place that somebody has; a hook of the user's that does so in a captured pass would come too soon.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any, Protocol

import torch

from dora_cli.methods.low_rank.arithmetic.kernels import Kernels


class Stream(Protocol):
    """`torch.cuda.Stream` is one."""

    def record_event(self) -> Any:
        """A mark behind all that was launched so far."""

    def wait_event(self, event: Any) -> None:
        """What is launched from here on waits for what is before that mark."""


class Streams(Protocol):
    """The streams of a device.

    Attributes:
        sums: beside that of the model; what is launched into it gives way.
    """

    @property
    def sums(self) -> Stream: ...
    def current(self) -> Stream:
        """The one that is launched into."""

    def into(self, stream: Any) -> AbstractContextManager[Any]:
        """Within it, it is `stream`."""

    def is_captured(self) -> bool:
        """Whether what is launched goes into a graph."""


class CudaStreams:
    """Those of the current CUDA device; what is captured has a higher priority (`machine.graphs`)."""

    def __init__(self) -> None:
        self.sums = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def current(self) -> torch.cuda.Stream:
        return torch.cuda.current_stream()

    def into(self, stream: torch.cuda.Stream) -> AbstractContextManager[Any]:
        return torch.cuda.stream(stream)

    def is_captured(self) -> bool:
        return torch.cuda.is_current_stream_capturing()


class Branches:
    """The branches of the passes over a model; without `streams`, and in passes that are not captured, there are none,
    and all here does nothing.

    Args:
        streams: for them.
    """

    def __init__(self, streams: Streams | None = None) -> None:
        self._streams = streams
        self._open: Streams | None = None  # in a captured pass
        self._mark: Any = None  # behind the latest of them
        self._reads: list[tuple[object, ...]] = []

    def begin(self) -> None:
        """Before a pass."""
        self._open = self._streams if self._streams is not None and self._streams.is_captured() else None

    def sums(self, *reads: object) -> AbstractContextManager[None]:
        """What is launched within it follows all before it, runs beside all after it, and may be read after `join`.

        Args:
            reads: what it reads.
        """
        return _NOWHERE if self._open is None else self._add(self._open, reads)

    def join(self) -> None:
        """The model's stream waits for all of them, at the end of a pass."""
        if self._open is not None and self._mark is not None:
            self._open.current().wait_event(self._mark)
        self._mark = None
        self._reads.clear()

    @contextmanager
    def _add(self, streams: Streams, reads: tuple[object, ...]) -> Iterator[None]:
        streams.sums.wait_event(streams.current().record_event())
        self._reads.append(reads)
        try:
            with streams.into(streams.sums):
                yield
        finally:
            self._mark = streams.sums.record_event()


_NOWHERE: AbstractContextManager[None] = nullcontext()


def branches_for(kernels: Kernels, device: torch.device) -> Branches:
    """Those of passes on `device` by `kernels`; none where these do more than to launch."""
    return Branches(_cuda_streams(torch.cuda.current_device()) if device.type == "cuda" and kernels.launches else None)


@cache
def _cuda_streams(device: int) -> CudaStreams:
    """One for all passes on a device: PyTorch has few streams, and hands them out again."""
    return CudaStreams()
