"""Whether a model can do a task of a kind, as far as that is known without a network and without weights."""

from __future__ import annotations

from dora_cli.errors import ModelError
from dora_cli.models.classifier import choose_classifier
from dora_cli.models.family import is_decoder_only, is_encoder_decoder
from dora_cli.models.generator import choose_generator
from dora_cli.models.known import Kind, known_kind
from dora_cli.models.quiet import quiet_loading
from dora_cli.models.source import ModelUnreachableError, find_source


def kind_if_suitable(name: str, *, generates: bool) -> Kind | None:
    """What kind of model `name` is; None for a hub model that is not in the local cache and no known example. The hub
    is not asked.

    Args:
        name: ``builtin:NAME``, a folder, or a hub id.
        generates: whether the task generates text; otherwise it classifies.

    Raises:
        ModelError: there is no such model, or it cannot do the task.
    """
    try:
        source = find_source(name, ask_hub=False)
    except ModelUnreachableError:
        kind = known_kind(name)
        if generates and kind == "encoder":
            raise ModelError(
                f"model.name: {name!r} is an encoder, which does not generate text; choose a decoder (GPT-2, Llama, "
                "...) or a sequence-to-sequence model (BART, T5, ...)"
            ) from None
        return kind
    choose = choose_generator if generates else choose_classifier(2)
    with quiet_loading():
        _, config = choose(source)
    return "encoder-decoder" if is_encoder_decoder(config) else "decoder" if is_decoder_only(config) else "encoder"
