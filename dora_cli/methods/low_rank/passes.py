"""The training passes over a model, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from dora_cli.methods.low_rank.lean import LeanPass
from dora_cli.methods.low_rank.protocols import Group


class Passes:
    """The training passes over a model, one after the other: each with what the first of its kind has prepared."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._lean: LeanPass | None = None

    def forget(self) -> None:
        """What is prepared is of no use any more, or takes up memory that is needed."""
        self._lean = None

    @contextmanager
    def around(self, groups: Sequence[Group], dtype: torch.dtype | None) -> Iterator[None]:
        """One forward and backward pass with less work than autograd's own way, up to rounding the same.

        The parameters' gradients are complete when it ends, not before: whoever sums them over processes does it
        afterwards, and DistributedDataParallel, which sums within `backward`, needs the plain pass. Within it only
        `backward` gives gradients, not `torch.autograd.grad`.

        Args:
            groups: of all projections; others only after `forget`.
            dtype: autocast's, where autocast is entered within; None means that of the autocast around it, or else the
                factors' own.
        """
        if not groups:  # every projection lost all its components
            yield
            return
        if dtype is None:
            device = groups[0].A.device.type
            dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else groups[0].A.dtype
        if self._lean is None or self._lean.dtype != dtype:
            self._lean = LeanPass(self._model, groups, dtype)
        lean = self._lean
        if lean.drops and not lean.kernels.draws_alike and lean.computes_twice:
            yield
            return
        try:
            lean.begin()
            yield
        except BaseException:
            self._lean = None  # with the gradients that it had in part
            raise
        finally:
            lean.end()
        lean.finish()
