"""BitFit (Ben Zaken et al. 2022, arXiv 2106.10199): the biases train and nothing else of the base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from dora_cli.errors import ModelError
from dora_cli.methods.base import Group, Method
from dora_cli.methods.base_tensors import BaseTensors, tensors_outside
from dora_cli.methods.frozen import FrozenMaps


class BitFit(Method):
    """All biases train, those of LayerNorm included (reference section 2.5)."""

    name = "bitfit"

    def check(self, model: nn.Module, head: Sequence[nn.Parameter]) -> None:
        if not tensors_outside(model, head, _is_bias):
            raise ModelError(
                f"model.name: {type(model).__name__} has no bias outside its head, and method.name bitfit trains "
                "nothing else; choose a model with biases (RoBERTa, BERT, GPT-2, BART), or another method, such as lora"
            )

    def place(self, model: nn.Module) -> None:
        self._tensors = BaseTensors(tensors_outside(model, self.head, _is_bias))
        self._frozen = FrozenMaps(model)

    def parameters(self) -> list[nn.Parameter]:
        return self._tensors.parameters()

    def groups(self) -> list[Group]:
        return self._tensors.groups(self.head)

    def training_pass(
        self, dtype: torch.dtype | None = None, masks: Mapping[str, torch.Tensor] | None = None
    ) -> AbstractContextManager[None]:
        return self._frozen.cast(dtype)

    def merged_tensors(self, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
        return self._tensors.merged(dtype)

    def folded(self) -> AbstractContextManager[None]:
        return nullcontext()

    def merge(self, dtype: torch.dtype | None = None) -> None:
        self.release()
        self._tensors.settle(dtype)

    def release(self) -> None:
        self._frozen.release()

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self._tensors.state_dict()

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self._tensors.load_state_dict(state)


def _is_bias(name: str) -> bool:
    """By its own name, not by that of its module: ``relative_attention_bias.weight`` (T5) is an embedding."""
    own = name.rpartition(".")[2]
    return own == "bias" or own.endswith("_bias")  # the latter in DeBERTa's first version: q_bias, v_bias
