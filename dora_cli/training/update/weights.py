"""From gradients to weights: clipping, the optimiser's step unless it is a bad one, gradients of zero for the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from dora_cli.methods import takes_triton
from dora_cli.training.optimizer import Unless, has_hooks, is_fused_adamw, rates_on_device

if TYPE_CHECKING:
    from dora_cli.training.update.triton_adamw import Blocks


class Update:
    """What a step does to all that trains, without waiting for the device and the same work every step.

    AdamW over fp32 weights on CUDA is done in blocks by Triton, see `triton_adamw`; whatever else by PyTorch.

    Args:
        optimizer: over all that trains.
        device: of what trains.
        scaled: whether gradients are scaled (fp16); the scaler has the optimiser to itself then.
        captured: whether steps will be captured.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device, *, scaled: bool, captured: bool) -> None:
        self._optimizer, self._device = optimizer, device
        self._step_unless = Unless(optimizer, device)
        # a class of its own may do more in its step, and hooks on one are only called by it
        plain = type(optimizer) is torch.optim.AdamW and is_fused_adamw(optimizer)
        self._may = not scaled and plain and takes_triton(device)
        if captured or self._may:
            rates_on_device(optimizer, device)
        self._known: tuple[list[int], Blocks] | None = None  # and where their tensors are
        self._blocks: Blocks | None = None  # of the present step

    def clip(self, parameters: Sequence[nn.Parameter], most: float | None) -> torch.Tensor:
        """Begins a step: clips the gradients of `parameters`, all that trains, to a norm of `most`, if that is not
        None; returns the norm before. In memory they may be as they were until `step`.
        """
        self._blocks = self._present() or self._found()
        if self._blocks is None:
            if most is None:
                return nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None])
            return nn.utils.clip_grad_norm_(parameters, most)
        return self._blocks.clip(most)

    def step(self, skipped: torch.Tensor) -> None:
        """The optimiser's step; `skipped`, a boolean scalar, says whether nothing is to change."""
        if self._blocks is None:
            self._step_unless(skipped)
        else:
            self._blocks.step(skipped)

    def clear(self, parameters: Sequence[nn.Parameter], more: Sequence[torch.Tensor]) -> None:
        """Ends a step: gradients of `parameters` become zero, and `more`."""
        if self._blocks is not None and self._present() is self._blocks:
            self._blocks.clear()
        else:
            more = [*(one.grad for one in parameters if one.grad is not None), *more]
        if more:
            torch._foreach_zero_(list(more))

    def announce(self, most: float | None) -> None:
        """Launches what later steps will, on nothing: for kernels to be compiled; `most` as `clip` takes it."""
        if self._may:
            from dora_cli.training.update.triton_adamw import Blocks

            flag = torch.ones((), dtype=torch.bool, device=self._device)
            blocks = Blocks(self._optimizer.param_groups[0], [], self._device)
            blocks.clip(most)
            blocks.step(flag)
            blocks.clear()

    def _present(self) -> Blocks | None:
        """The blocks, if the tensors of the optimiser are where they were, and nobody waits for its own step."""
        if self._known is None or has_hooks(self._optimizer):
            return None
        from dora_cli.training.update.triton_adamw import addresses

        return self._known[1] if addresses(self._optimizer) == self._known[0] else None

    def _found(self) -> Blocks | None:
        """The blocks anew, of the tensors that there are now; None where that cannot be, or this is being captured."""
        if not self._may or has_hooks(self._optimizer) or torch.cuda.is_current_stream_capturing():
            return None
        from dora_cli.training.update.triton_adamw import Blocks, addresses, tensors_of

        self._known = None
        if found := tensors_of(self._optimizer):
            blocks = Blocks(self._optimizer.param_groups[0], found, self._device)
            self._known = addresses(self._optimizer), blocks
            return blocks
        return None
