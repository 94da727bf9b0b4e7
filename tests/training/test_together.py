"""Steps in which projections that read the same input are computed as one, as on CUDA, against those that compute each
alone, eager and captured.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from dora_cli import train
from dora_cli.machine.devices import make_accelerator
from dora_cli.machine.graphs import Graphs
from dora_cli.methods.low_rank.lean import lean_pass as lean
from dora_cli.methods.low_rank.same_input.readers import NOBODY
from dora_cli.training.capture.trial import adapted
from dora_cli.training.optimizer import make_optimizer, make_scheduler
from dora_cli.training.step import TrainingStep
from tests.methods.low_rank.same_input.plain_many import TogetherKernels
from tests.runs.test_resume import SAVES, assert_equal_runs, cut
from tests.training.conftest import MakeRecipe

GPU = pytest.mark.gpu
DEVICE = "cuda"
ROWS, LENGTH = 8, 24
METHODS: dict[str, dict[str, Any]] = {
    "dora": {"gates": "fixed", "start": "lora"},
    "lora": {},
    "adalora": {},
    "sora": {},
    "lora-pro": {},
}
FAMILIES = pytest.mark.parametrize("family", ["bert", "llama"])
PRECISIONS = pytest.mark.parametrize("precision", ["fp32", "bf16"])


def model_of(family: str) -> nn.Module:
    torch.manual_seed(0)
    if family == "bert":
        return BertForSequenceClassification(
            BertConfig(
                vocab_size=100,
                hidden_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=96,
                hidden_dropout_prob=0.1,
                attention_probs_dropout_prob=0.0,
                attn_implementation="sdpa",
            )
        )
    return LlamaForCausalLM(  # nine heads of queries share three of keys and values, as SmolLM2's do
        LlamaConfig(
            vocab_size=100,
            hidden_size=144,
            intermediate_size=160,
            num_hidden_layers=2,
            num_attention_heads=9,
            num_key_value_heads=3,
            max_position_embeddings=64,
            pad_token_id=0,
            attn_implementation="sdpa",
        )
    )


class Run:
    """Steps of a method on one batch, dropout on."""

    def __init__(self, family: str, name: str, precision: str, *, single: bool, graph: bool = False) -> None:
        self.device = torch.device(DEVICE)
        self.model = model_of(family).to(self.device).train()
        settings = {"name": name, "dropout": 0.1, **METHODS[name]}
        self.method = adapted(self.model, settings, ("attention", "ffn"))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for group in self.method.groups():
                for parameter in group.parameters:
                    # so that both factors have gradients
                    parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator).to(parameter))
        self.passes = self.method._adapters._passes  # type: ignore[attr-defined]
        if single:
            self.passes.readers = NOBODY
        optimizer = make_optimizer(self.method, learning_rate=1e-3, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-6)
        self.step = TrainingStep(
            model=self.model,
            method=self.method,
            loss=lambda outputs, batch: outputs.logits.float().square().flatten(1).mean(1),
            optimizer=optimizer,
            scheduler=make_scheduler(optimizer, warmup_steps=0, total_steps=100_000),
            accelerator=make_accelerator(self.device, precision),
            max_grad_norm=1.0,
            cuda_graph=graph,
        )
        ids = torch.randint(3, 100, (ROWS, LENGTH), generator=generator)
        mask = (torch.arange(LENGTH) < LENGTH - torch.arange(ROWS)[:, None]).long()
        batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.zeros(ROWS, dtype=torch.long)}
        self.batch = {key: value.to(self.device) for key, value in batch.items()}
        torch.manual_seed(7)

    def losses(self, steps: int) -> list[float]:
        found = []
        for number in range(1, steps + 1):
            self.step(number, [self.batch], ROWS, event=False)
            found.append(self.step.read(number).loss)
        return found

    def gradients(self, passes: int, graphs: Graphs | None = None) -> list[list[torch.Tensor]]:
        """Those of several passes; with `graphs` the first is eager and the others are replays."""
        found = []
        self.step.ledger.begin(1, ROWS)

        def work(batch: Mapping[str, torch.Tensor]) -> None:
            self.step._forward_backward(batch)

        for _ in range(passes):
            if graphs is None:
                work(self.batch)
            else:
                graphs.run("pass", work, self.batch)
            gradients = self.step._gradients()
            found.append([gradient.clone() for gradient in gradients])
            torch._foreach_zero_(gradients)
        return found

    def kinds(self) -> list[int]:
        return sorted(len(together.members) for together in self.passes._lean._together)


@GPU
@pytest.mark.parametrize("name", METHODS)
@PRECISIONS
@FAMILIES
def test_gradients_are_those_of_each_alone(family: str, precision: str, name: str) -> None:
    """To the rounding of the precision; the dropout is the same."""
    together, single = (Run(family, name, precision, single=single) for single in (False, True))
    torch.manual_seed(7)
    expected = single.gradients(2)
    torch.manual_seed(7)
    found = together.gradients(2)
    # in each block queries, keys and values, and the maps around a GELU, or a gate and what it is multiplied with
    assert (together.kinds(), single.kinds()) == ([2, 2, 3, 3], [])
    close = 1e-4 if precision == "fp32" else 4e-2
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs) > 0
        assert all(float(gradient.norm()) > 0 for gradient in theirs)
        for one, two in zip(ours, theirs, strict=True):
            assert float((one - two).norm()) <= close * float(two.norm())


@GPU
@pytest.mark.parametrize("name", METHODS)
@PRECISIONS
@FAMILIES
def test_captured_steps_are_those_of_each_alone(family: str, precision: str, name: str) -> None:
    runs = []
    for single in (False, True):
        run = Run(family, name, precision, single=single, graph=True)
        torch.manual_seed(7)
        runs.append(run.losses(6))
        assert bool(run.kinds()) is not single
    assert runs[0][-1] < runs[0][0]
    assert runs[0] == pytest.approx(runs[1], rel=1e-3 if precision == "fp32" else 3e-2)


@GPU
@PRECISIONS
@FAMILIES
def test_a_captured_pass_is_the_eager_one_to_the_bit(family: str, precision: str) -> None:
    found = []
    for graphs in (None, Graphs("a pass", "report it")):
        run = Run(family, "dora", precision, single=False)
        torch.manual_seed(7)
        found.append(run.gradients(4, graphs))
    for eager, captured in zip(*found, strict=True):
        for one, two in zip(eager, captured, strict=True):
            assert torch.equal(one, two)


@GPU
@FAMILIES
def test_a_process_that_begins_later_computes_the_same(family: str) -> None:
    """What reads the same input is found anew after a resume, in the first pass: it is that of a run that knew it."""
    first, later = (Run(family, "dora", "bf16", single=False) for _ in range(2))
    torch.manual_seed(7)
    found = first.gradients(3)
    state = torch.get_rng_state(), [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
    last = first.gradients(1)[0]
    torch.set_rng_state(state[0])
    for one in state[1]:
        torch.cuda.set_rng_state(one)
    again = later.gradients(1)[0]
    assert len(found) == 3
    assert first.kinds() == later.kinds() != []
    for one, two in zip(last, again, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("step", [2, 10, 13], ids=["before", "between", "after"])
def test_a_resumed_run_is_the_straight_one(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """To the bit, before, between and after the events, here with plain operations for the kernels of a GPU."""
    made = list[TogetherKernels]()

    def kernels(device: torch.device, *_: object) -> TogetherKernels:
        made.append(TogetherKernels(device))
        return made[-1]

    monkeypatch.setattr(lean, "kernels_for", kernels)
    recipe = make_recipe(*SAVES)
    train(recipe, tmp_path / "straight")
    cut(recipe, tmp_path / "run", step=step)
    train(recipe, tmp_path / "run", resume=True)
    assert all(one.made.calls for one in made)
    assert_equal_runs(tmp_path / "straight", tmp_path / "run")
