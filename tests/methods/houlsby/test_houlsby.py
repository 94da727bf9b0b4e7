"""Houlsby et al.'s adapters behind their contract: places, sizes, start, states, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn

from dora_cli.errors import BudgetError, CheckpointError, ModelError, ProjectionError
from dora_cli.methods import Houlsby
from dora_cli.methods.base import Site
from dora_cli.methods.bottleneck.layer import Bottleneck
from dora_cli.models import find_projections
from dora_cli.recipe.methods import arguments
from dora_cli.recipe.methods.houlsby import HoulsbyMethod
from tests.methods.small import tiny_gpt2, tiny_roberta


def houlsby(**settings: Any) -> Houlsby:
    """With a recipe's defaults for what `settings` leave open."""
    return Houlsby(**(arguments(HoulsbyMethod()) | {"bottleneck": 4} | settings))


def attached(model: nn.Module, method: Houlsby, seed: int = 0) -> list[Site]:
    sites = find_projections(model, ["attention", "ffn"], method.takes)
    method.attach(model.requires_grad_(False), sites, seed=seed)
    return sites


def places(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, Bottleneck)]


def roberta_base(**changes: Any) -> nn.Module:
    """Its shapes."""
    with torch.device("meta"):
        return tf.RobertaForSequenceClassification(tf.RobertaConfig(vocab_size=50265, **changes))


# -- where adapters stand ----------------------------------------------------------------------------------------------


def test_two_per_block_after_the_dropout_where_that_is_a_module_beside_the_projection() -> None:
    model = tiny_roberta()
    attached(model, houlsby())
    assert places(model) == [
        f"roberta.encoder.layer.{block}.{path}"
        for block in (0, 1)
        for path in ("attention.output.dropout", "output.dropout")
    ]


def test_else_after_the_projection() -> None:
    model = tiny_gpt2()
    attached(model, houlsby())
    assert places(model) == [
        f"transformer.h.{block}.{path}" for block in (0, 1) for path in ("attn.c_proj", "mlp.c_proj")
    ]


def test_a_dropout_that_serves_two_places_is_no_place() -> None:
    """One adapter would stand at both."""
    model = tiny_roberta()
    layer = model.get_submodule("roberta.encoder.layer.0")
    layer.output.dropout = layer.attention.output.dropout
    attached(model, houlsby())
    assert [path for path in places(model) if ".0." in path] == [
        "roberta.encoder.layer.0.attention.output.dense",
        "roberta.encoder.layer.0.output.dense",
    ]


def test_cross_attention_counts_as_attention() -> None:
    config = tf.BartConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=24, decoder_ffn_dim=24, vocab_size=50,
        encoder_attention_heads=2, decoder_attention_heads=2,
    )  # fmt: skip
    model = tf.BartForConditionalGeneration(config)
    attached(model, houlsby())
    assert places(model) == [
        "model.encoder.layers.0.self_attn.out_proj",
        "model.encoder.layers.0.fc2",
        "model.decoder.layers.0.self_attn.out_proj",
        "model.decoder.layers.0.encoder_attn.out_proj",
        "model.decoder.layers.0.fc2",
    ]


def test_other_projections_are_refused() -> None:
    model = tiny_roberta()
    assert len(find_projections(model, ["layer.1.*"], houlsby().takes)) == 2  # of the six, those it can take
    for pattern in ("*.query", "*.intermediate.dense"):
        with pytest.raises(ProjectionError, match=r"attention\.output\.dense"):
            find_projections(model, [pattern], houlsby().takes)


# -- sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "size"), [(32, 1_198_848), (8, 313_536)])
def test_sizes_are_the_published_ones(m: int, size: int) -> None:
    """RoBERTa-base: 24 adapters of 2 d m + m + d; with the norms 24 times 2 d more."""
    L, d = 24, 768
    for norms in (False, True):
        method = houlsby(bottleneck=m, train_norms=norms)
        attached(roberta_base(), method)
        expected = L * (2 * d * m + m + d) + norms * L * 2 * d
        found = method.size()
        assert (found.stored, found.trained, found.bytes) == (expected, expected, 4 * expected)
    assert expected - 24 * 2 * 768 == size


def test_a_bottleneck_wider_than_the_layer_is_refused() -> None:
    method = houlsby(bottleneck=16)
    sites = find_projections(tiny_roberta(), ["ffn"], method.takes)
    assert method.plan(10, sites).total_steps == 10
    with pytest.raises(BudgetError, match=r"bottleneck is 17, wider than the 16 .*output\.dense"):
        houlsby(bottleneck=17).plan(10, sites)
    houlsby(bottleneck=17).plan(10, [Site("", nn.Module(), (2, 2))])  # a model out of reach has no shapes


