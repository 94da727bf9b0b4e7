"""What methods share that train tensors of the base model itself, where these stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import nn

from dora_cli.methods.base import Group, load_tensors


def tensors_outside(
    model: nn.Module, head: Sequence[nn.Parameter], wanted: Callable[[str], bool] = lambda name: True
) -> dict[str, nn.Parameter]:
    """The parameters of `model` whose full name is `wanted`, those of `head` left out, in model order.

    One that several modules share (an embedding tied to a language-modelling head) stands there once, by its first
    name.
    """
    left_out = {id(parameter) for parameter in head}
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if id(parameter) not in left_out and parameter.is_floating_point() and wanted(name)
    }


def is_bias(name: str) -> bool:
    """Whether a parameter is a bias: by its own name, not by that of its module, as ``relative_attention_bias.weight``
    (T5) is an embedding. It need be no vector: XLNet keeps some by head.
    """
    own = name.rpartition(".")[2]
    return own == "bias" or own.endswith("_bias")  # the latter in DeBERTa's first version: q_bias, v_bias


class BaseTensors:
    """Parameters of a base model that train, by full name.

    The model holds them already, so nothing is folded, and merging only settles their type. They stay the objects they
    are: modules that share one go on sharing it.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = dict(parameters)
        for parameter in self._parameters.values():
            parameter.requires_grad_(True)

    def parameters(self) -> list[nn.Parameter]:
        return list(self._parameters.values())

    def groups(self, head: Sequence[nn.Parameter]) -> list[Group]:
        """These and `head`: weight decay falls on matrices; vectors and all biases are spared, as transformers' Trainer
        spares biases and the weights of normalisations.
        """
        biases = {id(parameter) for name, parameter in self._parameters.items() if is_bias(name)}
        everything = [*self.parameters(), *head]
        matrices = [parameter for parameter in everything if parameter.ndim > 1 and id(parameter) not in biases]
        decaying = {id(parameter) for parameter in matrices}
        spared = [parameter for parameter in everything if id(parameter) not in decaying]
        groups = [Group(matrices), Group(spared, weight_decay=0.0)]
        return [group for group in groups if group.parameters]

    def merged(self, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
        """Full name and value in `dtype`."""
        for name, parameter in self._parameters.items():
            yield name, parameter.detach().to(dtype)

    def settle(self, dtype: torch.dtype | None) -> None:
        """They cease to train, and are rounded to `dtype`; None leaves their type."""
        for parameter in self._parameters.values():
            parameter.requires_grad_(False)
            if dtype is not None:
                parameter.data = parameter.data.to(dtype)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {name: parameter.detach() for name, parameter in self._parameters.items()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restores `state_dict`; every tensor is checked before the first is written. Raises CheckpointError."""
        load_tensors(self._parameters, state)
