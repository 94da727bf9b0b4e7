"""The mean of the weights over the last steps of a run: what is evaluated and kept, while training goes on from the
weights themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from dora_cli.assembly.averaged import AveragedSteps
from dora_cli.errors import CheckpointError
from dora_cli.printable import shown
from dora_cli.training.pieces import pieces


class Averaging:
    """A running mean of all that trains, ``m <- m + (w - m) / n`` after step `n` of those that are averaged.

    (A sum would lose digits of weights that hardly move: each addition rounds in the size of the sum, always the same
    way.) A step that was skipped counts with the weights that it left. All processes hold the same weights, and so the
    same mean.

    The mean and the weights exchange their places for an evaluation and for what is saved: tensors stay where they
    are, as captured work needs it, and no third copy of all is made.

    Args:
        steps: which are averaged.
        parameters: all that trains, in the optimiser's order.

    Attributes:
        count: `n`, how many steps the mean is over so far.
    """

    def __init__(self, steps: AveragedSteps, parameters: Sequence[nn.Parameter]) -> None:
        self._steps = steps
        self.count = 0
        self.follow(parameters)

    def follow(self, parameters: Sequence[nn.Parameter]) -> None:
        """Makes the place for the mean of `parameters`, where others trained before; now, not only when it is needed,
        so that memory that is too small is known from the start.
        """
        if self.count:
            assert [*map(id, parameters)] == [*map(id, self._parameters)], "the average begins after the last event"
            return
        self._parameters: list[torch.Tensor] = list(parameters)
        self._means = [torch.zeros_like(parameter, requires_grad=False) for parameter in parameters]
        self._share = torch.zeros((), dtype=parameters[0].dtype, device=parameters[0].device)

    # -- a step --------------------------------------------------------------------------------------------------------

    def begin(self, step: int) -> bool:
        """On the host, after the optimiser's step: whether `accumulate` follows, for which ``1 / n`` is on the device
        then.
        """
        self.count = self._steps.done(step)
        if self.count:
            self._share.fill_(1 / self.count)
        return self.count > 0

    @torch.no_grad()
    def accumulate(self, _: Mapping[str, torch.Tensor]) -> None:
        """Takes the weights into the mean, on the device alone and the same work at every step."""
        for part in pieces(self._parameters):
            difference = torch._foreach_sub(self._parameters[part], self._means[part])
            torch._foreach_mul_(difference, self._share)
            torch._foreach_add_(self._means[part], difference)

    # -- what is evaluated and kept ------------------------------------------------------------------------------------

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the model has the mean for its weights, once there is one; afterwards the weights that train are
        back, to the bit, whatever has happened.
        """
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def settle(self) -> None:
        """Leaves the mean in the model for good: nothing trains after it."""
        self._exchange()
        self.count = 0

    @torch.no_grad()
    def _exchange(self) -> None:
        if not self.count:
            return
        for parameter, mean in zip(self._parameters, self._means, strict=True):
            kept = parameter.clone()
            parameter.copy_(mean)
            mean.copy_(kept)

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The weights that train, by number, once there is a mean: a checkpoint has that in their place."""
        if not self.count:
            return {}
        return {str(number): parameter.detach() for number, parameter in enumerate(self._parameters)}

    @torch.no_grad()
    def load_state_dict(self, tensors: Mapping[str, torch.Tensor], step: int) -> None:
        """Restores what `state_dict` gave after `step`, while the model has the mean for its weights.

        Raises CheckpointError on the first misfit, before anything is written.
        """
        self.count = self._steps.done(step)
        wanted = {str(number): parameter for number, parameter in enumerate(self._parameters)} if self.count else {}
        if odd := wanted.keys() ^ tensors.keys():
            name = min(odd)
            said = "is missing from the checkpoint" if name in wanted else "has no place in this run at this step"
            raise CheckpointError(f"weight {shown(name)} of those that train {said}; use another checkpoint of the run")
        for name, parameter in wanted.items():
            saved = tensors[name]
            if saved.shape != parameter.shape or saved.dtype != parameter.dtype:
                raise CheckpointError(
                    f"weight {name} of those that train is {saved.dtype} {tuple(saved.shape)} in the checkpoint; this "
                    f"model and recipe need {parameter.dtype} {tuple(parameter.shape)}"
                )
            if not bool(saved.isfinite().all()):
                raise CheckpointError(
                    f"weight {name} of those that train is not finite in the checkpoint; it is damaged, use another "
                    "one of the run"
                )
        for (name, parameter), mean in zip(wanted.items(), self._means, strict=False):
            mean.copy_(parameter)
            parameter.copy_(tensors[name])
