"""A method's update inside base weights, for a while and for good, against sums written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from dora_cli.errors import ModelError
from dora_cli.methods import Dora
from dora_cli.methods.base import Method
from dora_cli.methods.linear import weight_of
from tests.methods.small import linear_maps, new_dora, new_lora, sites, small_encoder

D_IN, D_OUT = 24, 16
both_kinds = pytest.mark.parametrize("kind", ["linear", "conv1d"])


def model_of(kind: str, dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(0)
    base: nn.Module = nn.Linear(D_IN, D_OUT) if kind == "linear" else Conv1D(D_OUT, D_IN)
    return nn.Sequential(base).to(dtype)


def adapted(model: nn.Sequential) -> Dora:
    """DoRA with gates that are not zero."""
    dora = new_dora(rank=2, dropout=0.0)
    dora.attach(model, sites({"0": model[0]}))
    with torch.no_grad():
        model[0].c.uniform_(-1e-1, 1e-1)
    return dora


def exact(model: nn.Sequential) -> torch.Tensor:
    """``W0 + s B diag(c) A`` in float64."""
    layer = model[0]
    A, B, c = (factor.detach().double() for factor in (layer.A, layer.B, layer.c))
    return weight_of(layer.base).detach().double() + layer.scaling * B @ c.diag() @ A


@both_kinds
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_folded_computes_the_same_and_all_is_put_back_bit_for_bit(kind: str, dtype: torch.dtype) -> None:
    model = model_of(kind, dtype)
    dora, x = adapted(model), torch.randn(6, D_IN).to(dtype)
    layer = model[0]
    before, weight, kept = model(x), layer.base.weight, layer.base.weight.detach().clone()
    wanted = exact(model)
    tolerance = 8 * torch.finfo(dtype).eps * float(wanted.abs().sum() * x.abs().max())
    with dora.folded():
        assert type(model[0]) in (nn.Linear, Conv1D)
        torch.testing.assert_close(model(x), before, rtol=0, atol=tolerance)
        torch.testing.assert_close(weight_of(model[0]).double(), wanted, rtol=0, atol=tolerance)
    assert model[0] is layer
    assert layer.base.weight is weight
    assert torch.equal(weight, kept)
    assert torch.equal(model(x), before)


def test_folding_takes_the_present_weights_every_time() -> None:
    model = model_of("linear", torch.float64)
    dora = adapted(model)
    for _ in range(2):
        with torch.no_grad():
            model[0].c.mul_(-2)
        wanted = exact(model)
        with dora.folded():
            torch.testing.assert_close(model[0].weight.detach(), wanted, rtol=1e-12, atol=1e-13)


def test_an_error_inside_puts_all_back_too() -> None:
    model = model_of("linear", torch.float32)
    dora, layer = adapted(model), model[0]
    with pytest.raises(RuntimeError), dora.folded():
        raise RuntimeError
    assert model[0] is layer


def test_an_error_while_folding_puts_all_back_too() -> None:
    """Halfway: one weight is replaced already, and no module."""
    model = small_encoder()
    bases = linear_maps(model, "blocks")
    lora = new_lora(rank=2)
    lora.attach(model, sites(bases))
    weights, layers = {name: base.weight for name, base in bases.items()}, linear_maps(model, "blocks")
    last = lora.sites[-1].name
    lora._adapters.layers[last].B.data = torch.zeros(1, 1)
    with pytest.raises(RuntimeError), lora.folded():
        pass
    assert all(bases[name].weight is weight for name, weight in weights.items())
    assert linear_maps(model, "blocks") == layers
    assert all(model.get_submodule(name) is lora._adapters.layers[name] for name in bases)


def test_the_mode_follows_the_model_in_and_out() -> None:
    model = model_of("linear", torch.float32)
    dora, layer = adapted(model), model[0]
    model.train()
    with dora.folded():
        assert model[0].training
        model.eval()
    assert not layer.training


@both_kinds
@pytest.mark.parametrize("target", [None, torch.float32, torch.float16])
def test_a_merged_weight_is_the_exact_sum_rounded_once(kind: str, target: torch.dtype | None) -> None:
    model = model_of(kind, torch.bfloat16)
    dora = adapted(model)
    layer = model[0]
    A, B, c = (factor.detach().double() for factor in (layer.A, layer.B, layer.c))
    wanted = weight_of(layer.base).detach().double() + (B * (layer.scaling * c)) @ A  # in the order of the product
    dora.merge(target)
    assert torch.equal(weight_of(model[0]), wanted.to(target or torch.bfloat16))
    assert not model[0].weight.requires_grad
    assert model[0].weight.is_contiguous()


def test_a_projection_of_rank_0_stays_as_it_is() -> None:
    model = small_encoder()
    bases = linear_maps(model, "blocks")
    weight = bases["blocks.0.att"].weight
    lora = new_lora(rank=2, ranks={"blocks.0.att": 0})
    lora.attach(model, sites(bases))
    assert len(list(lora.merged_tensors(torch.float64))) == len(bases) - 1
    with lora.folded():
        assert model.blocks[0].att.weight is weight


class Inserted(Method):
    name = "inserted"
    cannot_merge = "inserts modules"


def test_a_method_that_cannot_merge_is_refused_by_name_and_folds_nothing() -> None:
    model = small_encoder()
    method = Inserted()
    method.attach(model, [])
    with method.folded():
        pass
    with pytest.raises(ModelError, match="inserted inserts modules"):
        method.merge()
