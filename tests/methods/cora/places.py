"""A small encoder's projections with their roles, and models beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from dora_cli.assembly.references import weights_at
from dora_cli.methods import Cora
from dora_cli.methods.base import Site
from dora_cli.methods.linear import is_transposed
from dora_cli.recipe.methods import arguments
from dora_cli.recipe.methods.cora import CoraMethod
from tests.methods.small import SmallEncoder, linear_maps, sites

ROLES = {"att": "query", "up": "up", "down": "down"}


def cora(**changes: Any) -> Cora:
    """With a recipe's defaults for what is left open."""
    return Cora(**(arguments(CoraMethod()) | {"rank": 3, "dropout": 0.0} | changes))


def encoder(seed: int = 0, blocks: int = 2, dtype: torch.dtype = torch.float64) -> SmallEncoder:
    torch.manual_seed(seed)
    return SmallEncoder(blocks=blocks).to(dtype).requires_grad_(False)


def places(model: nn.Module) -> list[Site]:
    found = sites(linear_maps(model, "blocks"))
    return [replace(site, role=ROLES[site.name.rpartition(".")[2]]) for site in found]  # type: ignore[arg-type]


def attached(method: Cora, model: nn.Module, *others: nn.Module, fresh: bool = True) -> list[Site]:
    found = places(model)
    references = [weights_at(found, other, "another") for other in others]
    head = list(model.get_submodule("head").parameters())
    method.attach(model, found, head, method.plan(100, found), references=references, fresh=fresh)
    return found


def moved(model: SmallEncoder, directions: dict[str, torch.Tensor], seed: int, size: float = 1.0) -> SmallEncoder:
    """`model` with its weights changed within the span of `directions` ``(d_out, k)``, by their last word."""
    other = encoder(blocks=len(model.blocks))
    other.load_state_dict(model.state_dict())
    generator = torch.Generator().manual_seed(seed)
    for name, module in linear_maps(other, "blocks").items():
        U = directions[name.rpartition(".")[2]]
        width = module.weight.numel() // len(U)
        change = U @ torch.randn(U.shape[1], width, generator=generator, dtype=U.dtype)
        module.weight.add_(change.T if is_transposed(module) else change, alpha=size)
    return other
