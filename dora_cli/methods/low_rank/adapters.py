"""The adapters of a method of two factors on a model: their layers, their components by shape, their training pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import nn

from dora_cli.errors import CheckpointError
from dora_cli.methods.base import LoraFactors, Replacement, check_tensor
from dora_cli.methods.linear import swap_modules
from dora_cli.methods.low_rank.components import Components
from dora_cli.methods.low_rank.layer import AdaptedProjection
from dora_cli.methods.low_rank.lean.passes import Passes
from dora_cli.printable import shown


class Adapters:
    """Puts `layers` in the place of their bases in `model`, whose own parameters are frozen.

    Attributes:
        layers: by full path; those that lost all their components are gone.
        groupings: how often components were put together.
        order: the names of the layers of all groups, one group after the other.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, AdaptedProjection]) -> None:
        self._model, self.layers = model, dict(layers)
        self.groupings = 0
        self._passes = Passes(model)
        for layer in self.layers.values():
            layer.base.requires_grad_(False)
        swap_modules(model, {layer.base: layer for layer in self.layers.values()})
        self.regroup()

    def parameters(self) -> list[nn.Parameter]:
        """Factors, and gates where there are any, layer by layer."""
        return [parameter for layer in self.layers.values() for parameter in layer.factors().values()]

    # -- components by shape -------------------------------------------------------------------------------------------

    def regroup(self) -> None:
        """Puts the components of all projections of a shape together; again after every change of ranks."""
        # By device, type and scale too: a model for evaluation may be spread over several devices.
        alike: dict[Hashable, list[str]] = defaultdict(list)
        for name, layer in self.layers.items():
            shape = layer.out_features, layer.in_features
            kind = shape, layer.chunks, layer.frozen, layer.scaling, layer.A.dtype, layer.A.device
            alike[kind].append(name)
        self._groups = [Components([self.layers[name] for name in names]) for names in alike.values()]
        self.order = [name for names in alike.values() for name in names]
        self._passes.forget()
        self.groupings += 1

    def groups(self) -> list[Components]:
        """All components by shape, their layers in the order of `order`.

        The model may have been moved or copied since they were put together.
        """
        if not all(group.holds for group in self._groups):
            self.regroup()
        return self._groups

    # -- training ------------------------------------------------------------------------------------------------------

    def training_pass(self, dtype: torch.dtype | None = None) -> AbstractContextManager[None]:
        """One forward and backward pass with less work than autograd's own way, see `Passes.around`."""
        return self._passes.around(self.groups(), dtype)

    # -- ranks that shrink ---------------------------------------------------------------------------------------------

    def shrink(self, name: str, kept: torch.Tensor) -> list[Replacement]:
        """Leaves a layer the components `kept`; without any, the base module takes its place again.

        Call `regroup` when all are done.
        """
        layer = self.layers[name]
        if len(kept) == layer.rank:
            return []
        index = kept.to(layer.A.device)
        replaced = []
        for attribute, old in layer.factors().items():
            dimension = _across(attribute)
            new = nn.Parameter(old.detach().index_select(dimension, index)) if len(kept) else None
            if new is not None:
                setattr(layer, attribute, new)
            replaced.append(Replacement(old, new, dimension, index))
        if not len(kept):
            swap_modules(self._model, {layer: layer.base})
            del self.layers[name]
        return replaced

    def quieten(self, names: Sequence[str]) -> None:
        """Takes the noise from the weights of these layers."""
        for name in names:
            self.layers[name].noise = None
        self._passes.forget()

    # -- links that follow one another ---------------------------------------------------------------------------------

    def tie(self, fresh: Mapping[str, tuple[torch.Tensor, torch.Tensor]], *, factor: float = 1.0) -> None:
        """What all layers have learned stays as it is from here on; what trains are others.

        Args:
            fresh: `A` and `B` of each layer that trains on, by name; nothing trains in the others.
            factor: of the updates that are tied.
        """
        for name, layer in self.layers.items():
            none = layer.A.new_empty(0, layer.in_features), layer.A.new_empty(layer.out_features, 0)
            layer.tie(*fresh.get(name, none), factor=factor)
        self.regroup()

    def resize(self, state: Mapping[str, torch.Tensor]) -> None:
        """Gives every layer as many components as `state` holds of it, tied and trained, to load them."""
        for name, layer in self.layers.items():
            tied, trained = (len(state[key]) if key in state else 0 for key in (f"{name}.tied_A", f"{name}.A"))
            layer.resize(tied, trained)
        self.regroup()

    # -- what came of it -----------------------------------------------------------------------------------------------

    def delta(self, name: str, dtype: torch.dtype) -> torch.Tensor | None:
        """The update of a layer's weight, ``(d_out, d_in)``, in `dtype`; None where no component is left."""
        return self.layers[name].delta(dtype) if name in self.layers else None

    def release(self) -> None:
        """Frees the training pass's copies of base weights."""
        self._passes.forget()

    def to_lora(self, live: Mapping[str, torch.Tensor] | None = None) -> dict[str, LoraFactors]:
        """``A`` and ``s B diag(c)`` of every layer, tied components first; of those that `live` says (by name),
        or all.
        """
        factors = {}
        for name, layer in self.layers.items():
            A, B = layer.whole()
            if live is not None:
                A, B = A[live[name]], B[:, live[name]]
            if A.shape[0]:
                # A copy: the factors must not follow the parameters when training goes on.
                factors[name] = LoraFactors(
                    A.to("cpu", torch.float32, copy=True).contiguous(), B.to("cpu", torch.float32).contiguous()
                )
        return factors

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Every factor that trains, and gate, as ``NAME.A``, ``NAME.B``, ``NAME.c``; what is tied as ``NAME.tied_A``
        and ``NAME.tied_B``.
        """
        return {
            f"{name}.{key}": value.detach().contiguous()
            for name, layer in self.layers.items()
            for key, value in _stored(layer).items()
        }

    @torch.no_grad()
    def load_state_dict(
        self, state: Mapping[str, torch.Tensor], kept: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        """Restores `state_dict`. Raises CheckpointError on the first misfit, before anything is changed.

        Args:
            state: of layers of the same ranks, which `resize` can give them.
            kept: of every layer, by name, the components that `state` holds, where these are not all: it shrinks to
                them first.
        """
        expected = set()
        for name, layer in self.layers.items():
            rank = layer.rank if kept is None else len(kept[name])
            for key, factor in _stored(layer).items() if rank or layer.tied else ():
                shape = list(factor.shape)
                if kept is not None:
                    shape[_across(key)] = rank
                check_tensor(f"{name}.{key}", state, shape, factor.dtype)
                expected.add(f"{name}.{key}")
        if unknown := state.keys() - expected:
            raise CheckpointError(
                f"tensor {shown(min(unknown))} is in the checkpoint, but this model and recipe have no place for it"
            )
        if kept is not None:
            for name in list(self.layers):
                self.shrink(name, kept[name])
            self.regroup()
        for name, layer in self.layers.items():
            for key, factor in _stored(layer).items():
                factor.copy_(state[f"{name}.{key}"])


def _across(factor: str) -> int:
    """The dimension of `A`, `B` or `c` along which components lie."""
    return 1 if factor == "B" else 0


def _stored(layer: AdaptedProjection) -> dict[str, torch.Tensor]:
    """What a finished adapter stores of a layer, by attribute."""
    tied = dict(zip(("tied_A", "tied_B"), layer.tied_factors(), strict=True)) if layer.tied else {}
    return {**tied, **layer.factors()}
