"""Model families whose projections are known: tests compare every one of them with what is found in the real classes.

Only a list to read. Nothing looks a family up before it adapts a model: projections are found by structure, in other
families too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["encoder", "decoder", "encoder-decoder"]


@dataclass(frozen=True)
class Family:
    """Architectures whose blocks have the same projections.

    Attributes:
        model_types: transformers' names of them, as in a config.json.
        kind: what they are. All of them classify; decoders and encoder-decoders also generate.
        examples: hub ids.
        attention: attention projections of a block, cross-attention included, by the end of their path.
        ffn: FFN projections, likewise.
    """

    model_types: tuple[str, ...]
    kind: Kind
    examples: tuple[str, ...]
    attention: tuple[str, ...]
    ffn: tuple[str, ...]


_SELF = ("self.query", "self.key", "self.value", "attention.output.dense")
_DENSE = ("intermediate.dense", "output.dense")
_QKVO = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
_GATED = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_OUT = ("q_proj", "k_proj", "v_proj", "out_proj")
_FUSED = ("query_key_value", "dense")
_FOUR = ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h")

FAMILIES: tuple[Family, ...] = (
    Family(
        ("bert", "camembert", "electra", "ernie", "rembert", "roberta", "xlm-roberta"),
        "encoder",
        ("FacebookAI/roberta-base", "google-bert/bert-base-uncased", "google/electra-base-discriminator"),
        _SELF,
        _DENSE,
    ),
    Family(
        ("deberta-v2",),
        "encoder",
        ("microsoft/deberta-v3-base",),
        ("query_proj", "key_proj", "value_proj", "attention.output.dense"),
        _DENSE,
    ),
    Family(("mpnet",), "encoder", ("microsoft/mpnet-base",), ("attn.q", "attn.k", "attn.v", "attn.o"), _DENSE),
    Family(
        ("distilbert",),
        "encoder",
        ("distilbert/distilbert-base-uncased",),
        ("q_lin", "k_lin", "v_lin", "out_lin"),
        ("lin1", "lin2"),
    ),
    Family(
        ("albert",),
        "encoder",
        ("albert/albert-base-v2",),
        ("attention.query", "attention.key", "attention.value", "attention.dense"),
        ("ffn", "ffn_output"),
    ),
    Family(
        ("modernbert",), "encoder", ("answerdotai/ModernBERT-base",), ("attn.Wqkv", "attn.Wo"), ("mlp.Wi", "mlp.Wo")
    ),
    Family(
        ("gpt2",),
        "decoder",
        ("openai-community/gpt2", "openai-community/gpt2-medium"),
        ("attn.c_attn", "attn.c_proj"),
        ("mlp.c_fc", "mlp.c_proj"),
    ),
    Family(
        ("gemma", "gemma2", "llama", "mistral", "olmo2", "qwen2", "stablelm"),
        "decoder",
        ("HuggingFaceTB/SmolLM2-135M", "Qwen/Qwen2.5-0.5B"),
        _QKVO,
        _GATED,
    ),
    Family(
        ("phi3",),
        "decoder",
        ("microsoft/Phi-3-mini-4k-instruct",),
        ("qkv_proj", "o_proj"),
        ("gate_up_proj", "down_proj"),
    ),
    Family(("opt",), "decoder", ("facebook/opt-125m",), _OUT, ("fc1", "fc2")),
    Family(("gpt_neox",), "decoder", ("EleutherAI/pythia-160m",), _FUSED, _FOUR),
    Family(("bloom",), "decoder", ("bigscience/bloom-560m",), _FUSED, _FOUR),
    Family(
        ("bart", "mbart"),
        "encoder-decoder",
        ("facebook/bart-base",),
        tuple(f"{kind}.{path}" for kind in ("self_attn", "encoder_attn") for path in _OUT),
        ("fc1", "fc2"),
    ),
    Family(
        ("t5",),
        "encoder-decoder",
        ("google-t5/t5-small", "google-t5/t5-base"),
        tuple(f"{kind}.{path}" for kind in ("SelfAttention", "EncDecAttention") for path in "qkvo"),
        ("wi", "wo"),
    ),
    Family(
        ("t5", "mt5", "umt5"),
        "encoder-decoder",
        ("google/t5-v1_1-small", "google/t5-v1_1-base", "google/mt5-small"),
        tuple(f"{kind}.{path}" for kind in ("SelfAttention", "EncDecAttention") for path in "qkvo"),
        ("wi_0", "wi_1", "wo"),
    ),
)

NEEDS: tuple[str, ...] = (
    "a folder as save_pretrained writes it, or a hub id: config.json, weights that are not quantised, a fast tokenizer",
    (
        "glue/*: a sequence-classification head in transformers (a fresh one is made and trained); encoders, decoders, "
        "encoder-decoders"
    ),
    "e2e: a decoder or an encoder-decoder with its language-modelling head, and an end token",
    "blocks of one class in an nn.ModuleList, with nn.Linear or Conv1D in them; names do not matter",
    (
        "no mixture of experts among the targets: routers and experts are refused (method.targets: [attention] leaves "
        "them out)"
    ),
    (
        "state-space mixers (Mamba and the like): attention and ffn take their in_proj alone, patterns such as "
        "'*.out_proj' the others too"
    ),
    "Python code of its own only with model.trust_remote_code: true",
)
"""What any model must have to be adapted, one a line."""


def known_kind(name: str) -> Kind | None:
    """What the hub model called `name` is, if it is an example of a family."""
    return next((family.kind for family in FAMILIES if name in family.examples), None)
