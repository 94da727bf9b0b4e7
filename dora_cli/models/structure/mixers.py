"""Linear maps of state-space mixers (Mamba, and what descends from it) whose weights are read past the module.

Fused kernels, where they are installed, are handed the weights of a mixer's inner and output projections in training
instead of calling the modules, so an adapter there would learn nothing, unnoticed; PEFT refuses to load one on
``out_proj`` for that reason. The projection the kernels get their input from is called in any case. Of ``dt_proj`` the
weight alone is read, with or without kernels.
"""

from __future__ import annotations

from torch import nn

from dora_cli.models.structure.blocks import is_linear_map

_STATE_SPACE = {"A_log", "D"}
"""A mixer's own parameters, as Mamba's authors and everybody after them call them."""
_CALLED = "in_proj"
_NEVER_CALLED = "dt_proj"


def read_past(model: nn.Module) -> dict[str, nn.Module]:
    """Linear maps, by full path, that fused kernels may read past the module; adapted by explicit patterns alone."""
    return {
        f"{path}.{name}": child
        for path, mixer in model.named_modules()
        if mixer._parameters.keys() >= _STATE_SPACE
        for name, child in mixer.named_children()
        if is_linear_map(child) and name != _CALLED
    }


def never_called(path: str) -> bool:
    """Whether the linear map `path`, one of `read_past`, is never called as a module, so that no adapter can have an
    effect there.
    """
    return path.rpartition(".")[2] == _NEVER_CALLED
