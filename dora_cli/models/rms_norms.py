"""RMS norms by one kernel of PyTorch's own each way, within training passes on a GPU.

Transformers spells such a norm out: eight operations, and eleven of the backward pass, of which each reads and writes
all hidden states. What a module spells out is not read from its name but tried: it must give what PyTorch's gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

_EPS = ("variance_epsilon", "eps")
"""What modules call the number that is added to the mean square."""


class RmsNorms:
    """Some norms of a model.

    Args:
        modules: those for which `is_spelt_out` holds.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = list(modules)

    @contextmanager
    def around(self) -> Iterator[None]:
        """A forward and backward pass of training; a `forward` that somebody else has put there stays theirs."""
        begun = {module: partial(_norm, module) for module in self.modules if "forward" not in vars(module)}
        try:
            for module, forward in begun.items():
                module.forward = forward  # type: ignore[method-assign]
            yield
        finally:
            for module, forward in begun.items():
                if vars(module).get("forward") is forward:
                    del module.forward


def rms_norms(model: nn.Module) -> RmsNorms | None:
    """Those of `model` that PyTorch has a kernel for; None where there are none, or no GPU."""
    if next(model.parameters()).device.type != "cuda":
        return None  # PyTorch spells them out itself
    found = spelt_out(model)
    return RmsNorms(found) if found else None


@torch.no_grad()
def spelt_out(model: nn.Module) -> list[nn.Module]:
    """Every norm of `model` for which `is_spelt_out` holds; random states are afterwards as before."""
    alone = [module for module in model.modules() if not list(module.children())]
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices):
        return [module for module in alone if is_spelt_out(module)]


@torch.no_grad()
def is_spelt_out(module: nn.Module) -> bool:
    """Whether `module` is in training an RMS norm of PyTorch's definition, ``x / sqrt(mean(x^2) + eps) * weight`` over
    the last dimension, and no module of PyTorch's own.
    """
    weight, eps = getattr(module, "weight", None), _eps(module)
    if type(module).__module__.startswith("torch.") or [name for name, _ in module.named_parameters()] != ["weight"]:
        return False
    if not isinstance(weight, torch.Tensor) or weight.dim() != 1 or not weight.is_floating_point() or eps is None:
        return False
    # both where `eps` is nothing beside the squares, and where it is much; no other dimension is one
    x = torch.linspace(-2, 3, 12 * len(weight), device=weight.device).view(3, 4, -1)
    x = (x * x.new_tensor([1.0, eps**0.5, 1.0])[:, None, None]).to(weight.dtype)
    training, module.training = module.training, True
    try:
        found = type(module).forward(module, x)
    except Exception:  # of any kind, as the code of a model is
        return False
    finally:
        module.training = training
    if not isinstance(found, torch.Tensor) or found.dtype != x.dtype or found.shape != x.shape:
        return False
    expected, tolerance = F.rms_norm(x, weight.shape, weight, eps).to(x.dtype), 8 * torch.finfo(x.dtype).eps
    # a weight of zeros would let anything pass
    return bool(weight.any()) and torch.allclose(found, expected, tolerance, tolerance)


def _norm(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The `forward` of `module`: PyTorch's kernel where that takes what is given, as a gate beside it it does not."""
    weight, eps = module.weight, _eps(module)
    assert isinstance(weight, torch.Tensor)
    x = args[0] if len(args) == 1 and not kwargs else None
    if not isinstance(x, torch.Tensor) or x.dtype != weight.dtype or x.shape[-1:] != weight.shape:
        return type(module).forward(module, *args, **kwargs)
    return F.rms_norm(x, weight.shape, weight, eps).to(x.dtype)  # autocast may have had it in fp32


def _eps(module: nn.Module) -> float | None:
    found = next((getattr(module, name) for name in _EPS if hasattr(module, name)), None)
    return float(found) if isinstance(found, float) else None
