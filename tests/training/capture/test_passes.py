"""How passes of captured evaluations are done; graphs themselves are tested in `test_captured`, on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import pytest
import torch

from dora_cli.data import encode_pairs, load_examples, pair_layout
from dora_cli.evaluation.measuring import keep_rows
from dora_cli.evaluation.passes import by_length
from dora_cli.machine.devices import make_accelerator
from dora_cli.machine.graphs import Graphs, Inputs
from dora_cli.tasks import get_task
from dora_cli.training.capture.passes import EAGER_OF_FEW, FEW, CapturedPasses
from tests.training.capture.repeated import Repeated
from tests.training.test_generation import tokenizer
from tests.training.test_tasks_and_models import MODELS

__all__ = ["tokenizer"]  # a fixture


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


@pytest.mark.parametrize("name", ["gpt2", "llama", "bart"])
def test_losses_of_generators_are_those_of_plain_passes(tokenizer: Any, name: str) -> None:
    """Over four evaluations with other weights each: to the bit, with one graph for each shape of a batch."""
    torch.manual_seed(0)
    task, accelerator = get_task("e2e"), make_accelerator(torch.device("cpu"), "fp32")
    examples = load_examples(task.fields, "builtin", "validation", max_samples=40)
    layout = pair_layout(tokenizer, decoder_start=3 if name == "bart" else None)
    split = encode_pairs(examples, tokenizer, 64, layout).padded_to(8)
    model, graphs = MODELS[name](), Repeated()
    keep = partial(keep_rows, model, split, task, batch_size=4, accelerator=accelerator)
    passes = CapturedPasses(graphs, evaluations=4)
    losses = []
    for _ in range(4):
        expected, found = task.measure(keep(), split), task.measure(keep(run=passes), split)
        assert found == expected
        losses.append(found["loss"])
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.5)
    assert len(set(losses)) == 4
    batches = [split.collate(indices) for indices in by_length(split.lengths, 4)]
    there = {tuple(tensor.shape for tensor in batch.values()) for batch in batches}
    assert 2 < len(there) < len(batches)
    assert set(graphs.captured) == there
    assert len(graphs.captured) == len(there)
    assert graphs.replays == 4 * len(batches) - len(there)  # all but the first of each
