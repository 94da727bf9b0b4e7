"""Passes of an evaluation as CUDA graphs."""

from __future__ import annotations

from collections.abc import Hashable

import torch

from dora_cli.evaluation.passes import Batch, Work
from dora_cli.machine.graphs import EAGER_FIRST, Graphs, shapes

FEW = 3
"""In a run of fewer evaluations, capturing a pass costs more than it saves, unless its shape comes often."""

EAGER_OF_FEW = 4
"""How often a shape comes before it is captured, then."""


class CapturedPasses:
    """Does what `keep_rows` does with a batch, as CUDA graphs: one a shape.

    What is kept of a batch is all that leaves a graph: the logits of a model that generates would be more than memory
    has room for.

    Args:
        graphs: those of the training steps.
        evaluations: how many the run makes; each goes over the same batches.
    """

    def __init__(self, graphs: Graphs, evaluations: int) -> None:
        self._graphs = graphs
        self._eager_first = EAGER_FIRST if evaluations >= FEW else EAGER_OF_FEW
        self._kept: dict[Hashable, torch.Tensor] = {}

    def __call__(self, work: Work, batch: Batch) -> torch.Tensor:
        """``work(batch)``; the same work every time, for all that the graphs can tell."""
        key = ("evaluation", shapes(batch))

        def keep(inputs: Batch) -> None:
            found = work(inputs)
            if key not in self._kept:  # made eagerly: outside the memory of graphs
                self._kept[key] = torch.empty_like(found)
            self._kept[key].copy_(found)

        self._graphs.run(key, keep, batch, eager_first=self._eager_first)
        return self._kept[key].clone()
