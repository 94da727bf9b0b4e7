"""What stands for a model in captured evaluations; graphs themselves are tested in `test_captured`, on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from transformers import RobertaConfig, RobertaForSequenceClassification

from dora_cli.machine.graphs import CapturedModel, Graphs, Inputs


class Eager(Graphs):
    """Does all work as it stands, on any device."""

    def forget(self) -> None:
        pass

    def run(self, key: Hashable, work: Callable[[Inputs], None], inputs: Inputs, *, eager_first: int = 1) -> None:
        work(inputs)


@torch.no_grad()
def test_a_task_may_read_all_that_a_model_gives() -> None:
    config = RobertaConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=16, output_hidden_states=True,
    )  # fmt: skip
    model = RobertaForSequenceClassification(config).eval()
    captured = CapturedModel(model, Eager())
    batches = [{"input_ids": torch.tensor([[3, 4, token]])} for token in (5, 6)]
    given = [captured(**batch) for batch in batches]
    for batch, found in zip(batches, given, strict=True):
        expected = model(**batch)
        assert torch.equal(found.logits, expected.logits)
        assert torch.equal(found.hidden_states[-1], expected.hidden_states[-1])
    assert not torch.equal(given[0].logits, given[1].logits)  # else one may have overwritten the other
