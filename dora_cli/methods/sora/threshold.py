"""The proximal step of the gates, as the paper has it and as the published code does it. Pure functions of tensors.

Both leave every gate alone where `xi` is 0, so a skipped step needs no work of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

Threshold = Literal["soft", "official"]
Operator = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def soft(gates: torch.Tensor, xi: torch.Tensor) -> torch.Tensor:
    """Soft thresholding, ``sign(g) max(|g| - xi, 0)`` (paper, section 3.2).

    Args:
        gates: of any shape.
        xi: a scalar of their type on their device, at least 0.
    """
    return gates - gates.clamp(-xi, xi)


def official(gates: torch.Tensor, xi: torch.Tensor) -> torch.Tensor:
    """What the published code comes to, whose three assignments work on each other's results: they take `xi` off every
    gate above it, add `xi` to every one below ``-xi``, and then set all of size below `xi` to zero.

    So a gate of size below ``2 xi`` becomes 0 and one above is ``sign(g) (|g| - xi)``; of size `xi` exactly, neither
    shrunk nor below it, it stays as it is.

    Args:
        gates: of any shape.
        xi: a scalar of their type on their device, at least 0.
    """
    shrunk = torch.where(gates.abs() > xi, soft(gates, xi), gates)
    return torch.where(shrunk.abs() < xi, 0.0, shrunk)


OPERATORS: dict[Threshold, Operator] = {"soft": soft, "official": official}
"""By the name a recipe gives them."""
