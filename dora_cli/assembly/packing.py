"""Whether the texts of a batch are put into one row: what ``train.pack`` comes to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from dora_cli.assembly.length import RunLength
from dora_cli.assembly.padding import batches_of_epoch
from dora_cli.data import Encoded, EncodedPairs
from dora_cli.data.packed import Packing
from dora_cli.machine.capture import at_least, reads_positions_on_host
from dora_cli.machine.environment import installed_version
from dora_cli.methods import Method
from dora_cli.models.family import auto_class_of
from dora_cli.models.packed_attention import FAMILIES, attention_dropout, has_kernel, head_width
from dora_cli.recipe import Recipe

_LEAST_TRANSFORMERS = (5, 17)
"""The oldest version that was tried: others hand less on to their attention."""

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Packed:
    """Whether texts are put into rows; if not, why, as a clause."""

    on: bool
    reason: str | None = None


def choose_packing(
    setting: str,
    model: nn.Module,
    method: Method,
    device: torch.device,
    precision: str,
    *,
    captured: bool,
    began: bool | None = None,
) -> Packed:
    """What ``train.pack`` comes to.

    Args:
        setting: ``auto``, ``on`` or ``off``.
        model: it may be on the meta device.
        method: what will adapt it.
        device: where it will train.
        precision: the arithmetic of the run.
        captured: whether steps are captured in CUDA graphs; else the host, not the device, decides how fast they are.
        began: whether the run that goes on had rows of texts, which is what `auto` keeps to; None for a new run.
    """
    if setting == "off":
        return Packed(False)
    reason = _obstacle(model, method)
    if reason is None and setting == "auto":
        reason = _no_gain(model, device, precision, captured)
        if began is not None:
            reason = None if began else "the run began without"
    return Packed(reason is None, reason)


def _obstacle(model: nn.Module, method: Method) -> str | None:
    """What stands in the way, whatever was asked for."""
    config = getattr(model, "config", None)
    kind = str(getattr(config, "model_type", type(model).__name__))
    if config is None or auto_class_of(model) != "AutoModelForCausalLM":
        return f"{type(model).__name__} is no decoder that writes text"
    if kind not in FAMILIES or type(model).__module__.split(".")[0] != "transformers":
        return f"it is not tried with {kind}"
    if not at_least("transformers", _LEAST_TRANSFORMERS):
        least = ".".join(map(str, _LEAST_TRANSFORMERS))
        return f"transformers {installed_version('transformers')} is older than {least}"
    if dropout := attention_dropout(model):
        return f"the model drops weights of its attention, {dropout:g} of them"
    if reads_positions_on_host(config.to_dict()):
        return "the model scales its positions by the longest text of a batch"
    if not method.packs:
        return f"what {method.name} takes from a step may be counted by texts"
    return None


def _no_gain(model: nn.Module, device: torch.device, precision: str, captured: bool) -> str | None:
    """Why `auto` leaves a new run as it is."""
    if device.type != "cuda":
        return "it is made for CUDA"
    if not captured:
        return "steps are not captured in CUDA graphs"
    dtype, width = _HALF.get(precision), head_width(model)
    if dtype is None or width is None or not has_kernel(device, dtype, width):
        return "there is no kernel for texts of different lengths, which takes bf16 or fp16, PyTorch 2.11 and Ampere"
    return None


def packing_of(recipe: Recipe, train: Encoded, length: RunLength) -> Packing:
    """How the texts of a new run are put into rows, by its length and the batches of its first epoch; where nothing is
    captured by shape, as widths on the CPU tell, rows are as long as their texts.
    """
    assert isinstance(train, EncodedPairs)
    (lengths,) = train.sides
    if train.pad_multiple == 1:
        return Packing(1, int(lengths.max()))
    passes = length.total_steps * recipe.train.gradient_accumulation
    return Packing.of(lengths, batches_of_epoch(recipe, train.lengths, length, 1), passes)
