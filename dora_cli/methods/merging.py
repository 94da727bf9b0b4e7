"""The one place in which a method's update becomes part of base weights: folded in for a while, or merged for good.

Base tensors are never written to: a module is given new parameters, since another module may share its old ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from dora_cli.methods.base import Site
from dora_cli.methods.linear import is_transposed, swap_modules, trained_type, weight_of


@torch.no_grad()
def with_deltas(
    sites: Sequence[Site], delta: Callable[[Site], torch.Tensor | None], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Base plus update of every site that has one, by the weight's full name and in its own layout, in `dtype`."""
    found = {}
    for site in sites:
        update = delta(site)
        if update is not None:
            merged = weight_of(site.module).to(dtype) + update
            found[f"{site.name}.weight"] = merged.T if is_transposed(site.module) else merged
    return found


@contextmanager
def folded_in(
    model: nn.Module, sites: Sequence[Site], merged: Callable[[torch.dtype], Mapping[str, torch.Tensor]]
) -> Iterator[None]:
    """Within it, `model` is plain and computes with `merged`; afterwards it is as it was, to the bit."""
    weights = [weight_of(site.module) for site in sites]
    plain = _Plain(model, sites, merged(trained_type(weights[0].dtype) if weights else torch.float32))
    try:
        plain.put()
        yield
    finally:
        plain.take_back()


def merge_into(
    model: nn.Module, sites: Sequence[Site], tensors: Mapping[str, torch.Tensor], dtype: torch.dtype | None
) -> None:
    """Makes `model` plain for good, `tensors` in it, rounded to `dtype`; None for the type of what they replace."""
    _Plain(model, sites, tensors, dtype).put()


class _Plain:
    """Base modules with other parameters, in the places of what a method has put there.

    Args:
        model: changed in place.
        sites: whose modules a method may have replaced.
        tensors: new values by full name, in the layout of what they replace.
        dtype: what they are rounded to; None for the type of what they replace.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        tensors: Mapping[str, torch.Tensor],
        dtype: torch.dtype | None = None,
    ) -> None:
        self._model, self._dtype = model, dtype
        self._bases = {site.name: site.module for site in sites}
        self._places = {name: model.get_submodule(name) for name in self._bases}
        self._new: dict[nn.Module, dict[str, torch.Tensor]] = defaultdict(dict)
        for name, tensor in tensors.items():
            path, _, attribute = name.rpartition(".")
            self._new[self._bases.get(path) or model.get_submodule(path)][attribute] = tensor
        self._old: list[tuple[nn.Module, str, nn.Parameter]] = []

    def put(self) -> None:
        for module, tensors in self._new.items():
            for attribute, tensor in tensors.items():
                old = getattr(module, attribute)
                rounded = tensor.detach().to(self._dtype or old.dtype).contiguous()
                self._old.append((module, attribute, old))
                setattr(module, attribute, nn.Parameter(rounded, requires_grad=False))
        self._swap({place: self._bases[name] for name, place in self._places.items()})

    def take_back(self) -> None:
        for module, attribute, old in self._old:
            setattr(module, attribute, old)
        self._swap({self._bases[name]: place for name, place in self._places.items()})

    def _swap(self, replacements: Mapping[nn.Module, nn.Module]) -> None:
        """A base module goes on in the mode, training or evaluating, in which its place was."""
        others = {old: new.train(old.training) for old, new in replacements.items() if old is not new}
        if others:
            swap_modules(self._model, others)
