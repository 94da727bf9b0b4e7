"""Which method a model carries, for whoever holds the model alone."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from dora_cli.errors import ModelError
from dora_cli.methods.base import LoraFactors, Method

_MARK = "_dora_method"
_ORIGIN = "_dora_origin"

M = TypeVar("M", bound=nn.Module)


def mark(model: nn.Module, method: Method, origin: Any = None) -> None:
    """Remembers on `model` that `method` is attached to it, and how it came to that.

    A copy of the model carries a copy of both.
    """
    model.__dict__[_MARK], model.__dict__[_ORIGIN] = method, origin


def origin_of(model: nn.Module) -> Any:
    """What `mark` was told of how `model` came to its method."""
    return model.__dict__[_ORIGIN]


def carried(model: nn.Module) -> Method | None:
    """The method that `mark` left on `model`."""
    method: Method | None = model.__dict__.get(_MARK)
    return method


def attached(model: nn.Module) -> Method:
    """The method that `model` carries. Raises ModelError."""
    method = carried(model)
    if method is None:
        raise ModelError(
            f"this {type(model).__name__} carries no adapter of dora; give the very model that dora_cli.attach or "
            "dora_cli.load_adapter was given (not a wrapper around it), and merge it once"
        )
    return method


def merge(model: M) -> M:
    """Folds every adapted projection of `model` into a plain module, in place, and returns the model.

    The model computes the same function as before, up to rounding, and `save_pretrained` writes it as any other. Before
    the freeze, all components are folded in.

    Raises:
        ModelError: the model carries no adapter.
    """
    attached(model).merge()
    del model.__dict__[_MARK], model.__dict__[_ORIGIN]
    return model


def lora_of(model: nn.Module) -> dict[str, LoraFactors]:
    """Plain LoRA of every adapted projection of `model` that has components: ``B @ A`` is the update of its weight.

    Raises:
        ModelError: the model carries no adapter, or one that is no plain LoRA.
    """
    return plain_factors(attached(model))


def plain_factors(method: Method) -> dict[str, LoraFactors]:
    """`to_lora` of `method`. Raises ModelError where its update is no plain LoRA."""
    factors = method.to_lora()
    if factors is None:
        way = f"it {method.cannot_merge}; save its adapter instead" if method.cannot_merge else "merge it instead"
        raise ModelError(f"the update of method {method.name} is no plain LoRA; {way}")
    return factors
