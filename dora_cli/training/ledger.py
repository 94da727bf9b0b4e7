"""What the device itself remembers of a training's steps, so that the host need not wait for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from dora_cli.methods import takes_triton

MAX_SKIPPED_FP16 = 25
"""Steps in a row that the fp16 scaler may skip.

It starts at 2^16 and halves each time: after 25 the scale is far below 1.
"""


class Ledger:
    """Sums and counters in tensors that are only ever changed in place, so that a CUDA graph can keep them.

    Each operation on one number is a launch of a microsecond or two in every step: where Triton launches, one kernel
    does them all, see `triton_ledger`.

    A non-finite loss or gradient norm makes a step bad: it changes nothing. `skip_nonfinite` bad steps are let pass;
    the next one halts the run: from it on nothing changes any more, until the host reads `halted`. Under fp16 the
    scaler's own skipped steps are expected: there only a long row of them halts.

    Args:
        device: where the tensors are.
        skip_nonfinite: bad steps to let pass, without fp16.
        scaled: whether gradients are scaled (fp16).
    """

    def __init__(self, device: torch.device, *, skip_nonfinite: int, scaled: bool) -> None:
        self._most, self._scaled = MAX_SKIPPED_FP16 if scaled else skip_nonfinite, scaled
        self._by_triton = takes_triton(device)

        def scalar(value: float, dtype: torch.dtype) -> torch.Tensor:
            return torch.full((), value, dtype=dtype, device=device)

        # what the present step adds to what is summed since the last reading: its loss, so far, and a step; and to what
        # is summed over the epoch: its loss times its units, and these
        self._adds = torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64, device=device)
        self.loss, _, self._weighted, self._units = self._adds.unbind()
        self._sums = torch.zeros_like(self._adds)
        self.loss_sum, self.steps, self.epoch_loss, self.epoch_units = self._sums.unbind()
        self.number = scalar(0, torch.int64)  # of the present step
        self.units = scalar(1, torch.int64)  # loss units of the present step, over all processes
        self.skipped = scalar(0, torch.bool)  # whether the present step changed nothing
        self.grad_norm = scalar(0, torch.float64)
        self.regulariser = scalar(0, torch.float64)
        self.halted = scalar(0, torch.bool)
        self.bad_steps = scalar(0, torch.int64)  # fp16: in a row; else all of them
        self.first_bad = scalar(-1, torch.int64)  # fp16: of the row; else the first that ends the run
        self._number = 0

    def begin(self, step: int, units: int) -> None:
        """Before the first micro-batch of step number `step`."""
        if step != self._number + 1:  # the device counts by itself
            self.number.fill_(step - 1)
        self._number = step
        self.units.fill_(units)

    def judge(self, norm: torch.Tensor) -> torch.Tensor:
        """Ends a step whose loss is known and the `norm` of its gradients, a scalar: adds it to the sums unless it is
        skipped, and forgets its loss; returns whether it is skipped.
        """
        if not self._by_triton:
            self.grad_norm.copy_(norm)
            self._judge()
            self._book()
            return self.skipped
        from dora_cli.training.update.triton_ledger import judge

        if norm.device != self.grad_norm.device:  # the norm of no gradients at all is on the CPU
            norm = self.grad_norm.copy_(norm)
        step = self._adds, self._sums, self.number, self.units, norm, self.grad_norm
        state = self.skipped, self.halted, self.bad_steps, self.first_bad
        judge(*step, *state, most=self._most, scaled=self._scaled)
        return self.skipped

    def _judge(self) -> None:
        self.number += 1
        both = self.grad_norm + self.loss
        bad = (both - both) != 0  # not a number where one of them is not finite
        if self._scaled:  # a good step ends the row
            first = torch.where(bad, torch.where(self.first_bad < 0, self.number, self.first_bad), -1)
            self.bad_steps.copy_(torch.where(bad, self.bad_steps + 1, 0))
            self.first_bad.copy_(torch.where(self.halted, self.first_bad, first))
            ending = self.bad_steps > self._most
        else:
            self.bad_steps += bad
            ending = self.bad_steps > self._most
            torch.where(ending > self.halted, self.number, self.first_bad, out=self.first_bad)
        self.halted |= ending
        torch.logical_or(self.halted, bad, out=self.skipped)

    def _book(self) -> None:
        torch.mul(self.loss, self.units, out=self._weighted)
        self._units.copy_(self.units)
        self._sums += torch.where(self.skipped, 0.0, self._adds)
        self.loss.zero_()

    def announce(self) -> None:
        """Launches what later steps will, on numbers of another ledger: for the kernel to be compiled."""
        if self._by_triton:
            device = self.loss.device
            other = Ledger(device, skip_nonfinite=self._most, scaled=self._scaled)
            other.judge(torch.zeros((), device=device))

    def take_loss(self) -> float:
        """Mean loss of the steps since the last call; waits for the device."""
        return _taken_mean(self.loss_sum, self.steps)

    def take_epoch_loss(self) -> float:
        """Mean loss of the epoch so far over its loss units, skipped steps left out; starts the next epoch's sum.

        Waits.
        """
        return _taken_mean(self.epoch_loss, self.epoch_units)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on with, as plain values; waits for the device."""
        return {
            "halted": bool(self.halted),
            "bad_steps": int(self.bad_steps),
            "first_bad": int(self.first_bad),
            "loss_sum": float(self.loss_sum),
            "steps": int(self.steps),
            "epoch_loss": float(self.epoch_loss),
            "epoch_units": int(self.epoch_units),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises KeyError, TypeError or an error of torch where `state` is none."""
        self.halted.fill_(state["halted"])
        self.bad_steps.fill_(state["bad_steps"])
        self.first_bad.fill_(state["first_bad"])
        self.loss_sum.fill_(state["loss_sum"])
        self.steps.fill_(state["steps"])
        self.epoch_loss.fill_(state["epoch_loss"])
        self.epoch_units.fill_(state["epoch_units"])


def _taken_mean(total: torch.Tensor, count: torch.Tensor) -> float:
    """Not a number where every step was skipped: there is no loss then, least of all 0."""
    mean = float(total) / int(count) if int(count) else float("nan")
    total.zero_()
    count.zero_()
    return mean
