"""Whether a run's blocks are compiled into fused kernels: what ``train.fuse`` comes to.

What it costs is known before, roughly: the compiler's time, once at the first step. What it wins grows with steps and
blocks. `auto` compiles where it wins, and only what tests hold against the uncompiled steps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import nn

from dora_cli.machine.environment import installed_version
from dora_cli.methods import Method
from dora_cli.models.structure.blocks import find_blocks

FAMILIES = frozenset(
    {"albert", "bert", "distilbert", "electra", "gpt2", "gpt_neox", "llama", "mistral", "opt", "qwen2", "roberta"}
)
"""Model types whose compiled steps are tried against the uncompiled ones."""

COMPILE_SECONDS = 60.0
"""What compiling the block of a family takes on two cores where nothing is kept yet; from what is kept, a tenth."""

SAVED_PER_BLOCK = 4.1e-5
"""Seconds that a compiled block saves in a captured step, forward and backward: what each of RoBERTa-base's 12 blocks
saved, with its share of the embeddings, at 16 x 64 tokens on an H200 (docs/results/steps.md), under bf16; at 32 x 128
it was 9.3e-5.
"""

SAVED_PER_LLAMA_BLOCK = 1.7e-4
"""The same of each of the 30 blocks of SmolLM2-135M's shapes at 32 x 64: rotations and gates are many small operations
there.
"""

_LIKE_LLAMA = frozenset({"llama", "mistral", "qwen2"})
"""Model types whose blocks compute what Llama's do."""

_LEAST_TORCH = (2, 11)


@dataclass(frozen=True)
class Fusion:
    """Whether blocks are compiled; if not, why, as a clause."""

    on: bool
    reason: str | None = None


def choose_fusion(
    setting: str,
    model: nn.Module,
    method: Method,
    device: torch.device,
    *,
    captured: bool,
    steps: int,
    deterministic: bool,
    began: bool | None = None,
) -> Fusion:
    """What ``train.fuse`` comes to.

    Args:
        setting: ``auto``, ``on`` or ``off``.
        model: it may be on the meta device.
        method: what will adapt it.
        device: where it will train.
        captured: whether steps are captured in CUDA graphs; else the host, not the device, decides how fast they are.
        steps: of the whole run.
        deterministic: whether the run is to be repeatable to the bit on CUDA, where the compiler could choose other
            kernels at another time.
        began: whether the run that goes on had them compiled, which is what `auto` keeps to; None for a new run.
    """
    if setting == "off":
        return Fusion(False)
    reason = _obstacle(model, method)
    if reason is None and setting == "auto":
        reason = _no_gain(model, device, captured, steps, deterministic)
        if began is not None:
            reason = None if began else "the run began without"
    return Fusion(reason is None, reason)


def _obstacle(model: nn.Module, method: Method) -> str | None:
    """What stands in the way, whatever was asked for."""
    found = re.match(r"(\d+)\.(\d+)", installed_version("torch") or "")
    if found is None or (int(found[1]), int(found[2])) < _LEAST_TORCH:
        return f"PyTorch {installed_version('torch')} is older than {'.'.join(map(str, _LEAST_TORCH))}"
    if not method.fuses:
        return f"{method.name} computes within the blocks what the compiler does not see"
    if not find_blocks(model):
        return "the model has no repeated blocks"
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        return "gradient checkpointing is on, which computes blocks twice"
    return None


def _no_gain(model: nn.Module, device: torch.device, captured: bool, steps: int, deterministic: bool) -> str | None:
    """Why `auto` leaves a new run as it is."""
    kind = str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))
    blocks = len(find_blocks(model))
    enough = breaks_even(blocks, kind)
    if device.type != "cuda":
        return "it is made for CUDA"
    if not captured:
        return "steps are not captured in CUDA graphs"
    if deterministic:
        return "train.deterministic is on"
    if kind not in FAMILIES:
        return f"it is not tried with {kind}"
    if steps < enough:
        return f"compiling takes longer than {steps:,} steps win; from {enough:,} on it pays"
    return None


def breaks_even(blocks: int, kind: str) -> int:
    """From how many steps on compiling pays for a model of so many blocks, of transformers' model type `kind`."""
    saved = SAVED_PER_LLAMA_BLOCK if kind in _LIKE_LLAMA else SAVED_PER_BLOCK
    return round(COMPILE_SECONDS / (blocks * saved))
