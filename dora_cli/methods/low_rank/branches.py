"""Small products of a captured pass, launched beside the frozen ones.

Kernels of one stream run one after the other, however little of a GPU each fills. A CUDA graph has branches where a
capture meets several streams, and what has no arrow between it may run at the same time. Of a projection's work these
are, with the frozen products in the stream of the model::

    forward     down(x, A)     beside     x W0^T     then up, which wants both
    backward    down(dy, B)    beside     dy W0      then up, which wants both
                both outer products, from `down` on, beside all that follows: nobody reads them before the pass ends

`down` leaves the model's stream where there are few rows: a frozen product of many fills the device itself, and `down`,
which `up` waits for, would take its turns with it. The outer products have lower priority than all else.

Each is the same kernel on the same numbers, and those that add to the same sums stay in one stream in the order of
their calls, so all results keep their bits. Steps that are not captured wait for the host, and have one stream.

Memory: PyTorch's allocator gives a freed block to whatever the block's stream asks for next, in the order of the host,
and knows nothing of what other streams still read; told so (`record_stream`), it gives the block to nobody before the
capture ends. So what the sums read is kept here until the stream of the model has waited for them, which it does for
those of one call in the call after it: one projection's activations more than in one stream. What `down` gives belongs
to the stream of `down`, which first waits for all that the model has launched, so for the last use of what was freed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any, Protocol

import torch

from dora_cli.machine.graphs import PRIORITY
from dora_cli.methods.low_rank.kernels import Kernels

FEW_ROWS = 2048
"""Up to here `down` runs beside the frozen product. On an H200 that wins with 1,024 rows of 768 columns, and loses with
4,096.
"""


BEHIND = 1
"""How many calls the sums may be behind: so many projections' activations are kept for them."""


class Stream(Protocol):
    """`torch.cuda.Stream` is one."""

    def record_event(self) -> Any:
        """A mark behind all that was launched so far."""

    def wait_event(self, event: Any) -> None:
        """What is launched from here on waits for what is before that mark."""


class Streams(Protocol):
    """The streams of a device.

    Attributes:
        products, sums: beside those of the model; what is launched into the latter gives way to all else.
    """

    @property
    def products(self) -> Stream: ...
    @property
    def sums(self) -> Stream: ...
    def current(self) -> Stream:
        """The one that is launched into."""

    def into(self, stream: Any) -> AbstractContextManager[Any]:
        """Within it, it is `stream`."""

    def is_captured(self) -> bool:
        """Whether what is launched goes into a graph."""


class CudaStreams:
    """Those of the current CUDA device."""

    def __init__(self) -> None:
        self.products = torch.cuda.Stream(priority=PRIORITY)  # type: ignore[no-untyped-call]
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

    Of a call of a projection come `product`, `sums` if need be, and `meet`, in this order.

    Args:
        streams: for them.
    """

    def __init__(self, streams: Streams | None = None) -> None:
        self._streams = streams
        self._open: Streams | None = None  # in a captured pass
        self._product: Any = None  # the mark behind a product that nobody has waited for
        self._sums: deque[tuple[Any, tuple[object, ...]]] = deque()  # likewise, with what they read

    def begin(self) -> None:
        """Before a pass."""
        self._open = self._streams if self._streams is not None and self._streams.is_captured() else None

    def product(self, rows: int) -> AbstractContextManager[None]:
        """What is launched within it, of so many rows, may run beside all that follows, and be read from `meet` on."""
        return _NOWHERE if self._open is None or rows > FEW_ROWS else self._beside(self._open)

    def sums(self, *reads: object) -> AbstractContextManager[None]:
        """What is launched within it follows the call's product, runs beside all else, and may be read after `join`.

        Args:
            reads: what else it reads, there before the product was launched, and the product itself.
        """
        return _NOWHERE if self._open is None else self._add(self._open, reads)

    def meet(self) -> None:
        """The model's stream waits for the call's product, and for the sums of the calls before it."""
        self._wait(BEHIND)

    def join(self) -> None:
        """It waits for everything: at the end of a pass, and wherever memory is given away behind PyTorch's back."""
        self._wait(0)

    @contextmanager
    def _beside(self, streams: Streams) -> Iterator[None]:
        streams.products.wait_event(streams.current().record_event())
        try:
            with streams.into(streams.products):
                yield
        finally:
            self._product = streams.products.record_event()

    @contextmanager
    def _add(self, streams: Streams, reads: tuple[object, ...]) -> Iterator[None]:
        streams.sums.wait_event(streams.current().record_event() if self._product is None else self._product)
        try:
            with streams.into(streams.sums):
                yield
        finally:
            self._sums.append((streams.sums.record_event(), reads))

    def _wait(self, but: int) -> None:
        """For the product and for all sums but so many of the latest."""
        if self._open is None:
            return
        main = self._open.current()
        if self._product is not None:
            main.wait_event(self._product)
            self._product = None
        while len(self._sums) > but:
            main.wait_event(self._sums.popleft()[0])


_NOWHERE: AbstractContextManager[None] = nullcontext()


def branches_for(kernels: Kernels, device: torch.device) -> Branches:
    """Those of passes on `device` by `kernels`; none where these do more than to launch."""
    return Branches(_cuda_streams(torch.cuda.current_device()) if device.type == "cuda" and kernels.launches else None)


@cache
def _cuda_streams(device: int) -> CudaStreams:
    """One pair for all passes on a device: PyTorch has few streams, and hands them out again."""
    return CudaStreams()
