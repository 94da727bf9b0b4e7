"""Which family an architecture belongs to, by transformers' own mappings; no architecture is named here."""

from __future__ import annotations

from typing import Any

from torch import nn


def is_encoder_decoder(config: Any) -> bool:
    """Whether a model of this config has both an encoder and a decoder."""
    return bool(getattr(config, "is_encoder_decoder", False))


def is_decoder_only(config: Any) -> bool:
    """Whether it has a decoder alone: an architecture with a causal and without a masked language model."""
    kind = getattr(config, "model_type", None)
    if not isinstance(kind, str) or is_encoder_decoder(config):
        return False
    from transformers.models.auto import modeling_auto as auto

    return kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES


def auto_class_of(model: nn.Module) -> str | None:
    """Name of the transformers class that loads models like this one with their head; None if that is none of those we
    train.
    """
    from transformers.models.auto import modeling_auto as auto

    kinds = {
        "AutoModelForSequenceClassification": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        "AutoModelForSeq2SeqLM": auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        "AutoModelForCausalLM": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    }
    return next((kind for kind, classes in kinds.items() if type(model).__name__ in classes.values()), None)
