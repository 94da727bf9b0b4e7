"""The published adapters written a second time, plainly, and ours trained beside them in float64: for 60 steps each on
one kind of model, for 50 on the other.

The reference shares no code with the package: adapters are four tensors and a forward hook on the modules of the model
that the papers name, autograd differentiates, PyTorch's AdamW steps, without weight decay for biases and norms, as in
Houlsby et al.'s code. Dropout is on: the models' own, drawn alike, so that an adapter on its other side is seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dora_cli.machine.devices import make_accelerator
from dora_cli.methods import Houlsby, Pfeiffer
from dora_cli.models import find_projections
from dora_cli.training.optimizer import make_optimizer, make_scheduler
from dora_cli.training.step import TrainingStep
from tests.methods.small import tiny_gpt2, tiny_roberta

WARMUP, WIDTH = 20, 5
RATE, DECAY, CLIP, DROPOUT = 5e-3, 0.1, 0.5, 0.2
ROBERTA, GPT2 = "roberta.encoder.layer.0.", "transformer.h.0."

# model, its head, its block, after which modules of the block adapters stand, the norms of the block
CASES: dict[str, tuple[Callable[[], nn.Module], str, str, tuple[str, ...], tuple[str, ...]]] = {
    "houlsby-roberta": (
        tiny_roberta, "classifier", ROBERTA, ("attention.output.dropout", "output.dropout"),
        ("attention.output.LayerNorm", "output.LayerNorm"),
    ),
    "houlsby-gpt2": (tiny_gpt2, "score", GPT2, ("attn.c_proj", "mlp.c_proj"), ("ln_1", "ln_2")),
    "pfeiffer-roberta": (
        tiny_roberta, "classifier", ROBERTA, ("output.LayerNorm",), ("attention.output.LayerNorm", "output.LayerNorm"),
    ),
    "pfeiffer-gpt2": (tiny_gpt2, "score", GPT2, ("mlp.c_proj",), ("ln_1", "ln_2")),
}  # fmt: skip


def dropping(build: Callable[[], nn.Module]) -> nn.Module:
    model = build().train()
    del model.base_model.get_submodule("h" if "gpt2" in build.__name__ else "encoder.layer")[1:]  # a block is enough
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = DROPOUT
    return model.requires_grad_(False)


def batch(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(3, 40, (4, 4 + step % 3), generator=generator)
    mask = torch.ones_like(ids)
    mask[:1, -1:] = 0
    return {"input_ids": torch.where(mask.bool(), ids, 1), "attention_mask": mask, "labels": ids[:, 0] % 3}


class Literal:
    """A plain model with adapters in hooks."""

    def __init__(self, case: str, activation: str, norms: bool, start: dict[str, torch.Tensor]) -> None:
        build, head, block, places, names = CASES[case]
        self.model = dropping(build)
        self.activation = activation
        self.adapters: list[list[torch.Tensor]] = []
        for path, site in zip(places, dict.fromkeys(key.rpartition(".")[0] for key in start), strict=True):
            four = [start[f"{site}.{key}"].clone().requires_grad_() for key in ("W_down", "b_down", "W_up", "b_up")]
            self.adapters.append(four)
            self.model.get_submodule(block + path).register_forward_hook(self.hook(*four))
        trained = [self.model.get_submodule(block + name) for name in names]
        self.norms = [p.requires_grad_() for norm in trained if norms for p in norm.parameters()]
        self.head = [p.requires_grad_() for name, p in self.model.named_parameters() if name.startswith(head)]

    def hook(self, W_down: torch.Tensor, b_down: torch.Tensor, W_up: torch.Tensor, b_up: torch.Tensor) -> Any:
        def adapter(module: nn.Module, inputs: Any, h: torch.Tensor) -> torch.Tensor:
            z = h @ W_down.T + b_down
            if self.activation == "relu":
                f = z.clamp(min=0)
            else:
                f = z * 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
            return h + f @ W_up.T + b_up

        return adapter

    def train(self, steps: int) -> None:
        weights = [tensor for four in self.adapters for tensor in (four[0], four[2])]
        biases = [tensor for four in self.adapters for tensor in (four[1], four[3])]
        every = [*weights, *self.head, *biases, *self.norms]
        optimizer = torch.optim.AdamW(
            [
                {"params": [*weights, *self.head], "weight_decay": DECAY},
                {"params": [*biases, *self.norms], "weight_decay": 0.0},
            ],
            betas=(0.9, 0.999),
            eps=1e-8,
        )
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(step / WARMUP, (steps - step) / (steps - WARMUP))
            one = batch(step + 1)
            labels = one.pop("labels")
            torch.default_generator.manual_seed(step + 1)  # that of the CPU alone: torch.manual_seed formats its stack
            optimizer.zero_grad()
            F.cross_entropy(self.model(**one).logits, labels).backward()
            nn.utils.clip_grad_norm_(every, CLIP)
            optimizer.step()


@pytest.mark.parametrize(
    ("case", "activation", "norms", "steps"),
    [
        ("houlsby-roberta", "gelu", True, 60),
        ("houlsby-gpt2", "relu", False, 50),
        ("pfeiffer-roberta", "relu", False, 50),
        ("pfeiffer-gpt2", "gelu", True, 60),
    ],
)
def test_steps_are_those_of_the_literal_adapters(case: str, activation: Any, norms: bool, steps: int) -> None:
    build, head_name, *_ = CASES[case]
    kind = Houlsby if case.startswith("houlsby") else Pfeiffer
    model = dropping(build)
    method = kind(bottleneck=WIDTH, activation=activation, start_std=1e-3, train_norms=norms)
    sites = find_projections(model, ["attention", "ffn"] if kind is Houlsby else ["ffn"], method.takes)
    head = [p.requires_grad_() for name, p in model.named_parameters() if name.startswith(head_name)]
    method.attach(model, sites, head, method.plan(steps, sites), seed=5)
    start = {key: tensor.clone() for key, tensor in method.state_dict().items()}
    literal = Literal(case, activation, norms, {key: tensor for key, tensor in start.items() if "_" in key[-6:]})
    optimizer = make_optimizer(method, learning_rate=RATE, weight_decay=DECAY, betas=(0.9, 0.999), eps=1e-8)
    train = TrainingStep(
        model=model,
        method=method,
        loss=lambda outputs, batch: F.cross_entropy(outputs.logits, batch["labels"], reduction="none"),
        optimizer=optimizer,
        scheduler=make_scheduler(optimizer, warmup_steps=WARMUP, total_steps=steps),
        accelerator=make_accelerator(torch.device("cpu"), "fp32"),
        max_grad_norm=CLIP,
    )
    for step in range(1, steps + 1):
        one = batch(step)
        torch.default_generator.manual_seed(step)
        train(step, [one], len(one["labels"]), event=False)
    literal.train(steps)

    found = list(method.state_dict().values())
    expected = [tensor for four in literal.adapters for tensor in four] + literal.norms
    assert len(found) == len(expected) == len(start)
    for one, two, (key, before) in zip(found, expected, start.items(), strict=True):
        torch.testing.assert_close(one, two.detach(), rtol=0, atol=1e-9, msg=key)
        assert (one - before).abs().max() > 1e-3, f"{key} hardly trained: a test of nothing"
    for one, two in zip(head, literal.head, strict=True):
        torch.testing.assert_close(one.detach(), two.detach(), rtol=0, atol=1e-9)
