"""Norms, known by their class's name and their own parameters: LayerNorm, RMSNorm, and what models make of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn


def is_norm(module: nn.Module) -> bool:
    """Whether `module` normalises its input over the last dimension and scales it."""
    own = dict(module.named_parameters(recurse=False))
    weight = own.get("weight")
    named = "norm" in type(module).__name__.lower()
    return named and isinstance(weight, torch.Tensor) and weight.ndim == 1 and own.keys() <= {"weight", "bias"}


def norms_within(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Full path and module of every norm in `module`, whose own full path is `name`, in model order."""
    for path, child in module.named_modules(prefix=name):
        if is_norm(child):
            yield path, child
