"""Small models of every family that is searched with, and the tokens that each of two ways finds with them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import transformers as tf

from dora_cli.data import EncodedSources, PairLayout, encode_sources, pair_layout, to_device
from dora_cli.evaluation import decoding
from dora_cli.evaluation.passes import by_length, evaluation_mode
from dora_cli.evaluation.settings import Decoding
from tests.evaluation.test_decoding import EOS, MODELS, SMALL_IDS, SOURCES
from tests.models.conftest import SMALL, small_tokenizer

LLAMAS = {"num_key_value_heads": 2, "initializer_range": 0.4, **SMALL_IDS, **SMALL}
_BARTS: dict[str, Any] = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "vocab_size": 50, "max_position_embeddings": 64,
    "init_std": 0.4, **SMALL_IDS,
}  # fmt: skip
OTHERS: dict[str, tuple[Any, Any, int | None]] = {
    "qwen2": (tf.Qwen2ForCausalLM, tf.Qwen2Config(**LLAMAS), None),
    "qwen3": (tf.Qwen3ForCausalLM, tf.Qwen3Config(head_dim=8, **LLAMAS), None),
    "mistral": (tf.MistralForCausalLM, tf.MistralConfig(sliding_window=None, **LLAMAS), None),
    "gpt_neox": (tf.GPTNeoXForCausalLM, tf.GPTNeoXConfig(initializer_range=0.4, **SMALL_IDS, **SMALL), None),
    "opt": (
        tf.OPTForCausalLM,
        tf.OPTConfig(
            hidden_size=16, num_hidden_layers=2, ffn_dim=32, num_attention_heads=4, vocab_size=50,
            max_position_embeddings=64, word_embed_proj_dim=16, init_std=0.4, **SMALL_IDS,
        ),
        None,
    ),
    "pegasus": (tf.PegasusForConditionalGeneration, tf.PegasusConfig(decoder_start_token_id=0, **_BARTS), 0),
    "mbart": (tf.MBartForConditionalGeneration, tf.MBartConfig(decoder_start_token_id=EOS, **_BARTS), EOS),
}  # fmt: skip
FAMILIES = MODELS | OTHERS
TEXTS = [*SOURCES, "c", "o p q", "word2 b k word3 z z", "d e f g h i j k l m"]


def built(name: str, *, attention: str = "sdpa", seed: int = 0, device: str = "cpu") -> Any:
    """Such a model with random weights, in fp64: what is compared are rankings, and fp32 has ties.

    Eager attention is in fp32 but for T5's: others take its softmax in fp32, where the least number of fp64 is
    infinite.
    """
    model_class, config, _ = FAMILIES[name]
    config._attn_implementation = attention
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config).eval().to(device)
    model = model.double() if attention == "sdpa" or name == "t5" else model
    model.config.use_cache = False
    return model


def sources_of(name: str) -> tuple[EncodedSources, PairLayout]:
    """Sources of different lengths for such a model, and how they stand in its input."""
    tokenizer = small_tokenizer(pad_token="<pad>")
    layout = pair_layout(tokenizer, decoder_start=FAMILIES[name][2])
    return encode_sources(TEXTS, tokenizer, 40, layout), layout


def found(
    way: str,
    model: Any,
    encoded: EncodedSources,
    layout: PairLayout,
    settings: Decoding,
    *,
    precision: str = "no",
    captured: bool = False,
) -> list[list[int]]:
    """Token ids of every output up to its first stop token, the longest sources first.

    Args:
        way: ``generating`` or ``searching``.
    """
    device = next(model.parameters()).device
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    accelerator: Any = SimpleNamespace(
        process_index=0,
        num_processes=1,
        device=device,
        mixed_precision=precision,
        autocast=lambda settings: torch.autocast(device.type, dtype, cache_enabled=settings is None),
    )
    outputs: list[list[int]] = []
    with (
        evaluation_mode(model),
        getattr(decoding, way)(model, layout, settings, accelerator, captured=captured) as find,
    ):
        for indices in by_length(encoded.lengths, settings.batch_size):
            rows = find(to_device(encoded.collate(indices), accelerator.device))
            outputs += [row[: next((i for i, t in enumerate(row) if t in layout.stops), len(row))] for row in rows]
    return outputs
