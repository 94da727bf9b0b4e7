"""The base model without a method around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from dora_cli.errors import ExportError
from dora_cli.methods.base import Site
from dora_cli.methods.linear import swap_modules

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def make_plain(model: nn.Module, projections: Sequence[Site]) -> nn.Module:
    """Puts the base's own projections back in place, under every name, and returns `model`; its weights are untouched.

    Afterwards its method is of no use but for what it was asked before.
    """
    wrapped = {model.get_submodule(p.name): p.module for p in projections}
    swap_modules(model, {around: base for around, base in wrapped.items() if around is not base})
    return model


def check_finite(tensors: Mapping[str, torch.Tensor], dtype: str) -> None:
    """Raises ExportError naming the first tensor with a value that is not finite."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            hint = (
                "choose --dtype bfloat16 or float32, which hold larger numbers"
                if dtype == "float16"
                else "the run has diverged or its files are damaged: use another checkpoint of it"
            )
            raise ExportError(f"{name} holds values that are not finite in {dtype}; {hint}")
