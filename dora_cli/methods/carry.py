"""How Adam's moments follow a factor whose rows were mixed. Pure."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Carry(NamedTuple):
    """How gradients and moments of a factor's rows become those of the new rows.

    Attributes:
        matrix: ``(..., r, r)``, in float64; new rows from old ones.
        known: whether what is said of a new row follows from the old, boolean ``(..., r)``.
    """

    matrix: torch.Tensor
    known: torch.Tensor


@torch.no_grad()
def carried(carry: Carry, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Adam's moments of the old rows of a factor as those of the new ones.

    First moments are exact for gradients at the present weights. Second moments take the gradients of different
    components for uncorrelated: ``v' = matrix^2 v``, entry by entry. Rows that start anew have a first moment of 0 and,
    because Adam's count of steps does not start anew with them, the mean second moment of their projection's other
    rows: from 0 they would take steps of several times the learning rate.

    Args:
        carry: of `A`, or of the transpose of `B`.
        first: ``(..., r, d)``.
        second: likewise, not negative.

    Returns:
        First and second moments, in the types of the old.
    """
    known = carry.known[..., None]
    mean, square = carry.matrix @ first.double(), carry.matrix.square() @ second.double()
    usual = torch.where(known, square, 0.0).sum(-2, keepdim=True) / known.sum(-2, keepdim=True).clamp_min(1)
    return torch.where(known, mean, 0.0).to(first.dtype), torch.where(known, square, usual).to(second.dtype)
