"""Device work that repeats, launched as CUDA graphs: one launch instead of thousands.

What is captured must be free of synchronisation and may change tensors only in place; its own intermediate results live in memory that all
graphs share, so none may be read from outside. Random numbers are drawn anew at every replay, from the device's own generator, in the
order in which eager work would draw them: a run may switch between the two at any step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping

import torch

from dora_cli.errors import DeviceError

EAGER_FIRST = 2
"""How often work runs eagerly before it is captured: what is made at first use (moments, workspaces, compiled kernels) is there then."""

Inputs = Mapping[str, torch.Tensor]


class Graphs:
    """The graphs of one process, by key. Equal keys stand for the same work on inputs of the same shapes."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._seen: Counter[Hashable] = Counter()
        self._graphs: dict[Hashable, tuple[torch.cuda.CUDAGraph, dict[str, torch.Tensor]]] = {}

    def run(self, key: Hashable, work: Callable[[Inputs], None], inputs: Inputs) -> None:
        """Does ``work(inputs)``: the first `EAGER_FIRST` times as it stands, then captured, on a copy of `inputs`.

        Raises:
            DeviceError: it could not be captured. The device's random state is lost then, so the run cannot go on.
        """
        found = self._graphs.get(key)
        if found is None:
            self._seen[key] += 1
            if self._seen[key] <= EAGER_FIRST:
                work(inputs)
                return
            found = self._graphs[key] = self._capture(work, inputs)
        graph, static = found
        for name, tensor in inputs.items():
            static[name].copy_(tensor)
        graph.replay()

    def _capture(self, work: Callable[[Inputs], None], inputs: Inputs) -> tuple[torch.cuda.CUDAGraph, dict[str, torch.Tensor]]:
        static = {name: tensor.clone() for name, tensor in inputs.items()}
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                work(static)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise DeviceError(
                f"a training step of this model could not be captured in a CUDA graph ({str(error).splitlines()[0]}); set "
                "train.cuda_graph: off, and go on from the newest checkpoint or start again"
            ) from error
        return graph, static
