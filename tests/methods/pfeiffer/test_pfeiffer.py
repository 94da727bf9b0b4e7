"""Pfeiffer et al.'s adapters behind their contract, where they differ from Houlsby et al.'s."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn

from dora_cli.errors import ModelError, ProjectionError
from dora_cli.methods import Pfeiffer
from dora_cli.methods.bottleneck.layer import Bottleneck
from dora_cli.models import find_projections
from dora_cli.recipe.methods import arguments
from dora_cli.recipe.methods.pfeiffer import PfeifferMethod
from tests.methods.small import tiny_gpt2, tiny_roberta


def pfeiffer(**settings: Any) -> Pfeiffer:
    """With a recipe's defaults for what `settings` leave open."""
    return Pfeiffer(**(arguments(PfeifferMethod()) | {"bottleneck": 4} | settings))


def attached(model: nn.Module, method: Pfeiffer) -> nn.Module:
    method.attach(model.requires_grad_(False), find_projections(model, ["ffn"], method.takes))
    return model


def places(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, Bottleneck)]


def test_one_per_block_after_its_last_norm() -> None:
    expected = [f"roberta.encoder.layer.{block}.output.LayerNorm" for block in (0, 1)]
    assert places(attached(tiny_roberta(), pfeiffer())) == expected


def test_in_a_pre_norm_block_after_the_ffn() -> None:
    assert places(attached(tiny_gpt2(), pfeiffer())) == [f"transformer.h.{block}.mlp.c_proj" for block in (0, 1)]


def test_layers_that_a_model_runs_several_times_are_adapted_once() -> None:
    config = tf.AlbertConfig(
        hidden_size=16, embedding_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24,
        vocab_size=50,
    )  # fmt: skip
    model = attached(tf.AlbertModel(config), pfeiffer())
    assert places(model) == ["encoder.albert_layer_groups.0.albert_layers.0.full_layer_layer_norm"]


def test_attention_is_refused() -> None:
    for target in ("attention", "*.query", "*.attention.output.dense"):
        with pytest.raises(ProjectionError, match=r"output\.dense \(x2\)"):
            find_projections(tiny_roberta(), [target], pfeiffer().takes)


@pytest.mark.parametrize(("m", "size"), [(64, 1_189_632), (16, 304_320)])
def test_sizes_are_the_published_ones(m: int, size: int) -> None:
    """RoBERTa-base: 12 adapters of 2 d m + m + d; with the norms of the blocks 24 times 2 d more."""
    for norms in (False, True):
        with torch.device("meta"):
            model = tf.RobertaForSequenceClassification(tf.RobertaConfig(vocab_size=50265))
        method = pfeiffer(bottleneck=m, train_norms=norms)
        attached(model, method)
        assert method.size().stored == 12 * (2 * 768 * m + m + 768) + norms * 24 * 2 * 768
        assert method.size().stored == size + norms * 36_864


@pytest.mark.parametrize("build", [tiny_roberta, tiny_gpt2])
def test_what_an_adapter_reads_is_what_its_place_gives(build: Any) -> None:
    ids = torch.randint(3, 40, (2, 5), generator=torch.Generator().manual_seed(0))
    model = build().eval()
    plain = build().eval()
    attached(model, pfeiffer())
    gave: list[torch.Tensor] = []
    plain.get_submodule(places(model)[0]).register_forward_hook(lambda module, inputs, output: gave.append(output))
    layer = model.get_submodule(places(model)[0])
    assert isinstance(layer, Bottleneck)
    found: list[torch.Tensor] = []
    layer.register_forward_hook(lambda module, inputs, output: found.append(output))
    with torch.no_grad():
        layer.b_up += 1
        plain(input_ids=ids)
        model(input_ids=ids)
        z = gave[0] @ layer.W_down.T
        torch.testing.assert_close(found[0], gave[0] + z.clamp(min=0) @ layer.W_up.T + 1, rtol=0, atol=1e-12)


def test_it_is_not_merged() -> None:
    method = pfeiffer()
    attached(tiny_roberta(), method)
    with pytest.raises(ModelError, match="pfeiffer"):
        method.merge()
