"""Making a tokenizer and a model agree on vocabulary, padding, token types and positions, or refusing the two."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from dora_cli.errors import ModelError
from dora_cli.models.family import is_encoder_decoder
from dora_cli.models.structure.embeddings import max_positions, vocabulary_rows


def fit_tokenizer(name: str, model: nn.Module, tokenizer: Any) -> None:
    """Sets both up for each other; `model` may be on the meta device.

    Raises:
        ModelError: tokens without an embedding, more token types than the model has, or nothing to pad with.
    """
    _check_vocabulary(name, model, tokenizer)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelError(
                f"model.name: the tokenizer of {name!r} has neither a pad nor an end-of-sequence token; "
                "set its pad_token"
            )
        tokenizer.pad_token = tokenizer.eos_token  # decoders are trained without padding; attention masks it
    tokenizer.padding_side = "right"
    _fit_token_types(name, model, tokenizer)
    limit = max_positions(model)
    if limit is not None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, limit)
    # Decoders' heads look for the last token that is not this one.
    set_config(model, "pad_token_id", tokenizer.pad_token_id)


def set_config(model: nn.Module, key: str, value: Any) -> None:
    """Sets a key of the model's config, and of its text part's where that is a config of its own."""
    config: Any = model.config
    setattr(config, key, value)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    if text is not config:
        setattr(text, key, value)


def _check_vocabulary(name: str, model: nn.Module, tokenizer: Any) -> None:
    """Every token has an embedding, and so has what an encoder-decoder's decoder reads first."""
    rows = vocabulary_rows(model)
    if rows is None:
        return
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise ModelError(
            f"model.name: the tokenizer of {name!r} has token ids up to {highest} but the model only {rows} "
            "embeddings; the two must come from the same model"
        )
    start = getattr(model.config, "decoder_start_token_id", None)
    if is_encoder_decoder(model.config) and isinstance(start, int) and not 0 <= start < rows:
        raise ModelError(
            f"model.name: by the config.json of {name!r} its decoder starts with token {start} "
            f"(decoder_start_token_id), but the model has only {rows} embeddings; set it as the model's makers state it"
        )


def _fit_token_types(name: str, model: nn.Module, tokenizer: Any) -> None:
    """Leaves token types out for a model that takes none or has one (it fills in zeros itself); refuses too many."""
    if "token_type_ids" not in tokenizer.model_input_names:
        return
    known = getattr(model.config, "type_vocab_size", None)
    if not _takes_types(model) or known == 1:
        tokenizer.model_input_names = [kept for kept in tokenizer.model_input_names if kept != "token_type_ids"]
        return
    given = tokenizer("a", "a", return_token_type_ids=True)["token_type_ids"]
    highest = max(*given, getattr(tokenizer, "pad_token_type_id", 0))
    if isinstance(known, int) and 0 < known <= highest:  # 0: no table at all (DeBERTa)
        raise ModelError(
            f"model.name: the tokenizer of {name!r} has token types up to {highest} but the model only {known} "
            "(type_vocab_size); the two must come from the same model"
        )


def _takes_types(model: nn.Module) -> bool:
    """Whether the forward pass names them, or hands on whatever it is given."""
    parameters = inspect.signature(model.forward).parameters
    hands_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return "token_type_ids" in parameters or (hands_on and "input_ids" not in parameters)
