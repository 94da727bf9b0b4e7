"""The head rule: what trains besides the adapters."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from dora_cli.models.structure.blocks import base_prefix


def head_parameters(model: nn.Module, fresh: Collection[str] = ()) -> dict[str, nn.Parameter]:
    """The head: everything outside the base model's prefix, plus every module with a fresh parameter.

    A parameter outside the prefix that is also used inside it (a tied LM head) is not head. A model without a base
    prefix (a home-made one, or a base model itself) has no "outside": its head is what `fresh` names. Nor has a model
    that generates text: its language-modelling head was pretrained with the rest and stays frozen, tied or not.

    Args:
        model: the model, before or after adapters were attached.
        fresh: names of parameters that no checkpoint filled, as in `LoadedModel.fresh`.

    Returns:
        Full name -> parameter, in model order.
    """
    prefix = "" if _generates(model) else base_prefix(model)
    base = {id(p) for p in model.get_submodule(prefix).parameters()}
    owners = {name.rpartition(".")[0] for name in fresh}
    renewed = {id(p) for owner in owners for p in model.get_submodule(owner).parameters(recurse=False)}
    return {name: p for name, p in model.named_parameters() if id(p) not in base or id(p) in renewed}


def _generates(model: nn.Module) -> bool:
    """Transformers' models say so themselves; none of those with a classification head does."""
    ask = getattr(model, "can_generate", None)
    return callable(ask) and bool(ask())
