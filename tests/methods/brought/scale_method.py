"""The method `scale`, as another package would bring it: ``y = v * (W0 x + b)``, ``v = 1`` at the start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from dora_cli.methods.base import Method, check_tensor
from dora_cli.methods.linear import is_transposed, swap_modules, trained_type, weight_of


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


class Scale(Method):
    name = "scale"

    def __init__(self, *, momentum: float, nesterov: bool) -> None:
        self.momentum, self.nesterov = momentum, nesterov

    def place(self, model: nn.Module) -> None:
        self.layers = {site.name: Scaled(site.module, site.shape[0]) for site in self.sites}
        swap_modules(model, {layer.base: layer for layer in self.layers.values()})

    def parameters(self) -> list[nn.Parameter]:
        return [layer.v for layer in self.layers.values()]

    def make_optimizer(self, groups: Sequence[Mapping[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            [dict(group) for group in groups], momentum=self.momentum, nesterov=self.nesterov, fused=True
        )

    @torch.no_grad()
    def merged_tensors(self, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
        for name, layer in self.layers.items():
            v, bias = layer.v.to(dtype), layer.base.bias
            product = v[:, None] * weight_of(layer.base).to(dtype)
            yield f"{name}.weight", product.T if is_transposed(layer.base) else product
            if isinstance(bias, torch.Tensor):
                yield f"{name}.bias", v * bias.to(dtype)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {f"{name}.v": layer.v.detach() for name, layer in self.layers.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        for name, layer in self.layers.items():
            check_tensor(f"{name}.v", state, layer.v.shape, layer.v.dtype)
            layer.v.copy_(state[f"{name}.v"])
