"""NoRA on small models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dora_cli.methods import Nora
from dora_cli.methods.base import Measured
from dora_cli.recipe.methods import arguments
from dora_cli.recipe.methods.nora import NoraMethod
from tests.methods.small import linear_maps, sites, small_encoder

NAMES = [f"blocks.{block}.{name}" for block in (0, 1) for name in ("att", "up", "down")]


def new_nora(**settings: Any) -> Nora:
    """NoRA with a recipe's defaults for what `settings` leave open, of ranks that fit `small_encoder`."""
    return Nora(**(arguments(NoraMethod()) | {"rank": 2, "outer_rank": 6} | settings))


def moments(seed: int = 3) -> dict[str, torch.Tensor]:
    """``E[x x^T]`` of random inputs of unequal strength, in fp32 as a calibration measures them."""
    found = {}
    for index, name in enumerate(NAMES):
        d_in = 14 if name.endswith("down") else 10
        generator = torch.Generator().manual_seed(seed + index)
        x = torch.randn(50, d_in, generator=generator) * torch.rand(d_in, generator=generator).exp()
        found[name] = x.T @ x / 50
    return found


def attached(
    method: Nora,
    model: nn.Module | None = None,
    *,
    seed: int = 0,
    measured: Mapping[str, torch.Tensor] | None = None,
    **how: Any,
) -> nn.Module:
    """A small model with `method` on its blocks, calibrated where that is asked for."""
    model = small_encoder() if model is None else model
    method.attach(model, sites(linear_maps(model, "blocks")), seed=seed, **how)
    if method.fresh and method.calibration() is not None:
        method.calibrate(Measured(inputs=moments() if measured is None else measured))
    return model


def scramble(method: Nora) -> None:
    """Puts another number into every inner factor."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


def answers(model: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        return model(torch.randn(5, 10, generator=generator, dtype=torch.float64))
