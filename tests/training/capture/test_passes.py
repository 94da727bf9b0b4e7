"""How passes of captured evaluations are done; graphs themselves are tested in `test_captured`, on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import pytest
import torch

from dora_cli.machine.graphs import Graphs, Inputs
from dora_cli.training.capture.passes import EAGER_OF_FEW, FEW, CapturedPasses


class Eager(Graphs):
    """Does all work as it stands, on any device; notes what it is asked for."""

    def __init__(self) -> None:
        super().__init__("work", "fix")
        self.asked: list[tuple[Hashable, int]] = []

    def forget(self) -> None:
        pass

    def run(self, key: Hashable, work: Callable[[Inputs], None], inputs: Inputs, *, eager_first: int = 1) -> None:
        self.asked.append((key, eager_first))
        work(inputs)


def doubled(batch: Inputs) -> torch.Tensor:
    return batch["x"] * 2


def test_what_is_kept_of_one_batch_outlives_the_next() -> None:
    """Both come from the same place in memory."""
    passes = CapturedPasses(Eager(), 5)
    found = [passes(doubled, {"x": torch.full((2,), value)}) for value in (1.0, 2.0)]
    assert [part.tolist() for part in found] == [[2.0, 2.0], [4.0, 4.0]]
    assert passes(doubled, {"x": torch.ones(3)}).tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(("evaluations", "eager"), [(1, EAGER_OF_FEW), (FEW - 1, EAGER_OF_FEW), (FEW, 1), (50, 1)])
def test_many_evaluations_are_captured_from_the_first(evaluations: int, eager: int) -> None:
    graphs = Eager()
    CapturedPasses(graphs, evaluations)(doubled, {"x": torch.ones(2)})
    assert [first for _, first in graphs.asked] == [eager]
