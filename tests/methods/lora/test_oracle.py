"""Our LoRA against PEFT's: the same start, data and training step give the same losses and the same weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import BartConfig, BartForConditionalGeneration

from dora_cli.machine.devices import make_accelerator
from dora_cli.methods import Method
from dora_cli.models import find_projections
from dora_cli.training.optimizer import make_optimizer, make_scheduler
from dora_cli.training.step import Batch, TrainingStep
from tests.methods.small import new_lora, tiny_gpt2, tiny_roberta

STEPS = 25
RANK, ALPHA = 3, 6.0
pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore::FutureWarning")  # PEFT's


class PeftLora(Method):
    """PEFT's LoRA behind the contract; trains by autograd's own way."""

    name = "peft-lora"

    def __init__(self, ranks: Mapping[str, int]) -> None:
        self.ranks = ranks

    def place(self, model: nn.Module) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        inject_adapter_in_model(
            LoraConfig(
                r=RANK,
                lora_alpha=ALPHA,
                lora_dropout=0.0,
                target_modules=[site.name for site in self.sites],
                rank_pattern=dict(self.ranks),
            ),
            model,
        )
        self.layers: dict[str, Any] = {site.name: model.get_submodule(site.name) for site in self.sites}
        for parameter in self.parameters():  # injected ones are fp32
            parameter.data = parameter.data.double()
        for parameter in self.head:  # PEFT freezes it
            parameter.requires_grad_(True)

    def parameters(self) -> list[nn.Parameter]:
        return [
            weight
            for layer in self.layers.values()
            for weight in (layer.lora_A["default"].weight, layer.lora_B["default"].weight)
        ]

    def start_like(self, state: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, layer in self.layers.items():
                layer.lora_A["default"].weight.copy_(state[f"{name}.A"])
                layer.lora_B["default"].weight.copy_(state[f"{name}.B"])

    def update(self, name: str) -> torch.Tensor:
        """The update of the weight, in the base's storage order."""
        return self.layers[name].get_delta_weight("default")


@dataclass
class Run:
    """A model under `TrainingStep`; the losses are kept in float64."""

    model: nn.Module
    method: Method
    batch: Callable[[int], Batch]
    head: str = "classifier"
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model.requires_grad_(False)
        self.sites = find_projections(self.model)
        head = [p.requires_grad_() for name, p in self.model.named_parameters() if name.startswith(self.head)]
        self.schedule = self.method.plan(STEPS, self.sites)
        self.method.attach(self.model, self.sites, head, self.schedule, seed=5)
        optimizer = make_optimizer(self.method, learning_rate=2e-2, weight_decay=0.1, betas=(0.9, 0.999), eps=1e-8)
        self.step = TrainingStep(
            model=self.model.train(),
            method=self.method,
            loss=self._loss,
            optimizer=optimizer,
            scheduler=make_scheduler(optimizer, warmup_steps=5, total_steps=STEPS),
            accelerator=make_accelerator(torch.device("cpu"), "fp32"),
            max_grad_norm=0.5,
        )

    def _loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        each = F.cross_entropy(outputs.logits.flatten(0, -2), batch["labels"].flatten(), reduction="none")
        self.losses.append(float(each.detach().mean()))
        return each

    def train(self) -> None:
        for step in range(1, STEPS + 1):
            batch = self.batch(step)
            self.step(step, [batch], batch["labels"].numel(), event=False)
        self.model.eval()

    @torch.no_grad()
    def answers(self) -> torch.Tensor:
        return self.model(**{key: value for key, value in self.batch(0).items() if key != "labels"}).logits


def tiny_bart() -> nn.Module:
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=40, d_model=16, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=20, dropout=0.0,
        init_std=0.2, pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    return BartForConditionalGeneration(config).double()


def texts(step: int) -> Batch:
    """Sequences of a width of their own, some padded, with a class each."""
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(3, 40, (8, 6 + step % 5), generator=generator)
    mask = torch.ones_like(ids)
    mask[:3, -2:] = 0
    labels = ids[:, 0] % 3
    return {"input_ids": torch.where(mask.bool(), ids, 1), "attention_mask": mask, "labels": labels}


def pairs(step: int) -> Batch:
    """Sequences and what follows from them, token by token."""
    batch = texts(step)
    target = batch["input_ids"].flip(1)[:, :5]
    return {**batch, "decoder_input_ids": F.pad(target[:, :-1], (1, 0), value=2), "labels": target}


CASES = {
    "roberta": (tiny_roberta, texts, "classifier"),
    "gpt2": (tiny_gpt2, texts, "score"),
    "bart": (tiny_bart, pairs, "none"),
}


@pytest.mark.parametrize("case", CASES)
def test_ours_is_pefts(case: str) -> None:
    """AdamW, weight decay, warm-up and clipping; ranks that differ; ours by the lean pass, which is another way to the
    same numbers.
    """
    build, batch, head = CASES[case]
    names = [site.name for site in find_projections(build())]
    ranks = {names[0]: 1, names[-1]: 5}
    ours = Run(build(), new_lora(rank=RANK, alpha=ALPHA, dropout=0.0, ranks=ranks), batch, head)
    peft = PeftLora(ranks)
    theirs = Run(build(), peft, batch, head)
    peft.start_like(ours.method.state_dict())
    bases = {site.name: site.module.weight.detach().clone() for site in ours.sites}
    before = ours.answers()
    torch.testing.assert_close(before, theirs.answers(), rtol=0, atol=1e-12)

    ours.train()
    theirs.train()
    assert len(ours.losses) == STEPS
    assert ours.losses == pytest.approx(theirs.losses, abs=1e-6, rel=0)

    expected = theirs.answers()
    assert (expected - before).abs().max() > 0.1, "hardly anything was learned: a test of nothing"
    torch.testing.assert_close(ours.answers(), expected, rtol=0, atol=1e-6)
    with ours.method.folded():
        torch.testing.assert_close(ours.answers(), expected, rtol=0, atol=1e-6)
    factors = ours.method.to_lora()
    assert {name: factor.rank for name, factor in factors.items()} == dict.fromkeys(names, RANK) | ranks
    updates = {name: (factor.B @ factor.A).double() for name, factor in factors.items()}
    ours.method.merge()
    torch.testing.assert_close(ours.answers(), expected, rtol=0, atol=1e-6)
    for name in names:
        module, delta = ours.model.get_submodule(name), peft.update(name)
        assert delta.abs().max() > 1e-2
        torch.testing.assert_close(module.weight - bases[name], delta, rtol=0, atol=1e-6)
        stored = updates[name] if isinstance(module, nn.Linear) else updates[name].T
        torch.testing.assert_close(stored, delta, rtol=0, atol=2e-6)  # factors are fp32
