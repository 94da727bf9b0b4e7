"""The one place in which a method's update becomes part of base weights: folded in for a while, or merged for good.

Base tensors are never written to: a module is given new parameters, since another module may share its old ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from dora_cli.methods.linear import is_transposed, swap_modules, trained_type, weight_of

Merged = Iterator[tuple[str, torch.Tensor]]
"""Tensors by full name, made as they are asked for: one at a time is in memory before it is rounded."""


@torch.no_grad()
def with_updates(updates: Iterable[tuple[str, nn.Module, torch.Tensor | None]], dtype: torch.dtype) -> Merged:
    """Base plus update of every linear map that has one, by the weight's full name and in its own layout, in `dtype`.

    Args:
        updates: the map's full name, the map, and its update, ``(d_out, d_in)``.
    """
    for name, base, update in updates:
        if update is not None:
            merged = weight_of(base).detach().to(dtype) + update
            yield f"{name}.weight", merged.T if is_transposed(base) else merged


@contextmanager
def folded_in(
    model: nn.Module, bases: Mapping[str, nn.Module], merged: Callable[[torch.dtype], Merged]
) -> Iterator[None]:
    """Within it, `model` is plain and computes with `merged`; afterwards it is as it was, to the bit.

    Args:
        bases: by full name, the base modules in whose places a method may have put others.
    """
    weights = [weight_of(base) for base in bases.values()]
    plain = _Plain(model, bases)
    try:
        plain.put(merged(trained_type(weights[0].dtype) if weights else torch.float32))
        yield
    finally:
        plain.take_back()


def merge_into(model: nn.Module, bases: Mapping[str, nn.Module], tensors: Merged, dtype: torch.dtype | None) -> None:
    """Makes `model` plain for good, `tensors` in it, rounded to `dtype`; None for the type of what they replace."""
    _Plain(model, bases).put(tensors, dtype)


class _Plain:
    """Base modules with other parameters, in the places of what a method has put there; see `folded_in`."""

    def __init__(self, model: nn.Module, bases: Mapping[str, nn.Module]) -> None:
        self._model, self._bases = model, bases
        self._places = {name: model.get_submodule(name) for name in bases}
        self._old: list[tuple[nn.Module, str, nn.Parameter]] = []
        self._swapped = False

    def put(self, tensors: Merged, dtype: torch.dtype | None = None) -> None:
        """Puts plain modules in place, with `tensors` rounded to `dtype`, or to the type of what they replace."""
        for name, tensor in tensors:
            path, _, attribute = name.rpartition(".")
            module = self._bases.get(path) or self._model.get_submodule(path)
            old = getattr(module, attribute)
            rounded = tensor.detach().to(dtype or old.dtype).contiguous()
            setattr(module, attribute, nn.Parameter(rounded, requires_grad=False))
            self._old.append((module, attribute, old))
        self._swap({place: self._bases[name] for name, place in self._places.items()})
        self._swapped = True

    def take_back(self) -> None:
        """Puts all back, also after a `put` that failed halfway."""
        for module, attribute, old in self._old:
            setattr(module, attribute, old)
        if self._swapped:
            self._swap({self._bases[name]: place for name, place in self._places.items()})

    def _swap(self, replacements: Mapping[nn.Module, nn.Module]) -> None:
        """A base module goes on in the mode, training or evaluating, in which its place was."""
        others = {old: new.train(old.training) for old, new in replacements.items() if old is not new}
        if others:
            swap_modules(self._model, others)
