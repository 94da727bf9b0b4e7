"""The method `scale`, as another package would bring it: ``y = v * (W0 x + b)``, ``v = 1`` at the start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from dora_cli.methods.base import Method, Schedule, Site, check_tensor
from dora_cli.methods.linear import swap_modules, trained_type, weight_of


class Scaled(nn.Module):
    """A linear map whose output is multiplied."""

    def __init__(self, base: nn.Module, d_out: int) -> None:
        super().__init__()
        weight = weight_of(base)
        self.base, self.v = (
            base,
            nn.Parameter(torch.ones(d_out, dtype=trained_type(weight.dtype), device=weight.device)),
        )

    @property
    def weight(self) -> torch.Tensor:
        return self.base.weight  # type: ignore[return-value]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.base(x)
        return y * self.v.to(y.dtype)

    @torch.no_grad()
    def merged(self) -> nn.Module:
        base, weight = self.base, weight_of(self.base)
        product = self.v[:, None] * weight
        stored = product if weight is base.weight else product.T
        base.weight = nn.Parameter(stored.to(weight.dtype).contiguous(), requires_grad=False)
        if base.bias is not None:
            base.bias = nn.Parameter((self.v * base.bias).to(weight.dtype), requires_grad=False)
        return base


class Scale(Method):
    name = "scale"

    def __init__(self, *, momentum: float, nesterov: bool) -> None:
        self.momentum, self.nesterov = momentum, nesterov

    def attach(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        head: Sequence[nn.Parameter] = (),
        schedule: Schedule | None = None,
        *,
        seed: int = 0,
    ) -> None:
        super().attach(model, sites, head, schedule, seed=seed)
        self.model, self.layers = model, {site.name: Scaled(site.module, site.shape[0]) for site in sites}
        swap_modules(model, {layer.base: layer for layer in self.layers.values()})

    def parameters(self) -> list[nn.Parameter]:
        return [layer.v for layer in self.layers.values()]

    def make_optimizer(self, groups: Sequence[Mapping[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            [dict(group) for group in groups], momentum=self.momentum, nesterov=self.nesterov, fused=True
        )

    def merge(self) -> None:
        swap_modules(self.model, {layer: layer.merged() for layer in self.layers.values()})

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {f"{name}.v": layer.v.detach() for name, layer in self.layers.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        for name, layer in self.layers.items():
            check_tensor(f"{name}.v", state, layer.v.shape, layer.v.dtype)
            layer.v.copy_(state[f"{name}.v"])
