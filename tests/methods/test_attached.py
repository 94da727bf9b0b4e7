"""Merging a model in place, and the mark that says which method a model carries."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from dora_cli.errors import ModelError
from dora_cli.methods import Dora, HeadOnly
from dora_cli.methods.attached import attached, lora_of, mark, merge
from dora_cli.methods.dora import AdaptedProjection
from tests.methods.small import SmallEncoder, Training, classification, new_dora, sites, small_encoder

LOSS = classification()


def trained(steps: int, *, compact: bool = True, dtype: torch.dtype = torch.float64) -> tuple[SmallEncoder, Dora]:
    """Some components of every kind: 6 projections of 3 at the start, 2 on average from step 20 on."""
    model = small_encoder(dtype=dtype)
    dora = new_dora(rank=1, start_rank=3, prune_interval=2, dropout=0.1, compact=compact)
    run = Training(model, dora, learning_rate=5e-2)
    run.run(1, steps, LOSS)
    mark(model, dora)
    return model.eval(), dora


def answers(model: nn.Module, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.randn(7, 10, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(dtype))


@pytest.mark.parametrize("compact", [True, False], ids=["compacted", "masked"])
@pytest.mark.parametrize("steps", [3, 25], ids=["before the freeze", "after it"])
def test_a_merged_model_is_plain_and_computes_the_same(steps: int, compact: bool) -> None:
    model, dora = trained(steps, compact=compact)
    assert dora.frozen == (steps == 25)
    plain = {name: type(module) for name, module in small_encoder().named_modules()}
    names = list(small_encoder().state_dict())
    before, untouched = answers(model), small_encoder()
    untouched.load_state_dict(
        {name.replace(".base.", "."): value for name, value in model.state_dict().items() if name[-2:] not in FACTORS}
    )
    assert not torch.allclose(answers(untouched), before, atol=1e-3), "the adapters change nothing: a test of nothing"
    assert merge(model) is model
    assert {name: type(module) for name, module in model.named_modules()} == plain
    assert Conv1D in plain.values()
    assert list(model.state_dict()) == names
    torch.testing.assert_close(answers(model), before, atol=1e-12, rtol=0)


FACTORS = (".A", ".B", ".c")


def test_merging_in_fp32_stays_within_rounding() -> None:
    model, _ = trained(25, dtype=torch.float32)
    before = answers(model, torch.float32)
    torch.testing.assert_close(answers(merge(model), torch.float32), before, atol=1e-5, rtol=0)


def test_a_weight_that_others_share_is_not_written_to() -> None:
    model = small_encoder()
    model.blocks[1].att.weight = model.blocks[0].att.weight
    shared = model.blocks[1].att.weight
    before = shared.clone()
    dora = new_dora(rank=1, start_rank=2)
    dora.attach(model, sites({"blocks.0.att": model.blocks[0].att}))
    with torch.no_grad():
        dora.parameters()[2].fill_(1.0)
    mark(model, dora)
    merge(model)
    assert torch.equal(shared, before)
    assert model.blocks[1].att.weight is shared
    assert not torch.equal(model.blocks[0].att.weight, before)


def test_the_merged_weights_keep_their_mode_and_a_shared_module_is_merged_once() -> None:
    model = small_encoder()
    model.again = model.blocks[0]
    dora = new_dora(rank=1, start_rank=2)
    dora.attach(model, sites({"blocks.0.att": model.blocks[0].att}))
    mark(model.train(), dora)
    merge(model)
    assert model.again.att is model.blocks[0].att
    assert type(model.again.att) is nn.Linear
    assert model.again.att.training


def test_plain_lora_is_the_change_that_merging_makes() -> None:
    model, dora = trained(25)
    factors = lora_of(model)
    assert {name: factor.rank for name, factor in factors.items()} == {
        item.name: item.rank for item in dora.allocation() if item.rank
    }
    bases = {name: model.get_submodule(name).base for name in factors}
    before = {name: base.weight.detach().clone() for name, base in bases.items()}
    merge(model)
    for name, factor in factors.items():
        delta = bases[name].weight - before[name]
        delta = delta.T if isinstance(bases[name], Conv1D) else delta
        torch.testing.assert_close((factor.B @ factor.A).double(), delta, atol=1e-6, rtol=1e-5)


def test_a_copy_of_a_model_carries_a_copy_of_its_method() -> None:
    model, dora = trained(25)
    other = copy.deepcopy(model)
    assert attached(other) is not dora
    before = answers(model)
    merge(other)
    torch.testing.assert_close(answers(other), before, atol=1e-12, rtol=0)
    assert attached(model) is dora
    assert any(isinstance(module, AdaptedProjection) for module in model.modules())


def test_a_model_without_an_adapter_is_said() -> None:
    model, _ = trained(3)
    merge(model)
    for ask in (merge, lora_of, attached):
        with pytest.raises(ModelError, match=r"SmallEncoder carries no adapter of dora; .*dora_cli\.attach"):
            ask(model)


def test_a_method_that_adapts_nothing_merges_nothing() -> None:
    model, head = small_encoder(), HeadOnly()
    head.attach(model, sites({}))
    mark(model, head)
    before = answers(model)
    assert torch.equal(answers(merge(model)), before)
