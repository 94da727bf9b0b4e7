"""Streams of a device that is not there, and a look-out for races: what would go wrong on a GPU that runs them side by
side, found on the CPU, where everything runs at once.

Every operation belongs to the stream that is current. A stream has a clock: how far of each stream's operations are
sure to be done before its next one. An event is a copy of that; who waits for it takes over what is later there. Two
operations on one memory, of which one writes, are in order if the clock of the later one says so. Memory that is freed
may be had by the next operation of its stream that makes a tensor, and that has to be in order with all that used it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dora_cli.methods.low_rank.arithmetic.kernels import TorchKernels
from dora_cli.methods.low_rank.lean import seam, seam_pair
from tests.methods.low_rank.same_input.plain_many import TogetherKernels

Clock = dict[str, int]


class FakeStream:
    """A stream with a clock; an event is a copy of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.clock: Clock = defaultdict(int)

    def record_event(self) -> Clock:
        return dict(self.clock)

    def wait_event(self, event: Clock) -> None:
        for name, done in event.items():
            self.clock[name] = max(self.clock[name], done)


class FakeStreams:
    """Those of the model and of its branch."""

    def __init__(self, *, captured: bool = True) -> None:
        self.main, self.sums = FakeStream("main"), FakeStream("sums")
        self.captured = captured
        self._current = [self.main]

    def current(self) -> FakeStream:
        return self._current[-1]

    @contextmanager
    def into(self, stream: FakeStream) -> Iterator[None]:
        self._current.append(stream)
        try:
            yield
        finally:
            self._current.pop()

    def is_captured(self) -> bool:
        return self.captured

    @property
    def have_met(self) -> bool:
        """Whether the model's stream has waited for all of the other."""
        return self.main.clock["sums"] >= self.sums.clock["sums"]


class _Memory:
    """A storage: whose it is, the last write, and the reads since."""

    def __init__(self, storage: torch.UntypedStorage, owner: str) -> None:
        self.ref, self.owner = StorageWeakRef(storage), owner
        self.write: tuple[str, int] | None = None
        self.reads: Clock = {}

    def uses(self) -> list[tuple[str, int]]:
        return [*self.reads.items(), *([] if self.write is None else [self.write])]


class LookOut(TorchDispatchMode):
    """Notes every operation within it.

    Attributes:
        races: what was found.
        launched: operations by stream.
    """

    def __init__(self, streams: FakeStreams) -> None:
        super().__init__()
        self.streams = streams
        self.races: list[str] = []
        self.launched: Counter[str] = Counter()
        self._known: dict[int, _Memory] = {}
        self._freed: dict[str, list[_Memory]] = defaultdict(list)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "dora":
            return self._operator(func, args, kwargs)
        self._sweep()
        schema = func._schema
        found = func(*args, **kwargs)
        if any(one.alias_info is not None and not one.alias_info.is_write for one in schema.returns):
            return found  # a view, which reads nothing
        if schema.name == "aten::set_":
            return found
        stream = self.streams.current()
        stream.clock[stream.name] += 1
        self.launched[stream.name] += 1
        self._access(schema, args, kwargs, stream, str(func))
        for tensor in _tensors(found):
            if tensor.untyped_storage()._cdata not in self._known:
                self._allocate(tensor, stream, str(func))
        return found

    def _operator(self, func: Any, args: Any, kwargs: Any) -> Any:
        """One that compiled code calls, which writes to nothing that anybody has."""
        with self, torch.no_grad():
            name = func._schema.name.removeprefix("dora::")
            return getattr(seam_pair if "gelu" in name else seam, name)._init_fn(*args, **kwargs)

    def _sweep(self) -> None:
        for key, memory in list(self._known.items()):
            if memory.ref.expired():
                self._freed[memory.owner].append(self._known.pop(key))

    def _memory(self, tensor: torch.Tensor, stream: FakeStream) -> _Memory:
        storage = tensor.untyped_storage()
        return self._known.setdefault(storage._cdata, _Memory(storage, stream.name))

    def _access(self, schema: Any, args: Any, kwargs: Mapping[str, Any], stream: FakeStream, name: str) -> None:
        for place, argument in enumerate(schema.arguments):
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            for tensor in _tensors(value):
                memory = self._memory(tensor, stream)
                if argument.alias_info is not None and argument.alias_info.is_write:
                    self._write(memory, stream, name)
                else:
                    self._in_order([] if memory.write is None else [memory.write], stream, f"{name} reads")
                    memory.reads[stream.name] = stream.clock[stream.name]

    def _write(self, memory: _Memory, stream: FakeStream, name: str) -> None:
        self._in_order(memory.uses(), stream, f"{name} writes")
        memory.write, memory.reads = (stream.name, stream.clock[stream.name]), {}

    def _allocate(self, tensor: torch.Tensor, stream: FakeStream, name: str) -> None:
        for memory in self._freed.pop(stream.name, []):
            self._in_order(memory.uses(), stream, f"{name} may get")
        self._memory(tensor, stream).write = stream.name, stream.clock[stream.name]

    def _in_order(self, uses: list[tuple[str, int]], stream: FakeStream, what: str) -> None:
        for name, number in uses:
            if stream.clock[name] < number:
                self.races.append(f"in {stream.name} {what} what {name} uses")


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


class RoomyKernels(TorchKernels):
    """Plain operations without memory of their own for what is between, which streams would share."""

    def _room(self, number: int, like: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(like)


class RoomyTogether(TogetherKernels):
    """The same for several projections at once."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.made._one = RoomyKernels(device)

    _room = RoomyKernels._room
