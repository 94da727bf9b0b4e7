"""What stands between a projection and the end of its residual branch, held against what models compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn

from dora_cli.models import find_projections
from tests.methods.small import tiny_gpt2, tiny_roberta

BERT: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 50,
    "max_position_embeddings": 32,
}  # fmt: skip
BART: dict[str, Any] = {
    "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "vocab_size": 50, "max_position_embeddings": 32,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2,
}  # fmt: skip

# type of model -> configuration, by projection of attention and FFN: the norm of the residual sum; "" in pre-norm ones
CASES: dict[str, tuple[Callable[[], Any], dict[str, str]]] = {
    **{
        name: (
            lambda config=config: config(**BERT),  # type: ignore[misc]
            {"attention.output.dense": "attention.output.LayerNorm", "output.dense": "output.LayerNorm"},
        )
        for name, config in {
            "bert": tf.BertConfig, "roberta": tf.RobertaConfig, "electra": tf.ElectraConfig,
            "deberta": tf.DebertaConfig, "deberta-v2": tf.DebertaV2Config,
        }.items()
    },
    "albert": (
        lambda: tf.AlbertConfig(embedding_size=16, **BERT),
        {"attention.dense": "attention.LayerNorm", "ffn_output": "full_layer_layer_norm"},
    ),
    "mpnet": (
        lambda: tf.MPNetConfig(**BERT),
        {"attention.attn.o": "attention.LayerNorm", "output.dense": "output.LayerNorm"},
    ),
    "distilbert": (
        lambda: tf.DistilBertConfig(dim=16, hidden_dim=24, n_layers=2, n_heads=2, vocab_size=50),
        {"attention.out_lin": "sa_layer_norm", "ffn.lin2": "output_layer_norm"},
    ),
    "funnel": (
        lambda: tf.FunnelConfig(d_model=16, d_inner=24, n_head=2, d_head=8, block_sizes=[2], vocab_size=50),
        {"attention.post_proj": "attention.layer_norm", "ffn.linear_2": "ffn.layer_norm"},
    ),
    "xlnet": (
        lambda: tf.XLNetConfig(d_model=16, d_inner=24, n_head=2, n_layer=2, vocab_size=50),
        {"ff.layer_2": "ff.layer_norm"},
    ),
    "nomic_bert": (
        lambda: tf.NomicBertConfig(**BERT),
        {"self_attn.o_proj": "post_attention_layernorm", "mlp.down_proj": "post_mlp_layernorm"},
    ),
    "openai-gpt": (
        lambda: tf.OpenAIGPTConfig(n_embd=16, n_layer=2, n_head=2, vocab_size=50, n_positions=32),
        {"attn.c_proj": "ln_1", "mlp.c_proj": "ln_2"},
    ),
    **{
        name: (
            lambda config=config: config(**BART),  # type: ignore[misc]
            {
                "self_attn.out_proj": "self_attn_layer_norm",
                "encoder_attn.out_proj": "encoder_attn_layer_norm",
                "fc2": "final_layer_norm",
            },
        )
        for name, config in {
            "bart": tf.BartConfig, "marian": tf.MarianConfig, "blenderbot-small": tf.BlenderbotSmallConfig,
            "plbart": tf.PLBartConfig, "mvp": tf.MvpConfig,
        }.items()
    },
    "opt-post": (
        lambda: tf.OPTConfig(
            word_embed_proj_dim=16, ffn_dim=24, do_layer_norm_before=False,
            **{key: value for key, value in BERT.items() if key != "intermediate_size"},
        ),
        {"self_attn.out_proj": "self_attn_layer_norm", "fc2": "final_layer_norm"},
    ),
    "opt": (
        lambda: tf.OPTConfig(
            word_embed_proj_dim=16, ffn_dim=24,
            **{key: value for key, value in BERT.items() if key != "intermediate_size"},
        ),
        {"self_attn.out_proj": "", "fc2": ""},
    ),
    "mbart": (lambda: tf.MBartConfig(**BART), {"self_attn.out_proj": "", "encoder_attn.out_proj": "", "fc2": ""}),
    "roberta-prelayernorm": (
        lambda: tf.RobertaPreLayerNormConfig(**BERT), {"attention.output.dense": "", "output.dense": ""}
    ),
    "megatron-bert": (lambda: tf.MegatronBertConfig(**BERT), {"attention.output.dense": "", "output.dense": ""}),
    "llama": (lambda: tf.LlamaConfig(**BERT), {"self_attn.o_proj": "", "mlp.down_proj": ""}),
    "gemma2": (  # normalises what attention and FFN give, before the sum
        lambda: tf.Gemma2Config(head_dim=8, num_key_value_heads=2, **BERT),
        {"self_attn.o_proj": "", "mlp.down_proj": ""},
    ),
    "t5": (
        lambda: tf.T5Config(d_model=16, d_ff=24, d_kv=8, num_layers=2, num_heads=2, vocab_size=50),
        {"SelfAttention.o": "", "EncDecAttention.o": "", "DenseReluDense.wo": ""},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_norm_after_a_projection_is_the_one_that_reads_the_residual_sum(name: str) -> None:
    """What the norm reads, less what the projection gave, is what attention or FFN had read."""
    config, expected = CASES[name]
    torch.manual_seed(0)
    build = tf.FunnelModel if name == "funnel" else tf.AutoModel.from_config  # it has two base models
    model = build(config()).eval()
    sites = find_projections(model, ["*"])
    ends = [site for site in sites if site.role in ("output", "down")]
    found = {(site.projection, site.norm.removeprefix(site.name.removesuffix(site.projection))) for site in ends}
    assert {(path.rpartition("layer.")[2][2:] if name == "t5" else path, norm) for path, norm in found} == set(
        expected.items()
    )
    assert not any(site.norm or site.dropout for site in sites if site not in ends)

    read: dict[str, torch.Tensor] = {}
    gave: dict[str, torch.Tensor] = {}
    sums: dict[str, torch.Tensor] = {}
    for site in sites:
        site.module.register_forward_hook(keep(site.name, read, gave))
        if site.norm:
            model.get_submodule(site.norm).register_forward_hook(keep(site.norm, sums, {}))
    ids = torch.randint(3, 50, (2, 8), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        model(input_ids=ids, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}))
    for site in ends:
        if site.norm:
            residual = sums[site.norm] - gave[site.name].view_as(sums[site.norm])
            same = [one.view_as(residual) for one in read.values() if one.numel() == residual.numel()]
            assert any(torch.allclose(residual, one, atol=1e-5) for one in same)


def keep(name: str, read: dict[str, torch.Tensor], gave: dict[str, torch.Tensor]) -> Any:
    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        read[name], gave[name] = inputs[0], output

    return hook


def test_the_dropout_beside_a_projection_is_found() -> None:
    for model, expected in (
        (tiny_roberta(), {"attention.output.dense": "attention.output.dropout", "output.dense": "output.dropout"}),
        (tiny_gpt2(), {"attn.c_proj": "", "mlp.c_proj": ""}),  # beside more than one projection
    ):
        found = {
            site.projection: site.dropout.removeprefix(site.name.removesuffix(site.projection))
            for site in find_projections(model)
            if site.role in ("output", "down")
        }
        assert found == expected


def test_a_mobile_bert_s_bottlenecks_are_neither_attention_nor_ffn() -> None:
    config = tf.MobileBertConfig(
        embedding_size=16, true_hidden_size=8, intra_bottleneck_size=8, num_feedforward_networks=2, **BERT
    )
    roles = {site.projection: site.role for site in find_projections(tf.AutoModel.from_config(config))}
    assert {path for path, role in roles.items() if role in ("output", "down")} == {
        "attention.output.dense", "ffn.0.output.dense", "output.dense",
    }  # fmt: skip
