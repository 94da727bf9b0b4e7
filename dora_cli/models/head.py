"""Heads: what stands on a base model for a task, and the rule which of it trains besides the adapters."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Protocol

from torch import nn

from dora_cli.models.structure.blocks import base_prefix

if TYPE_CHECKING:
    from dora_cli.models.known import Kind
    from dora_cli.models.loading import LoadedModel


class Head(Protocol):
    """What a task wants on a base model."""

    def load(self, name: str, *, revision: str | None, dtype: str, seed: int, trust_remote_code: bool) -> LoadedModel:
        """The base model `name` with this head; raises ModelError."""

    def from_config(self, name: str, *, revision: str | None, trust_remote_code: bool) -> nn.Module:
        """The model of `load` on the meta device: shapes without weights.

        Raises:
            ModelUnreachableError: a hub model whose config is not at hand.
            ModelError: as `load`, as far as a config can tell.
        """

    def outline(self, name: str, *, revision: str | None, trust_remote_code: bool, ask_hub: bool = True) -> LoadedModel:
        """The model of `from_config` with its tokenizer: all that encoding takes. Without `ask_hub` nothing is fetched.

        Raises:
            ModelUnreachableError: a hub model whose config or tokenizer is not at hand.
            ModelError: as `load`, as far as they can tell.
        """

    def kind_of(self, name: str) -> Kind | None:
        """What kind of model `name` is; None where that is not known without the hub.

        Raises:
            ModelError: there is no such model, or it cannot take this head.
        """

    def auto_class(self, *, encoder_decoder: bool) -> str:
        """Name of the transformers class that loads a model with this head."""

    def arguments(self) -> list[str]:
        """What that class must be told of the head, as arguments in Python."""

    @property
    def reads_last_token(self) -> bool:
        """Whether on a decoder it reads the last token that is no padding, so that it must know which is padding."""


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
