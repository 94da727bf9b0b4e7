"""BitFit behind the contract."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import ClassVar

import torch
from torch import nn

from dora_cli.errors import ModelError
from dora_cli.methods.base import Group, Method
from dora_cli.methods.base_tensors import BaseTensors, is_bias, tensors_outside
from dora_cli.methods.bitfit.lean import LeanPass, maps_of
from dora_cli.methods.frozen import FrozenMaps


class BitFit(Method):
    """All biases train, those of LayerNorm included (reference section 2.5)."""

    name = "bitfit"
    packs = True
    announces = True

    _lean_on: ClassVar[tuple[str, ...]] = ("cuda",)
    """Devices on which a pass without autograd's sums is faster: of a small model a CPU waits for Python's calls."""

    def check(self, model: nn.Module, head: Sequence[nn.Parameter]) -> None:
        if not tensors_outside(model, head, is_bias):
            raise ModelError(
                f"model.name: {type(model).__name__} has no bias outside its head, and method.name bitfit trains "
                "nothing else; choose a model with biases (RoBERTa, BERT, GPT-2, BART), or another method, such as lora"
            )

    def place(self, model: nn.Module) -> None:
        self._tensors = BaseTensors(tensors_outside(model, self.head, is_bias))
        self._maps = maps_of(model, self._tensors.parameters())
        self._frozen = FrozenMaps(model)
        self._lean: LeanPass | None = None

    def parameters(self) -> list[nn.Parameter]:
        return self._tensors.parameters()

    def groups(self) -> list[Group]:
        return self._tensors.groups(self.head)

    @contextmanager
    def training_pass(
        self, dtype: torch.dtype | None = None, masks: Mapping[str, torch.Tensor] | None = None
    ) -> Iterator[None]:
        """One forward and backward pass; on CUDA with less work than autograd's own way, up to rounding the same: the
        gradients of the biases are complete when it ends.
        """
        biases = [base.bias for _, _, base in self._maps]
        places = {(bias.device, bias.dtype) for bias in biases if isinstance(bias, torch.Tensor)}
        lean = len(places) == 1 and all(device.type in self._lean_on for device, _ in places)
        with self._frozen.cast(dtype):
            if not lean:  # a CPU, no such map, or a model that is spread over devices
                yield
                return
            ((_, own),) = places
            if self._lean is None or self._lean.dtype != (dtype or own) or not self._lean.holds:
                self._lean = LeanPass(self._maps, dtype or own)
            try:
                with self._lean.around():
                    yield
            except BaseException:
                self._lean = None  # with the sums that it had in part
                raise

    def release(self) -> None:
        self._frozen.release()
        self._lean = None

    def merged_tensors(self, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
        return self._tensors.merged(dtype)

    def folded(self) -> AbstractContextManager[None]:
        return nullcontext()

    def merge(self, dtype: torch.dtype | None = None) -> None:
        self._tensors.settle(dtype)
        self.release()

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self._tensors.state_dict()

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self._tensors.load_state_dict(state)
