"""Linear maps and their storage: `nn.Linear` keeps its weight as (out, in), GPT-2's `Conv1D` as (in, out)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D


def is_transposed(module: nn.Module) -> bool:
    """Whether `module` stores its weight as ``(d_in, d_out)``."""
    return isinstance(module, Conv1D)


def weight_of(module: nn.Module) -> torch.Tensor:
    """The weight of a linear map as ``(d_out, d_in)``, a view where the storage is transposed."""
    weight = module.weight
    assert isinstance(weight, torch.Tensor) and weight.ndim == 2, f"{type(module).__name__} is not a linear map"
    return weight.T if is_transposed(module) else weight


def shape_of(module: nn.Module) -> tuple[int, int]:
    """``(d_out, d_in)`` of a linear map."""
    d_out, d_in = weight_of(module).shape
    return int(d_out), int(d_in)


def trained_type(dtype: torch.dtype) -> torch.dtype:
    """The type of whatever trains in a model of `dtype`: fp32, or wider where the model is."""
    return torch.promote_types(dtype, torch.float32)


def swap_modules(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> None:
    """Puts each value of `replacements` wherever `model` holds its key, under every name it is registered by."""
    for parent in list(model.modules()):
        if parent in replacements.values():
            continue
        for name, child in parent._modules.items():
            if child is not None and child in replacements:
                parent._modules[name] = replacements[child]
