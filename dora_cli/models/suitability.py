"""Whether a model can take a head, as far as that is known without a network and without weights."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from dora_cli.errors import ModelError
from dora_cli.models.family import is_decoder_only, is_encoder_decoder
from dora_cli.models.known import Kind, known_kind
from dora_cli.models.loading import Choose
from dora_cli.models.quiet import quiet_loading
from dora_cli.models.source import ModelUnreachableError, find_source


def kind_if_suitable(name: str, choose: Choose, *, refused: Mapping[Kind, str] = MappingProxyType({})) -> Kind | None:
    """What kind of model `name` is; None for a hub model that is not in the local cache and no known example. The hub
    is not asked.

    Args:
        name: ``builtin:NAME``, a folder, or a hub id.
        choose: chooses the head.
        refused: kinds of models that cannot take it, and why: asked where there is no config to look at.

    Raises:
        ModelError: there is no such model, or it cannot take the head.
    """
    try:
        source = find_source(name, ask_hub=False)
    except ModelUnreachableError:
        kind = known_kind(name)
        if kind is not None and kind in refused:
            raise ModelError(f"model.name: {name!r} is an {kind}, which {refused[kind]}") from None
        return kind
    with quiet_loading():
        _, config = choose(source)
    return "encoder-decoder" if is_encoder_decoder(config) else "decoder" if is_decoder_only(config) else "encoder"
