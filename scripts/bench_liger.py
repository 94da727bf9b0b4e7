"""Norms, rotations and gated activations of Llama's blocks by the kernels of the package liger-kernel, to compare
compiled blocks with; installed by hand (``pip install liger-kernel``), since nothing else here needs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

REPLACED = ("apply_rotary_pos_emb", "LlamaRMSNorm", "LlamaMLP")
"""What the package replaces in transformers' module for all models."""


class Liger:
    """The kernels in one model.

    Rotations are a function that all models of a process share, so they are the package's within `around` alone.

    Args:
        model: one of transformers' Llamas; its norms and gates compute by the package's kernels from here on.

    Raises:
        SystemExit: it is no Llama, or the package is not installed.
    """

    def __init__(self, model: nn.Module) -> None:
        try:
            from liger_kernel.transformers import apply_liger_kernel_to_llama  # type: ignore[import-not-found]
        except ImportError as error:
            raise SystemExit(f"rows -liger need the package liger-kernel: {error}") from error
        from transformers.models.llama import modeling_llama

        if not isinstance(model, modeling_llama.LlamaPreTrainedModel):
            raise SystemExit(f"rows -liger are of Llamas, {type(model).__name__} is none; add --family llama")
        self._module: Any = modeling_llama
        before = {name: getattr(modeling_llama, name) for name in REPLACED}
        apply_liger_kernel_to_llama(cross_entropy=False, fused_linear_cross_entropy=False, model=model)
        self._rotate = modeling_llama.apply_rotary_pos_emb
        for name, value in before.items():
            setattr(modeling_llama, name, value)

    @contextmanager
    def around(self) -> Iterator[None]:
        """Passes within it have its rotations."""
        before = self._module.apply_rotary_pos_emb
        self._module.apply_rotary_pos_emb = self._rotate
        try:
            yield
        finally:
            self._module.apply_rotary_pos_emb = before
