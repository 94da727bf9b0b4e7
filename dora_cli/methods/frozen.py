"""Frozen linear maps in the precision of the arithmetic: cast once, not in every pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

_CAST = (torch.float32, torch.bfloat16, torch.float16)


class FrozenMaps:
    """The weights and biases of the linear maps of `model` that do not train.

    Autocast casts them in every pass, though they are the same every time. Within `cast` the maps hold copies in its
    precision: what calls them computes the same to the bit, with nothing to cast. (As for autograd, writes through
    ``.data`` go unnoticed. Code that reads a bias past its map gets it rounded.)
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._made: tuple[torch.dtype, list[tuple[int, int]]] | None = None
        self._copies: list[nn.Parameter] = []

    @contextmanager
    def cast(self, dtype: torch.dtype | None) -> Iterator[None]:
        """Around a forward and backward pass under autocast in `dtype`; None, for a pass without, changes nothing."""
        places = [] if dtype is None else self._places(dtype)
        present = [parameter for _, _, parameter in places]
        state = [(parameter.data_ptr(), parameter._version) for parameter in present]
        if dtype is not None and self._made != (dtype, state):
            self._copies = [nn.Parameter(parameter.detach().to(dtype), requires_grad=False) for parameter in present]
            self._made = dtype, state
        try:
            for (module, name, _), copy in zip(places, self._copies, strict=False):
                setattr(module, name, copy)
            yield
        finally:
            for module, name, parameter in places:
                setattr(module, name, parameter)

    def release(self) -> None:
        """Frees the copies; the next pass makes them anew."""
        self._made, self._copies = None, []

    def _places(self, dtype: torch.dtype) -> list[tuple[nn.Module, str, nn.Parameter]]:
        # Not of subclasses: these may read their weight in another way.
        maps = [module for module in self._model.modules() if type(module) in (nn.Linear, Conv1D)]
        return [
            (module, name, parameter)
            for module in maps
            for name, parameter in module.named_parameters(recurse=False)
            # autocast leaves float64 alone
            if not parameter.requires_grad and parameter.dtype in _CAST and parameter.dtype != dtype
        ]
