"""Norms of blocks that train together with adapters."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from dora_cli.methods.linear import swap_modules, trained_type
from dora_cli.methods.norms import norms_within


class WideNorm(nn.Module):
    """A norm whose parameters are wider than what it reads: computes in their precision, answers in that of its input.

    Args:
        base: the norm.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.train(base.training)

    @property
    def weight(self) -> torch.Tensor:
        return self.base.weight  # type: ignore[return-value]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.base(x.to(self.weight.dtype))
        return y.to(x.dtype)


def trained_norms(model: nn.Module, blocks: Iterable[str]) -> dict[str, nn.Module]:
    """The norms of `blocks` of `model`, by full path, with parameters of their own in the type of what trains.

    Where that is wider than the model's, a `WideNorm` takes a norm's place.
    """
    found = dict(norm for name in blocks for norm in norms_within(model.get_submodule(name), name))
    wide: dict[nn.Module, nn.Module] = {}
    for norm in found.values():
        for name, parameter in list(norm.named_parameters(recurse=False)):
            dtype = trained_type(parameter.dtype)
            if dtype != parameter.dtype and norm not in wide:
                wide[norm] = WideNorm(norm)
            # A copy: the base's own tensors are never written to.
            setattr(norm, name, nn.Parameter(parameter.detach().to(dtype, copy=True)))
    swap_modules(model, wide)
    return found
