"""A stand-in for CUDA graphs, on any device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from types import SimpleNamespace
from typing import Any

from dora_cli.machine.graphs import Graphs, Inputs


class Repeated(Graphs):
    """Repeats for every key what it did when it captured: the same work, on the same tensors, into which others are
    copied.

    Attributes:
        captured: the shapes of what was captured, one entry a graph.
        replays: how often one was launched.
    """

    def __init__(self) -> None:
        super().__init__("work", "fix")
        self.captured: list[Hashable] = []
        self.replays = 0

    def forget(self) -> None:
        self._seen = Counter()
        self._graphs = {}

    def _capture(self, work: Callable[[Inputs], None], inputs: Inputs) -> Any:
        static = {name: tensor.clone() for name, tensor in inputs.items()}
        self.captured.append(tuple(tensor.shape for tensor in inputs.values()))

        def replay() -> None:
            self.replays += 1
            work(static)

        return SimpleNamespace(replay=replay), static
