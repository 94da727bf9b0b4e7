"""Training that forgets to call the method would go on for hours at the start rank: this says so."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from dora_cli.methods import Dora
from dora_cli.methods.attached import carried


class Watch:
    """A forward pre-hook of the adapted model that counts training passes between two calls of `Dora.after_step`.

    It warns once, after `limit` passes in training mode with gradients, whatever is done with them; an optimiser step
    of many micro-batches needs a `limit` above their number. It reads nothing from the device. Under `torch.compile` it
    does not count.
    """

    def __init__(self, method: Dora, limit: int) -> None:
        self.method = method
        self.limit = limit
        self._passes = 0
        self._step: int | None = method.last_step

    def __call__(self, model: nn.Module, inputs: Any) -> None:
        if torch.compiler.is_compiling() or not model.training or not torch.is_grad_enabled():
            return
        method = self.method
        # Merged, or frozen for good: nothing is left for `after_step` to do.
        if carried(model) is not method or (method.frozen and method.compact):
            return
        if self._step != method.last_step:
            self._step, self._passes = method.last_step, 0
        self._passes += 1
        if self._passes == self.limit:
            warnings.warn(
                f"{self.limit} training passes went through the adapted {type(model).__name__} without a call of the "
                "method's after_step: no component is scored or pruned, and the ranks stay what they are. Call "
                "method.adjust_gradients(step) after backward and method.after_step(step) after optimizer.step(), or "
                "give transformers' Trainer the callback dora_cli.DoraCallback(method); raise warn_after of "
                "dora_cli.attach if an optimiser step really takes so many passes",
                stacklevel=2,
            )
            self.limit = 0  # once is enough