# -- the start ---------------------------------------------------------------------------------------------------------


def test_the_start_is_that_of_the_authors_code() -> None:
    """Both weights from a normal distribution of standard deviation 1e-3, cut off at two of them; biases 0."""
    model = tf.RobertaModel(tf.RobertaConfig(num_hidden_layers=2, vocab_size=60))
    method = houlsby(bottleneck=64)
    attached(model, method, seed=3)
    for name, tensor in method.state_dict().items():
        if ".b_" in name:
            assert not tensor.any()
            continue
        assert 1.9e-3 < tensor.abs().max() <= 2e-3
        # the variance of a standard normal cut off at 2: 1 - 4 phi(2) / (2 Phi(2) - 1) = 0.7737
        assert float(tensor.var()) == pytest.approx(0.7737e-6, rel=0.03)
    again = houlsby(bottleneck=64)
    other = tf.RobertaModel(tf.RobertaConfig(num_hidden_layers=2, vocab_size=60))
    attached(other, again, seed=3)
    for one, two in zip(method.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("build", [tiny_roberta, tiny_gpt2])
def test_a_fresh_model_computes_nearly_what_its_base_does(build: Any) -> None:
    ids = torch.randint(3, 40, (4, 7), generator=torch.Generator().manual_seed(0))
    model = build().eval()
    expected = model(input_ids=ids).logits
    attached(model, houlsby(train_norms=True))
    assert 0 < (model(input_ids=ids).logits - expected).abs().max() < 1e-3


# -- what trains -------------------------------------------------------------------------------------------------------


def test_biases_and_norms_are_not_decayed() -> None:
    model = tiny_roberta()
    method = houlsby(train_norms=True)
    attached(model, method)
    decayed, rest = method.groups()
    assert (decayed.weight_decay, rest.weight_decay) == (None, 0.0)
    assert {parameter.ndim for parameter in decayed.parameters} == {2}
    assert {parameter.ndim for parameter in rest.parameters} == {1}
    assert {id(p) for p in [*decayed.parameters, *rest.parameters]} == {id(p) for p in method.parameters()}
    assert {id(p) for p in method.parameters()} == {id(p) for p in model.parameters() if p.requires_grad}


def test_the_base_s_own_norms_are_never_written_to() -> None:
    model = tiny_roberta()
    before = {name: (parameter, parameter.clone()) for name, parameter in model.named_parameters()}
    method = houlsby(train_norms=True)
    attached(model, method)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(1)
    assert all(torch.equal(parameter, value) for parameter, value in before.values())


# -- what came of it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norms", [False, True])
def test_a_state_is_the_adapter(norms: bool) -> None:
    ids = torch.randint(3, 40, (4, 7), generator=torch.Generator().manual_seed(0))
    model, method = tiny_roberta().eval(), houlsby(train_norms=norms)
    attached(model, method)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    state = {key: tensor.clone() for key, tensor in method.state_dict().items()}
    assert len(state) == 4 * 4 + norms * 4 * 2
    other, again = tiny_roberta().eval(), houlsby(train_norms=norms)
    attached(other, again, seed=9)
    assert not torch.equal(other(input_ids=ids).logits, model(input_ids=ids).logits)
    again.load_state_dict(state)
    assert torch.equal(other(input_ids=ids).logits, model(input_ids=ids).logits)
    first = next(iter(state))
    for bad in (
        {key: tensor for key, tensor in state.items() if key != first},
        {**state, first: state[first][:1]},
        {**state, "stranger": state[first]},
    ):
        with pytest.raises(CheckpointError, match="stranger" if "stranger" in bad else first):
            again.load_state_dict(bad)


def test_it_is_not_merged_and_has_no_ranks() -> None:
    model = tiny_roberta().eval()
    method = houlsby()
    sites = attached(model, method)
    ids = torch.randint(3, 40, (2, 5), generator=torch.Generator().manual_seed(0))
    expected = model(input_ids=ids).logits
    with method.folded():
        assert torch.equal(model(input_ids=ids).logits, expected)
    with pytest.raises(ModelError, match="houlsby"):
        method.merge()
    assert (method.to_lora(), method.allocation(), method.start_ranks(sites)) == (None, [], {})
