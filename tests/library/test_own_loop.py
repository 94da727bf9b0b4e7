"""A model adapted in a loop of the user's own."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

import dora_cli
from dora_cli.errors import BudgetError, ModelError, ProjectionError, RecipeError
from dora_cli.library.own_loop import WARN_AFTER, attach, shrink
from dora_cli.methods import Dora
from dora_cli.methods.dora import AdaptedProjection
from tests.models.structure.test_projections import causal

T = 20  # the freeze is at floor(0.15 * 20) + floor(0.35 * 20) = 3 + 7 = 10
PROJECTIONS = 2 * 6


def bert(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=3,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def batches() -> Iterator[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    while True:
        ids = torch.randint(40, (8, 10), generator=generator)
        yield {"input_ids": ids, "labels": ids[:, 0] % 3}


def run(model: Any, method: Dora, optimizer: torch.optim.Optimizer, steps: int = T) -> list[float]:
    """The loop of the guide."""
    losses = []
    for step, batch in zip(range(1, steps + 1), batches(), strict=False):
        loss = model(**batch).loss
        loss.backward()
        method.adjust_gradients()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        shrink(optimizer, method.after_step(step))
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


SETTINGS: dict[str, Any] = {"rank": 2, "total_steps": T, "prune_interval": 2, "dropout": 0.0}


def test_a_loop_of_ones_own_goes_through_all_phases() -> None:
    model = bert()
    base = {name: value.clone() for name, value in model.named_parameters()}
    method = attach(model.train(), **SETTINGS)
    assert {
        name for name, p in model.named_parameters() if p.requires_grad and name[-2:] not in (".A", ".B", ".c")
    } == {
        "classifier.weight",
        "classifier.bias",
    }
    optimizer = torch.optim.AdamW(trainable(model), lr=1e-2)
    losses = run(model, method, optimizer)
    assert all(torch.tensor(losses).isfinite())
    assert losses[-1] < losses[0]
    assert method.frozen
    assert sum(item.rank for item in method.allocation()) == 2 * PROJECTIONS
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in trainable(model)}, "the optimiser holds what trains, and nothing that is gone"
    for name, value in base.items():
        if not name.startswith("classifier"):
            path, _, attribute = name.rpartition(".")
            module = model.get_submodule(path)
            assert torch.equal(
                getattr(module.base if isinstance(module, AdaptedProjection) else module, attribute), value
            )
    batch = next(batches())
    model.eval()
    with torch.no_grad():
        before = model(**batch).logits
        after = dora_cli.merge(model)(**batch).logits
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)


def test_what_the_targets_leave_out_is_said() -> None:
    settings: dict[str, Any] = {"rank": 1, "total_steps": 9}
    with pytest.warns(UserWarning, match=r"ffn: .*out_proj \(x2\)"):
        attach(causal("mamba2"), targets=("ffn",), **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attach(causal("mamba2"), targets=("*.out_proj",), **settings)
        attach(bert(), **settings)


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_what_trains_is_fp32_or_wider_all_alike(dtype: torch.dtype, lean: bool) -> None:
    """Head and adapters of a float64 model are float64, through training, freeze, saving, loading,
    folding and merging.
    """
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    model = bert().to(dtype).train()
    method = attach(model, **SETTINGS)
    assert {p.dtype for p in trainable(model)} == {wide}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {dtype}
    optimizer = torch.optim.AdamW(trainable(model), lr=1e-2)
    autocast = partial(torch.autocast, "cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
    for step, batch in zip(range(1, T + 1), batches(), strict=False):
        with (
            method.training_pass(torch.bfloat16 if dtype == torch.bfloat16 else None) if lean else nullcontext(),
            autocast(),
        ):
            loss = model(**batch).loss
            loss.backward()
        method.adjust_gradients()
        optimizer.step()
        shrink(optimizer, method.after_step(step))
        optimizer.zero_grad()
    assert method.frozen
    assert bool(loss.isfinite())
    assert {p.dtype for p in trainable(model)} == {wide}
    again = bert().to(dtype).eval()
    attach(again, **SETTINGS).load_state_dict(method.state_dict())
    again.load_state_dict(model.state_dict())
    batch, tolerance = next(batches()), 1e-12 if dtype == torch.float64 else 0.05
    with torch.no_grad(), autocast():
        expected = model.eval()(**batch).logits
        assert torch.equal(again(**batch).logits, expected)
        with method.folded():
            torch.testing.assert_close(model(**batch).logits, expected, atol=tolerance, rtol=0)
        torch.testing.assert_close(dora_cli.merge(model)(**batch).logits, expected, atol=tolerance, rtol=0)


def test_masked_and_compacted_training_agree() -> None:
    """So `shrink` has sliced the moments rightly."""
    ends = []
    for compact in (True, False):
        model = bert()
        torch.manual_seed(1)
        method = attach(model.train(), compact=compact, **SETTINGS)
        run(model, method, torch.optim.AdamW(trainable(model), lr=1e-2, weight_decay=0.1))
        ends.append(method.to_lora())
    assert ends[0].keys() == ends[1].keys()
    for name, factors in ends[0].items():
        torch.testing.assert_close(factors.B @ factors.A, ends[1][name].B @ ends[1][name].A, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    "make",
    [partial(torch.optim.SGD, momentum=0.9), torch.optim.Adafactor, partial(torch.optim.AdamW, amsgrad=True)],
    ids=["SGD", "Adafactor", "AMSGrad"],
)
def test_other_optimisers_survive_the_freeze(make: Any) -> None:
    model = bert()
    method = attach(model.train(), **SETTINGS)
    losses = run(model, method, make(trainable(model), lr=1e-2))
    assert all(torch.tensor(losses).isfinite())
    assert sum(item.rank for item in method.allocation()) == 2 * PROJECTIONS


def test_what_trains_can_be_chosen() -> None:
    model = bert()
    attach(model, head=False, targets=("*.query",), **SETTINGS)
    assert {name.rpartition(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {
        f"bert.encoder.layer.{block}.attention.self.query" for block in (0, 1)
    }
    model = bert()
    attach(model, fresh=["bert.pooler.dense.weight"], **SETTINGS)
    assert {name.split(".")[-3] for name, p in model.named_parameters() if p.requires_grad and "pooler" in name} == {
        "pooler"
    }


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"rank": 0}, RecipeError, r"method\.rank: .*got 0"),
        ({"alpah": 8.0}, RecipeError, r"method\.alpah: .* method\.alpha\?"),
        ({"dropout": 1.0, "ema_beta": -1.0}, RecipeError, r"(?s)method\.dropout.*method\.ema_beta"),
        ({"guard": True}, RecipeError, r"method\.guard True"),
        ({"score": "kfac"}, RecipeError, r"method\.score kfac"),
        ({"start": "gradient"}, RecipeError, r"method\.start gradient"),
        ({"rotate": "input"}, RecipeError, r"method\.rotate input"),
        ({"refit": True, "start": "lora", "gates": "fixed"}, RecipeError, r"method\.refit True"),
        ({"start_rank": 1}, RecipeError, r"method\.start_rank: .*got 1"),
        ({"start": "lora", "gradients": "pro"}, RecipeError, r"method\.gradients: .*gates"),
        ({"total_steps": 2}, BudgetError, r"2 optimiser steps.*at least 3"),
        ({"targets": ("*.nothing",)}, ProjectionError, r"'\*\.nothing'.*attention\.self\.query"),
        ({"fresh": ["bert.poler.dense.weight"]}, ModelError, r"bert\.poler\.dense\.weight, which is no parameter"),
        ({"warn_after": 0}, RecipeError, r"warn_after is 0; it must be at least 1"),
    ],
)
def test_what_cannot_be_attached_leaves_the_model_alone(
    changes: dict[str, Any], error: type[Exception], says: str
) -> None:
    model = bert()
    with pytest.raises(error, match=says):
        attach(model, **{**SETTINGS, **changes})
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(isinstance(module, AdaptedProjection) for module in model.modules())
    attach(model, **SETTINGS)


def test_a_model_is_adapted_once_and_quantised_ones_are_refused() -> None:
    model = bert()
    attach(model, **SETTINGS)
    with pytest.raises(ModelError, match=r"^this BertForSequenceClassification carries "):
        attach(model, **SETTINGS)
    model = bert()
    model.is_quantized = True
    with pytest.raises(ModelError, match="quantised"):
        attach(model, **SETTINGS)


def test_steps_out_of_turn_are_refused() -> None:
    """Every fourth number, as someone would pass who counts micro-batches: the freeze at 10 would never come."""
    model = bert()
    method = attach(model, **SETTINGS)
    with pytest.raises(BudgetError, match=r"after_step\(0\) came after 0 steps; .*counted from 1"):
        method.after_step(0)
    method.after_step(1)
    with pytest.raises(BudgetError, match=r"after_step\(5\) came after 1 steps"):
        method.after_step(5)
    method.after_step(2)


# -- forgetting to call the method -------------------------------------------------------------------------------------


def passes(model: Any, count: int) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _, batch in zip(range(count), batches(), strict=False):
            model(**batch)
    return [str(warning.message) for warning in caught]


def test_evaluation_and_steps_in_time_do_not_warn() -> None:
    model = bert().train()
    method = attach(model, warn_after=5, **SETTINGS)
    with torch.no_grad():
        assert passes(model, 20) == []
    assert passes(model.eval(), 20) == []
    model.train()
    for step in range(1, 5):  # four micro-batches each
        assert passes(model, 4) == []
        method.after_step(step)
    assert passes(model, 4) == []
    assert len(passes(model, 1)) == 1


def test_no_warning_where_nothing_is_left_to_do() -> None:
    model = bert().train()
    method = attach(model, warn_after=5, **SETTINGS)
    run(model, method, torch.optim.AdamW(trainable(model), lr=1e-2))
    assert passes(model, 20) == []
    model = bert().train()
    attach(model, warn_after=5, **SETTINGS)
    assert passes(dora_cli.merge(model), 20) == []
    model = bert().train()
    attach(model, warn_after=None, **SETTINGS)
    assert passes(model, 20) == []


def test_a_copy_is_watched_by_itself() -> None:
    model = bert().train()
    method = attach(model, warn_after=5, **SETTINGS)
    other = copy.deepcopy(model)
    for step in range(1, 7):
        assert passes(model, 1) == []
        method.after_step(step)
    assert len(passes(other, 6)) == 1


def test_the_loop_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "guide" / "python.md").read_text(encoding="utf-8")
    (code,) = [
        block for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL) if "adjust_gradients" in block
    ]
    monkeypatch.chdir(tmp_path)
    model = bert().train()
    names: dict[str, Any] = {"model": model, "batches": [batch for batch, _ in zip(batches(), range(T), strict=False)]}
    exec(code, names)
    assert names["method"].last_step == T
    assert sum(item.rank for item in names["method"].allocation()) == 8 * PROJECTIONS
    again = BertForSequenceClassification.from_pretrained(tmp_path / "plain")
    batch = next(batches())
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, model.eval()(**batch).logits)


def test_the_default_is_generous() -> None:
    assert WARN_AFTER >= 200


def test_the_names_are_public_and_light() -> None:
    import subprocess
    import sys

    names = {"attach", "shrink", "merge", "to_lora", "load_adapter", "predict", "DoraCallback", "evaluate", "train"}
    assert names <= set(dora_cli.__all__)
    assert dir(dora_cli) == sorted(dora_cli.__all__)
    assert all(callable(getattr(dora_cli, name)) for name in dora_cli.__all__ if name != "__version__")
    done = subprocess.run(
        [sys.executable, "-c", "import sys, dora_cli; assert 'torch' not in sys.modules"], check=False
    )
    assert done.returncode == 0


@pytest.mark.parametrize("gradients", ["pro", "riemannian"])
def test_adjusted_gradients_in_a_loop_of_ones_own(gradients: str) -> None:
    """Over all events, each of which takes rows out of memory, with a moment for each row that is left."""
    torch.manual_seed(0)
    model = bert().train()
    settings = {**SETTINGS, "start": "lora", "gates": "fixed", "gradients": gradients, "dem_weight": 0.0}
    method = attach(model, start_rank=4, **settings, seed=1)
    optimizer = torch.optim.AdamW(trainable(model), lr=1e-2)
    losses = run(model, method, optimizer)
    assert method.frozen
    assert len({item.rank for item in method.allocation()}) > 1
    assert sum(item.rank for item in method.allocation()) == 2 * PROJECTIONS
    assert losses[-1] < losses[0]
    plain = bert().train()
    other = attach(plain, start_rank=4, **{**settings, "gradients": "plain"}, seed=1)
    assert run(plain, other, torch.optim.AdamW(trainable(plain), lr=1e-2)) != losses
