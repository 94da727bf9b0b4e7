"""What a training pass asks of the projections it works on, and of the noise on their weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import nn

Rows = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]
"""`A`, the transpose of `B`, and the gates, a row a component."""

Watch = Callable[[torch.Tensor, torch.Tensor], None]
"""Is shown ``u = A x`` (after dropout) and ``dL/du`` of a call of a layer, ``(..., r)``, in its backward pass."""


class Strength(Protocol):
    """What the noise of all projections of a method shares; `flatness.Flatness` is it.

    Attributes:
        turn: another number for each step.
    """

    turn: int

    def clock(self, device: torch.device) -> torch.Tensor: ...
    def scale_on(self, device: torch.device) -> torch.Tensor: ...


class WeightNoise(Protocol):
    """Noise on the weight of one projection; `flatness.Noise` is it."""

    @property
    def flatness(self) -> Strength: ...
    @property
    def number(self) -> int: ...
    def deviations(self, layer: Layer, out: torch.Tensor | None = None) -> torch.Tensor: ...
    def perturb(
        self, weight: torch.Tensor, deviations: torch.Tensor, out: torch.Tensor, room: torch.Tensor | None = None
    ) -> torch.Tensor: ...
    def map(self, layer: Layer, x: torch.Tensor) -> torch.Tensor: ...


class Layer(Protocol):
    """A projection as training passes take it. `AdaptedProjection` is one, whose attributes these are."""

    base: nn.Module
    A: nn.Parameter
    B: nn.Parameter
    scaling: float
    dropout: float
    training: bool
    chunks: int
    frozen: frozenset[str]
    noise: WeightNoise | None
    watch: Watch | None
    lean: Callable[[torch.Tensor], torch.Tensor] | None

    @property
    def c(self) -> nn.Parameter | None: ...
    @property
    def rank(self) -> int: ...
    @property
    def tied(self) -> int: ...
    @property
    def bias(self) -> torch.Tensor | None: ...
    def tied_factors(self) -> tuple[torch.Tensor, torch.Tensor]: ...


class Group(Protocol):
    """Projections of one weight shape, as training passes take them: a LoRA each, a row a component.

    `Components` is one; another may compute these factors from what it trains, when a pass begins, and the gradients of
    that when it ends.

    Attributes:
        layers: the projections, in the order of their rows.
        starts: the first row of each.
        A, B_t, c: the factors, the one of the outputs transposed, and the gates; None without.
    """

    @property
    def layers(self) -> Sequence[Layer]: ...
    @property
    def starts(self) -> Sequence[int]: ...
    @property
    def A(self) -> torch.Tensor: ...
    @property
    def B_t(self) -> torch.Tensor: ...
    @property
    def c(self) -> torch.Tensor | None: ...
    @property
    def scaling(self) -> float: ...
    def take_gradients(self) -> Rows:
        """Where a pass adds the gradients of `A`, `B_t` and `c`, the same tensors every time."""

    def begin_pass(self) -> None:
        """Before a forward pass: computes `A`, `B_t` and `c`."""

    def end_pass(self) -> None:
        """After the backward pass: gives what trains its gradients."""
