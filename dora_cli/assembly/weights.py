"""What a run trained, as files: the method's tensors, the head's, and where in the run they were taken.

Never the frozen base; nothing is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dora_cli.assembly.build import AdaptedModel
from dora_cli.errors import CheckpointError
from dora_cli.methods import Method
from dora_cli.printable import shown
from dora_cli.runs.checkpoints import ADAPTER, HEAD, STATE
from dora_cli.runs.folders import Part, read_folder, write_folder
from dora_cli.runs.records.checkpoint import StateRecord, check_state
from dora_cli.runs.records.fields import written

_LISTED = 4  # how many tensors a message names before it counts the rest


@dataclass(frozen=True)
class Weights:
    """A snapshot of what a run trained, on the CPU."""

    adapter: Mapping[str, torch.Tensor]
    head: Mapping[str, torch.Tensor]
    state: Mapping[str, Any]

    @classmethod
    def of(
        cls, adapter: Mapping[str, torch.Tensor], head: Mapping[str, torch.Tensor], state: Mapping[str, Any]
    ) -> Weights:
        """A copy of a method's state and of the head's parameters."""
        return cls(_to_cpu(adapter), _to_cpu(head), dict(state))

    @property
    def parts(self) -> dict[str, Part]:
        """By file name, as `write_folder` takes them."""
        return {ADAPTER: self.adapter, HEAD: self.head, STATE: written(StateRecord, self.state)}

    def restore(self, adapted: AdaptedModel) -> None:
        """Loads into a freshly built model; raises CheckpointError naming the first tensor that does not fit."""
        self.restore_method(adapted.method)
        for name in sorted(set(self.head) ^ set(adapted.head)):
            place = (
                ("is missing from the checkpoint")
                if name in adapted.head
                else "is in the checkpoint but not in this model's head"
            )
            raise CheckpointError(
                f"head tensor {shown(name)} {place}; the base model or the task is not the one the run was trained with"
            )
        for name, parameter in adapted.head.items():
            saved = self.head[name]
            if saved.shape != parameter.shape or saved.dtype != parameter.dtype:
                raise CheckpointError(
                    f"head tensor {shown(name)} is {saved.dtype} {tuple(saved.shape)} in the checkpoint; this model "
                    f"needs {parameter.dtype} {tuple(parameter.shape)}"
                )
            with torch.no_grad():
                parameter.copy_(saved)

    def restore_method(self, method: Method) -> None:
        """Loads what is not the head's into a freshly attached method; raises CheckpointError."""
        if self.state["method"] != method.name:
            raise CheckpointError(
                f"the checkpoint is of the method {self.state['method']!r}, the recipe of its run of {method.name!r}; "
                "the two must come from one run"
            )
        method.load_state_dict(self.adapter)


def _to_cpu(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def save_weights(folder: Path, weights: Weights) -> None:
    """Writes the weights alone into `folder`; raises OutputError."""
    write_folder(folder, weights.parts)


def load_weights(folder: Path) -> Weights:
    """Reads the weights in `folder`, a checkpoint or what `save_weights` wrote.

    Every reader of weights comes through here or through `Snapshot.load`: weights that are not finite go no further.

    Raises:
        CheckpointError: a file is missing or damaged, or holds values that are not finite.
    """
    return weights_in(folder, read_folder(folder, (ADAPTER, HEAD, STATE)))


def weights_in(folder: Path, parts: Mapping[str, Part]) -> Weights:
    """The weights in `parts`, which were read from `folder`; raises CheckpointError."""
    check_state(parts[STATE], folder / STATE)
    for name in (ADAPTER, HEAD):
        if bad := not_finite(parts[name]):
            raise CheckpointError(
                f"{folder / name} holds values that are not finite (NaN or infinite), in {bad}; the training diverged "
                "or the file is damaged: use another checkpoint of the run, or train again with a lower learning rate"
            )
    return Weights(parts[ADAPTER], parts[HEAD], parts[STATE])


def not_finite(tensors: Mapping[str, torch.Tensor]) -> str:
    """The names of the tensors that hold a value that is not finite, the first few and how many more; empty if none
    does.
    """
    names = [
        shown(name) for name, tensor in sorted(tensors.items()) if tensor.is_floating_point() and not _is_finite(tensor)
    ]
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _is_finite(tensor: torch.Tensor) -> bool:
    values = tensor if tensor.element_size() > 1 else tensor.float()  # PyTorch does not ask types of 8 bits
    return bool(values.isfinite().all())
