"""A bottleneck adapter around a module of the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

Activation = Literal["gelu", "relu"]

ACTIVATIONS: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    # the approximation by tanh, as in Houlsby et al.'s code
    "gelu": lambda z: F.gelu(z, approximate="tanh"),
    "relu": F.relu,
}


@dataclass(frozen=True)
class Tensors:
    """The four tensors of an adapter, or sums of their gradients, each ``(splits, entries)``."""

    W_down: torch.Tensor
    b_down: torch.Tensor
    W_up: torch.Tensor
    b_up: torch.Tensor


class Bottleneck(nn.Module):
    """``y + W_up f(W_down y + b_down) + b_up`` of what `base` gives, ``y``, ``(..., d)``.

    The four tensors are what trains, in fp32 (float64 in a float64 model). `forward` is the mathematics as it stands;
    while `lean` is set (`LeanPass`), the same is computed with less work.

    Args:
        base: a frozen projection, a dropout or a norm.
        W_down: ``(m, d)`` at the start.
        W_up: ``(d, m)`` at the start. Both biases are 0 at the start.
        activation: `f`.
    """

    def __init__(self, base: nn.Module, W_down: torch.Tensor, W_up: torch.Tensor, activation: Activation) -> None:
        super().__init__()
        m, d = W_down.shape
        assert W_up.shape == (d, m)
        self.base = base
        self.activation: Activation = activation
        self.W_down, self.b_down = nn.Parameter(W_down), nn.Parameter(W_down.new_zeros(m))
        self.W_up, self.b_up = nn.Parameter(W_up), nn.Parameter(W_up.new_zeros(d))
        self.lean: Callable[[torch.Tensor], torch.Tensor] | None = None
        self.train(base.training)

    def tensors(self) -> dict[str, nn.Parameter]:
        """What trains, by attribute, in the order of `forward`."""
        return {"W_down": self.W_down, "b_down": self.b_down, "W_up": self.W_up, "b_up": self.b_up}

    @property
    def weight(self) -> torch.Tensor:
        """The base's own; some models ask for its type."""
        return self.base.weight  # type: ignore[return-value]

    @property
    def bias(self) -> torch.Tensor | None:
        return self.base.bias  # type: ignore[return-value]

    def forward(self, *args: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.base(*args)
        if self.lean is not None:
            return self.lean(y)
        h = y
        if h.dtype != self.W_down.dtype and not torch.is_autocast_enabled(y.device.type):
            h = h.to(
                self.W_down.dtype
            )  # a half-precision base outside autocast: the adapter stays in its own precision
        u = ACTIVATIONS[self.activation](F.linear(h, self.W_down, self.b_down))
        return y + F.linear(u, self.W_up, self.b_up).to(y.dtype)

    def extra_repr(self) -> str:
        m, d = self.W_down.shape
        return f"width={d}, bottleneck={m}, activation={self.activation}"
