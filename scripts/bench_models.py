"""Models with random weights for timing: RoBERTa and Llama of any size, in memory, and RoBERTa as a folder that `dora
train` can load.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Shapes:
    """Sizes of a RoBERTa; the defaults are RoBERTa-base's. Its six linear maps per block are what gets adapted."""

    hidden: int = 768
    layers: int = 12
    heads: int = 12
    intermediate: int = 3072
    vocab: int = 50265
    positions: int = 514

    @classmethod
    def of_width(cls, width: int, **others: int) -> Shapes:
        """Hidden size `width` in the proportions of RoBERTa-base: heads of 64, an FFN four times as wide, 12 blocks."""
        return cls(**{"hidden": width, "heads": max(width // 64, 1), "intermediate": 4 * width, **others})

    def config(self, *, pad: int = 1) -> Any:
        """A config of this size, otherwise as published: dropout 0.1, two classes."""
        from transformers import RobertaConfig

        return RobertaConfig(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=self.intermediate,
            max_position_embeddings=self.positions,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
            pad_token_id=pad,
            bos_token_id=0,
            eos_token_id=2,
            num_labels=2,
        )

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True)
class LlamaShapes:
    """Sizes of a Llama that models language; the defaults are SmolLM2-135M's. Its seven linear maps per block are what
    gets adapted.
    """

    hidden: int = 576
    layers: int = 30
    heads: int = 9
    kv_heads: int = 3
    intermediate: int = 1536
    vocab: int = 49152
    positions: int = 8192
    tied: bool = True

    def config(self) -> Any:
        """A config of this size, otherwise as published."""
        from transformers import LlamaConfig

        return LlamaConfig(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            intermediate_size=self.intermediate,
            max_position_embeddings=self.positions,
            tie_word_embeddings=self.tied,
            rms_norm_eps=1e-5,
            bos_token_id=1,
            eos_token_id=2,
            use_cache=False,
        )

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


LLAMAS = {
    "135m": LlamaShapes(),
    "1.1b": LlamaShapes(2048, 22, 32, 4, 5632, 32000, 2048, tied=False),
    "tiny": LlamaShapes(hidden=32, heads=4, kv_heads=2, intermediate=85, vocab=100, positions=128),
}
"""SmolLM2-135M's and TinyLlama-1.1B's, and one as deep as the first that is all launches."""
SHAPES = {"roberta-base": Shapes(), "roberta-large": Shapes(1024, 24, 16, 4096)}


def random_classifier(shapes: Shapes, *, pad: int = 1) -> nn.Module:
    """A sequence classifier with random weights, on the CPU, with PyTorch's own attention (SDPA)."""
    from transformers import AutoModelForSequenceClassification

    model: nn.Module = AutoModelForSequenceClassification.from_config(
        shapes.config(pad=pad), attn_implementation="sdpa"
    )
    return model


def random_generator(shapes: LlamaShapes) -> nn.Module:
    """A language model with random weights, on the CPU, with PyTorch's own attention (SDPA)."""
    from transformers import AutoModelForCausalLM

    model: nn.Module = AutoModelForCausalLM.from_config(shapes.config(), attn_implementation="sdpa")
    return model


def save_random(folder: Path, shapes: Shapes, tokenizer_folder: Path) -> None:
    """Writes a model folder with random weights and the tokenizer of `tokenizer_folder`, a local model.

    Timing does not depend on what weights hold, so an end-to-end run at these sizes needs no download; its metrics mean
    nothing. Padding is the tokenizer's, and the embedding has at least as many rows as the tokenizer has tokens.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    highest = max(tokenizer.get_vocab().values())
    if highest >= shapes.vocab:
        raise ValueError(
            f"the tokenizer in {tokenizer_folder} has token ids up to {highest}, the shapes only "
            f"{shapes.vocab} embeddings"
        )
    random_classifier(shapes, pad=tokenizer.pad_token_id).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
