"""A model's tables of embeddings: one row per token of its vocabulary, one per position."""

from __future__ import annotations

from typing import Any

from torch import nn

from dora_cli.models.structure.blocks import find_blocks

_OFFSET = 2
"""Rows that some position tables have before position 0 without saying so (YOSO, MRA, Nystromformer)."""


def word_embeddings(model: nn.Module) -> nn.Module | None:
    """The module whose weight has a row per token; None where none can be seen.

    CANINE hashes characters, and a model's own code may keep its table elsewhere.
    """
    owner: Any = model
    try:
        words = owner.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    weight = getattr(words, "weight", None)
    return words if isinstance(words, nn.Module) and getattr(weight, "ndim", 0) == 2 else None


def embeddings_of(model: nn.Module) -> nn.Module | None:
    """The module that looks tokens up and does more to them before the first block, as BERT's and what descends from it
    do; None where the base model does so itself.
    """
    words = word_embeddings(model)
    parents = [module for module in model.modules() if words is not None and words in module._modules.values()]
    return parents[0] if len(parents) == 1 and not find_blocks(parents[0]) else None


def vocabulary_rows(model: nn.Module) -> int | None:
    """How many tokens have an embedding; None where that cannot be seen."""
    words: Any = word_embeddings(model)
    return None if words is None else int(words.weight.shape[0])


def max_positions(model: nn.Module) -> int | None:
    """Tokens for which `model` has learned positions; None where positions are relative or computed.

    Some tables have more rows than positions: RoBERTa starts after its padding index, BART and YOSO after a fixed
    offset.
    """
    config: Any = model.config
    declared = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if not isinstance(declared, int):
        return None
    words = word_embeddings(model)
    for name, module in model.named_modules():
        if not isinstance(module, nn.Embedding) or module is words:
            continue
        offset = int(getattr(module, "offset", 0))
        if module.num_embeddings == declared + offset:
            return declared - (0 if module.padding_idx is None or offset else module.padding_idx + 1)
        if "position" in name.rpartition(".")[2] and module.num_embeddings == declared + _OFFSET:
            return declared
    return None
