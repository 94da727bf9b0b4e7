"""NoRA behind the contract: an inner LoRA that trains between outer factors that the base weight decides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import nn

from dora_cli.errors import BudgetError, CheckpointError, ModelError
from dora_cli.methods.base import (
    Allocation,
    Calibration,
    LoraFactors,
    Measured,
    Method,
    PlainSchedule,
    Schedule,
    Shape,
    Site,
    Size,
    check_tensor,
)
from dora_cli.methods.linear import trained_type, weight_of
from dora_cli.methods.nora.components import NestedAdapters
from dora_cli.methods.nora.layer import NestedProjection
from dora_cli.methods.nora.outer import (
    WIDTH,
    Outer,
    Sharing,
    Sketch,
    batches,
    outer_factors,
    scales_of,
    sketch_of,
    turned,
)
from dora_cli.printable import shown

TOLERANCE = 1e-4
"""How far outer factors that were computed again may be from those of the training, in shares of a component's size."""


class Nora(Method):
    """NoRA (Lin et al. 2024; reference section 3.5): ``W0 + s B_o B A A_o``, ``s = alpha / r'``.

    `B_o` and `A_o` are frozen: of a truncated SVD of ``W0``, see `dora_cli.methods.nora.outer`. At the start ``A ~
    U(+-1/sqrt(r))`` and ``B = 0``, as in a LoRA whose input has `r` features. ``B_o`` carries the size of the weight,
    so that an update is one in proportion to it.

    Args:
        rank: `r'`, of the inner LoRA.
        outer_rank: `r`, of the outer factors.
        alpha: the update is scaled by ``alpha / rank``.
        dropout: probability for the adapters' input.
        outer: whether the SVD is of the weight alone, or of the weight with its inputs scaled by their strength.
        singular_values: which outer factor holds them.
        activation_power: of the inputs' root mean squares, where they scale.
        calibration_examples: of the training split, for these.
        stored: whether the outer factors are part of the state; else a `Sketch` of them is, with what it takes to
            compute them again from the base weight.
    """

    name = "nora"
    fuses = True
    packs = True
    announces = True

    def __init__(
        self,
        *,
        rank: int,
        outer_rank: int,
        alpha: float,
        dropout: float,
        outer: Literal["plain", "activation-aware"],
        singular_values: Sharing,
        activation_power: float,
        calibration_examples: int,
        stored: bool,
    ) -> None:
        self.rank, self.outer_rank, self.dropout = rank, outer_rank, dropout
        self.scaling = alpha / rank
        self.aware, self.sharing, self.stored = outer == "activation-aware", singular_values, stored
        self.activation_power, self.calibration_examples = activation_power, calibration_examples

    # -- planning and attaching ----------------------------------------------------------------------------------------

    def plan(self, total_steps: int, sites: Sequence[Site]) -> PlainSchedule:
        narrow = [site for site in sites if site.name and min(site.shape) < self.outer_rank]
        if narrow:
            least = min(narrow, key=lambda site: min(site.shape))
            d_out, d_in = least.shape
            raise BudgetError(
                f"method.outer_rank is {self.outer_rank:,}, but the weight of {least.name} ({d_in:,} to {d_out:,}) has "
                f"only {min(least.shape):,} singular values, and {len(narrow):,} of {len(sites):,} projections have "
                "too few; lower it, or leave them out of method.targets"
            )
        return PlainSchedule.of(total_steps, self.rank * len(sites))

    def start_ranks(self, sites: Sequence[Site]) -> dict[str, int]:
        return dict.fromkeys((site.name for site in sites), self.rank)

    def planned_size(self, sites: Sequence[Site], schedule: Schedule) -> tuple[int, int | None]:
        return 2 * self.rank * self.outer_rank * len(sites), sum(self._stored(site.shape) for site in sites)

    def _stored(self, shape: Shape) -> int:
        """Entries that a finished adapter stores for one projection."""
        inner, (d_out, d_in) = 2 * self.rank * self.outer_rank, shape
        if self.stored:
            return inner + self.outer_rank * (d_in + d_out)
        return inner + 2 * self.outer_rank * WIDTH + (d_in if self.aware else 0)

    def place(self, model: nn.Module) -> None:
        """Wraps every projection; where a training begins, the plain SVD is taken now, the other by `calibrate`."""
        layers = {site.name: self._wrapped(site) for site in self.sites}
        # what scaled the inputs, by site; empty for a plain SVD
        self._scales = {name: layer.A_o.new_ones(layer.in_features) for name, layer in layers.items() if self.aware}
        self._adapters = NestedAdapters(model, layers)
        if self.fresh and not self.aware and not any(layer.A_o.is_meta for layer in layers.values()):
            self._start()

    def _wrapped(self, site: Site) -> NestedProjection:
        bound, dtype = self.outer_rank**-0.5, trained_type(weight_of(site.module).dtype)
        A = torch.empty(self.rank, self.outer_rank, dtype=dtype).uniform_(-bound, bound, generator=self.generator)
        return NestedProjection(site.module, A, torch.zeros_like(A.T), scaling=self.scaling, dropout=self.dropout)

    def calibration(self) -> Calibration | None:
        return Calibration("inputs", self.calibration_examples) if self.aware else None

    def calibrate(self, measured: Measured) -> None:
        """The activation-aware SVD."""
        for name, scales in self._scales.items():
            scales.copy_(scales_of(measured.inputs[name], self.activation_power))
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        for name, outer in self._computed():
            layer = self._adapters.layers[name]
            layer.A_o.copy_(outer.A)
            layer.B_o.copy_(outer.B)

    def _computed(self) -> Iterator[tuple[str, Outer]]:
        """The outer factors of every site, of its base weight and the scales there are, in float64.

        Raises:
            ModelError: a weight is not finite.
        """
        weights = {site.name: weight_of(site.module).detach() for site in self.sites}
        for names in batches(weights):
            together = torch.stack([weights[name] for name in names])
            finite = together.flatten(1).isfinite().all(1).tolist()
            if not all(finite):
                raise ModelError(
                    f"the weight of {names[finite.index(False)]} holds values that are not finite (NaN or infinite), "
                    "so it has no singular values, of which method nora makes its factors; use another base model"
                )
            scales = torch.stack([self._scales[name].double() for name in names]) if self._scales else None
            outer = outer_factors(together, self.outer_rank, scales, self.sharing)
            yield from ((name, outer[index]) for index, name in enumerate(names))

    def computed_start(self) -> Sequence[torch.Tensor]:
        outer = [factor for layer in self._adapters.layers.values() for factor in (layer.A_o, layer.B_o)]
        return [*outer, *self._scales.values()]

    # -- training ------------------------------------------------------------------------------------------------------

    def parameters(self) -> list[nn.Parameter]:
        return self._adapters.parameters()

    def training_pass(
        self, dtype: torch.dtype | None = None, masks: Mapping[str, torch.Tensor] | None = None
    ) -> AbstractContextManager[None]:
        return self._adapters.training_pass(dtype)

    # -- what came of it -----------------------------------------------------------------------------------------------

    def delta(self, site: Site, dtype: torch.dtype) -> torch.Tensor | None:
        return self._adapters.layers[site.name].delta(dtype)

    def release(self) -> None:
        self._adapters.release()

    def size(self) -> Size:
        """Trained is what the inner LoRA holds; stored are the outer factors too, or what stands for them."""
        trained = sum(parameter.numel() for parameter in self.parameters())
        return Size(sum(self._stored(site.shape) for site in self.sites), trained, self._stored_bytes())

    def allocation(self) -> list[Allocation]:
        return [
            Allocation(site.name, site.shape, self.rank, self.rank, parameters=self._stored(site.shape))
            for site in self.sites
        ]

    def to_lora(self) -> dict[str, LoraFactors]:
        """``A A_o`` and ``s B_o B``, of rank `r'`."""
        found = {}
        for name, layer in self._adapters.layers.items():
            A, B = (factor.to("cpu", torch.float32).contiguous() for factor in layer.plain(torch.float64))
            found[name] = LoraFactors(A, B)
        return found

    # -- saving and loading --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The inner factors (``NAME.A``, ``.B``) and the outer ones (``NAME.A_o``, ``.B_o``); where these are not
        stored, sketches of them (``NAME.A_sketch``, ``.B_sketch``), and the scales of the inputs where there are any.
        """
        state = {
            f"{name}.{key}": value.detach().contiguous()
            for name, layer in self._adapters.layers.items()
            for key, value in layer.factors().items()
        }
        for name, layer in self._adapters.layers.items():
            if self.stored:
                state |= {f"{name}.A_o": layer.A_o.contiguous(), f"{name}.B_o": layer.B_o.contiguous()}
                continue
            sketch = sketch_of(Outer(layer.A_o, layer.B_o))
            state |= {f"{name}.A_sketch": sketch.A, f"{name}.B_sketch": sketch.B}
        return state | ({} if self.stored else {f"{name}.scales": scales for name, scales in self._scales.items()})

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restores `state_dict`; computes outer factors that are not stored again, with the signs that they had.

        Raises:
            CheckpointError: a tensor does not fit, or outer factors do not come near those of the training.
        """
        for key, shape, dtype in self._expected():
            check_tensor(key, state, shape, dtype)
        if unknown := state.keys() - {key for key, *_ in self._expected()}:
            raise CheckpointError(
                f"tensor {shown(min(unknown))} is in the checkpoint, but this model and recipe have no place for it"
            )
        for name, scales in self._scales.items() if not self.stored else ():
            scales.copy_(state[f"{name}.scales"])
        again = {} if self.stored else self._recomputed(state)
        for name, layer in self._adapters.layers.items():
            layer.A.copy_(state[f"{name}.A"])
            layer.B.copy_(state[f"{name}.B"])
            layer.A_o.copy_(state[f"{name}.A_o"] if self.stored else again[name].A)
            layer.B_o.copy_(state[f"{name}.B_o"] if self.stored else again[name].B)

    def _expected(self) -> list[tuple[str, tuple[int, ...], torch.dtype]]:
        """Key, shape and type of every tensor of a state."""
        found: list[tuple[str, tuple[int, ...], torch.dtype]] = []
        for name, layer in self._adapters.layers.items():
            r, inner, dtype = self.outer_rank, self.rank, layer.A.dtype
            shapes: dict[str, tuple[int, ...]] = {"A": (inner, r), "B": (r, inner)}
            if self.stored:
                shapes |= {"A_o": (r, layer.in_features), "B_o": (layer.out_features, r)}
            else:
                shapes |= {"A_sketch": (r, WIDTH), "B_sketch": (r, WIDTH)}
                shapes |= {"scales": (layer.in_features,)} if self.aware else {}
            found += [(f"{name}.{key}", shape, dtype) for key, shape in shapes.items()]
        return found

    def _recomputed(self, state: Mapping[str, torch.Tensor]) -> dict[str, Outer]:
        """The outer factors, computed from the base weights as they are here. Raises CheckpointError on a misfit."""
        found = {}
        for name, computed in self._computed():
            sketch = Sketch(*(state[f"{name}.{key}"].to(computed.A) for key in ("A_sketch", "B_sketch")))
            outer, misfit = turned(computed, sketch)
            if not misfit <= TOLERANCE:
                raise CheckpointError(
                    f"the outer factors of {name} are not in the checkpoint (method.stored: false), and computed again "
                    f"from the base weight they are {misfit:.2g} of their size away from those of the training, more "
                    f"than {TOLERANCE:g}: the base model is another one, or this machine tells equal singular values "
                    "apart in another way; load the base model of the run, or train with method.stored: true"
                )
            found[name] = outer.to(self._adapters.layers[name].A.dtype)
        return found
