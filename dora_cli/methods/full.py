"""Full fine-tuning: every tensor of the base model trains, where it stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from dora_cli.methods.base import Group, Method
from dora_cli.methods.base_tensors import BaseTensors, tensors_outside


class Full(Method):
    """Everything trains (reference section 2.1): what adapters are compared with."""

    name = "full"
    fuses = True
    packs = True

    def place(self, model: nn.Module) -> None:
        self._tensors = BaseTensors(tensors_outside(model, self.head))

    def parameters(self) -> list[nn.Parameter]:
        return self._tensors.parameters()

    def groups(self) -> list[Group]:
        return self._tensors.groups(self.head)

    def merged_tensors(self, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
        return self._tensors.merged(dtype)

    def folded(self) -> AbstractContextManager[None]:
        return nullcontext()

    def merge(self, dtype: torch.dtype | None = None) -> None:
        self._tensors.settle(dtype)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self._tensors.state_dict()

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self._tensors.load_state_dict(state)
