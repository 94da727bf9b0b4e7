"""Small models for the tests of methods, and one optimiser step in the order of the contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import GPT2Config, GPT2ForSequenceClassification, RobertaConfig, RobertaForSequenceClassification
from transformers.pytorch_utils import Conv1D

from dora_cli.methods import Cola, Dora, Lora, Sora, Xgblora
from dora_cli.methods.base import Method, Site, StepReport
from dora_cli.methods.linear import shape_of, trained_type, weight_of
from dora_cli.methods.low_rank.allocation import scores
from dora_cli.methods.low_rank.allocation.starts import published
from dora_cli.methods.low_rank.layer import AdaptedProjection
from dora_cli.recipe import LoraMethod
from dora_cli.recipe.methods import arguments
from dora_cli.recipe.methods.cola import ColaMethod
from dora_cli.recipe.methods.dora import DoraMethod
from dora_cli.recipe.methods.sora import SoraMethod
from dora_cli.recipe.methods.xgblora import XgbloraMethod
from dora_cli.training.optimizer import make_optimizer, replace


def new_dora(**settings: Any) -> Dora:
    """DoRA with a recipe's defaults for what `settings` leave open."""
    return Dora(**(arguments(DoraMethod()) | settings))


def new_lora(**settings: Any) -> Lora:
    """The same of LoRA."""
    return Lora(**(arguments(LoraMethod()) | settings))


def new_sora(**settings: Any) -> Sora:
    """The same of SoRA."""
    return Sora(**(arguments(SoraMethod()) | settings))


def new_cola(**settings: Any) -> Cola:
    """The same of Chain of LoRA."""
    return Cola(**(arguments(ColaMethod()) | settings))


def new_xgblora(**settings: Any) -> Xgblora:
    """The same of XGBLoRA."""
    return Xgblora(**(arguments(XgbloraMethod()) | settings))


def sites(modules: Mapping[str, nn.Module]) -> list[Site]:
    """Linear maps, by full path, as a method is given them."""
    return [Site(name, module, shape_of(module)) for name, module in modules.items()]


def gated(base: nn.Module, *, rank: int, scaling: float, dropout: float) -> AdaptedProjection:
    """A projection as DoRA adapts it, drawn from the global generator."""
    dtype = trained_type(weight_of(base).dtype)
    start = published(*shape_of(base), rank, dtype, torch.default_generator)
    return AdaptedProjection(base, *start, scaling=scaling, dropout=dropout)


class Block(nn.Module):
    """A residual block of three weight shapes, one of them stored transposed as in GPT-2."""

    def __init__(self, d: int, h: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d)
        self.att = nn.Linear(d, d)
        self.up = Conv1D(h, d)
        self.down = nn.Linear(h, d, bias=False)
        nn.init.normal_(self.up.weight, std=d**-0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + torch.tanh(self.att(self.norm(x)))
        return x + self.down(torch.tanh(self.up(x)))


class SmallEncoder(nn.Module):
    """``(batch, d) -> (batch, classes)``: blocks that get adapted, then a head that trains as it is."""

    def __init__(self, d: int = 10, h: int = 14, blocks: int = 2, classes: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(d, h) for _ in range(blocks))
        self.head = nn.Linear(d, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def linear_maps(model: nn.Module, within: str = "") -> dict[str, nn.Module]:
    """Full path -> linear map, of those whose path contains `within`."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and within in name
    }


def small_encoder(seed: int = 0, dtype: torch.dtype = torch.float64) -> SmallEncoder:
    torch.manual_seed(seed)
    return SmallEncoder().to(dtype)


def tiny_roberta(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(seed)
    config = RobertaConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=20,
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=3,
        initializer_range=0.2,
    )
    return RobertaForSequenceClassification(config).to(dtype)


def tiny_gpt2(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=40,
        n_positions=20,
        n_embd=16,
        n_layer=2,
        n_head=2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        num_labels=3,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2ForSequenceClassification(config).to(dtype)


class Training:
    """A model, DoRA over `projections` of it, and AdamW over the adapters and `head`; `step` follows the contract."""

    def __init__(
        self,
        model: nn.Module,
        dora: Dora,
        *,
        projections: dict[str, nn.Module] | None = None,
        total_steps: int = 40,
        learning_rate: float = 1e-2,
        weight_decay: float = 0.01,
        max_norm: float = 1.0,
        head: str = "head",
        seed: int = 1,
    ) -> None:
        self.model, self.dora, self.max_norm = model, dora, max_norm
        projections = linear_maps(model, "blocks") if projections is None else projections
        model.requires_grad_(False)
        self.schedule = dora.plan(total_steps, sites(projections))
        torch.manual_seed(seed)
        self.head = [p.requires_grad_() for name, p in model.named_parameters() if name.startswith(head)]
        dora.attach(model, sites(projections), self.head, self.schedule, seed=seed)
        self.optimizer = make_optimizer(
            dora,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            betas=(0.9, 0.999),
            eps=1e-8,
        )
        self.losses: list[float] = []
        self.norms: list[float] = []

    def trainable(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def step(self, step: int, loss: Callable[[nn.Module], torch.Tensor]) -> StepReport:
        self.optimizer.zero_grad()
        value = loss(self.model)
        value.backward()
        self.dora.adjust_gradients()
        self.norms.append(float(nn.utils.clip_grad_norm_(self.trainable(), self.max_norm)))
        self.optimizer.step()
        report = self.dora.after_step(step)
        replace(self.optimizer, report.replaced)
        self.losses.append(float(value.detach()))
        return report

    def run(self, first: int, last: int, loss: Callable[[nn.Module], torch.Tensor]) -> None:
        for step in range(first, last + 1):
            self.step(step, loss)


def component_scores(A: torch.Tensor, B: torch.Tensor, c: torch.Tensor, eps: float = scores.EPS) -> torch.Tensor:
    """The product's scores of factors ``(..., r, d_in)``, ``(..., d_out, r)`` and ``(..., r)``."""
    return scores.scores_of_gram(scores.gram(A, B.mT), c, eps)


def live_ranks(method: Method) -> dict[str, int]:
    return {item.name: item.rank for item in method.allocation()}


def classification(
    seed: int = 3, examples: int = 32, d: int = 10, classes: int = 3, scale: float = 1.0
) -> Callable[[nn.Module], torch.Tensor]:
    """Mean cross-entropy of fixed random data; `scale` makes the gradient larger."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, d, generator=generator, dtype=torch.float64)
    y = torch.randint(classes, (examples,), generator=generator)

    def loss(model: nn.Module) -> torch.Tensor:
        dtype = next(model.parameters()).dtype
        return scale * nn.functional.cross_entropy(model(x.to(dtype)), y)

    return loss


SHARP = 8.0
"""What `sharpen` multiplies by: under bf16 a loss changes by a hundredth, by other masks by half."""


@torch.no_grad()
def sharpen(model: nn.Module) -> None:
    """Makes matrices so large that what a mask drops shows in the loss."""
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.mul_(SHARP)
