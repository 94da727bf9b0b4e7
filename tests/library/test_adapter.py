"""What a run trained, on a model that the user has loaded."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
)

import dora_cli
from dora_cli import load_adapter, merge, parse_recipe, to_lora, train
from dora_cli.assembly.restore import restore
from dora_cli.errors import CheckpointError, ModelError, RecipeError
from dora_cli.methods.attached import carried
from dora_cli.models import load_generator
from tests.hostile.model import make_model


def recipe_of(model: Path | str, *overrides: str) -> Any:
    text = f"""
        task: glue/sst2
        model: {{name: "{model}"}}
        data: {{source: builtin, max_train_samples: 94, max_eval_samples: 10}}
        method: {{name: dora, rank: 1, start_rank: 4, prune_interval: 1, dropout: 0.1}}
        train: {{epochs: 2, batch_size: 16, learning_rate: 0.1, log_every: 5, device: cpu}}
    """
    return parse_recipe(text, overrides=overrides)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two blocks, so that some projections keep no component."""
    return make_model(tmp_path_factory.mktemp("model"), blocks=2)


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 steps, the freeze after 1 + 4; nobody changes it.

    A checkpoint from before the freeze stays, because `save.keep` says so.
    """
    folder = tmp_path_factory.mktemp("runs") / "run"
    result = train(recipe_of(tiny_model, "save.keep=9", "save.every_steps=3"), folder)
    assert any(layer["rank"] == 0 for layer in result.ranks["layers"]), (
        "a projection without components is part of the test"
    )
    return folder


def users(tiny_model: Path, **changes: Any) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(tiny_model, **({"num_labels": 2} | changes))


def logits(model: nn.Module) -> torch.Tensor:
    ids = torch.arange(5, 45).view(4, 10)
    with torch.no_grad():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()


def reference(checkpoint: Path) -> torch.Tensor:
    return logits(restore(checkpoint, [], lambda recipe, task: ()).adapted.model)


def state_of(model: nn.Module) -> tuple[list[str], list[bool], list[torch.Tensor]]:
    return (
        [f"{name} {type(module).__name__}" for name, module in model.named_modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [parameter.detach().clone() for parameter in model.parameters()],
    )


def assert_untouched(model: nn.Module, before: tuple[list[str], list[bool], list[torch.Tensor]]) -> None:
    modules, flags, values = state_of(model)
    assert (modules, flags) == before[:2]
    assert all(torch.equal(a, b) for a, b in zip(values, before[2], strict=True))
    assert carried(model) is None


@pytest.mark.parametrize("place", ["", "adapter", "checkpoints/step-12"])
def test_a_users_model_becomes_that_of_the_run(run: Path, tiny_model: Path, place: str) -> None:
    model = users(tiny_model)
    random = torch.get_rng_state()
    method = load_adapter(run / place, model)
    assert torch.equal(torch.get_rng_state(), random), "loading draws nothing"
    assert method.frozen
    assert sum(item.rank for item in method.allocation()) == 12
    expected = reference(run / place)
    assert torch.equal(logits(model), expected)
    assert {
        name.rpartition(".")[0]
        for name, p in model.named_parameters()
        if p.requires_grad and name[-2:] not in (".A", ".B", ".c")
    } == {
        "classifier",
        "bert.pooler.dense",
    }
    plain = users(tiny_model)
    assert merge(model) is model
    assert [type(module) for module in model.modules()] == [type(module) for module in plain.modules()]
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=0)


def test_a_merged_model_goes_through_save_pretrained(run: Path, tiny_model: Path, tmp_path: Path) -> None:
    model = users(tiny_model)
    load_adapter(str(run), model)
    merge(model).save_pretrained(tmp_path / "plain")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain")
    assert torch.equal(logits(again), logits(model))


def test_plain_lora_from_a_model_and_from_its_run_are_the_same(run: Path, tiny_model: Path) -> None:
    model = users(tiny_model)
    method = load_adapter(run, model)
    of_model, of_run = to_lora(model), to_lora(run)
    assert of_model.keys() == of_run.keys() == {item.name for item in method.allocation() if item.rank}
    for name, factors in of_model.items():
        assert torch.equal(factors.A, of_run[name].A)
        assert torch.equal(factors.B, of_run[name].B)
    with torch.no_grad():
        for name, factors in of_run.items():
            module = users(tiny_model).get_submodule(name)
            assert factors.A.shape == (factors.rank, module.in_features)
            assert factors.B.shape == (module.out_features, factors.rank)


def test_a_run_whose_base_model_moved_takes_an_override(run: Path, tiny_model: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    recipe = moved / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(tiny_model), str(tmp_path / "gone")))
    with pytest.raises(ModelError, match=r"--set model\.name="):
        to_lora(moved)
    assert to_lora(moved, overrides=[f"model.name={tiny_model}"]).keys() == to_lora(run).keys()
    with pytest.raises(RecipeError, match=r"method\.rank"):
        to_lora(moved, overrides=["method.rank=2"])


@pytest.mark.parametrize(
    "changes", [("method.compact=false",), ("method={name: head}",), ("method.targets=['*.query']",)]
)
def test_every_kind_of_run_loads(tiny_model: Path, tmp_path: Path, changes: tuple[str, ...]) -> None:
    train(recipe_of(tiny_model, *changes), tmp_path / "run")
    model = users(tiny_model)
    load_adapter(tmp_path / "run", model)
    expected = reference(tmp_path / "run")
    assert torch.equal(logits(model), expected)
    torch.testing.assert_close(logits(merge(model)), expected, atol=1e-5, rtol=0)


def test_a_generator_loads(tmp_path: Path) -> None:
    recipe = parse_recipe("""
        task: e2e
        model: {name: "builtin:tiny-decoder"}
        data: {source: builtin, max_train_samples: 24, max_eval_samples: 2, max_length: 256}
        method: {name: dora, rank: 1, start_rank: 2, prune_interval: 1}
        train: {epochs: 2, batch_size: 8, learning_rate: 2.0e-2, device: cpu}
        decode: {beams: 1, max_new_tokens: 2, epoch_samples: 0}
    """)
    train(recipe, tmp_path / "run")
    restored = restore(tmp_path / "run", [], lambda recipe, task: ()).adapted
    model = load_generator("builtin:tiny-decoder").model
    load_adapter(tmp_path / "run", model)
    expected = logits(restored.model)
    assert not torch.equal(logits(load_generator("builtin:tiny-decoder").model), expected)
    assert torch.equal(logits(model), expected)
    torch.testing.assert_close(logits(merge(model)), expected, atol=5e-5, rtol=0)


def test_a_half_precision_model_computes_without_autocast(tiny_model: Path, tmp_path: Path) -> None:
    train(recipe_of(tiny_model, "model.dtype=bfloat16"), tmp_path / "run")
    model = users(tiny_model, dtype=torch.bfloat16)
    load_adapter(tmp_path / "run", model)
    found = logits(model)
    restored = restore(tmp_path / "run", [], lambda recipe, task: ())
    with restored.ground.accelerator.autocast():
        expected = logits(restored.adapted.model)
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=2e-2)
    with pytest.raises(
        CheckpointError,
        match=r"float32, .*dtype=torch\.bfloat16",
    ):
        load_adapter(tmp_path / "run", users(tiny_model))


def test_weights_from_before_the_freeze_need_a_word(run: Path, tiny_model: Path) -> None:
    early = run / "checkpoints" / "step-3"
    model = users(tiny_model)
    before = state_of(model)
    with pytest.raises(CheckpointError, match=r"\(step 3\).*allow_unfrozen=True"):
        load_adapter(early, model)
    assert_untouched(model, before)
    method = load_adapter(early, model, allow_unfrozen=True)
    assert not method.frozen
    assert torch.equal(logits(model), reference(early))
    with pytest.raises(CheckpointError, match="allow_unfrozen=True"):
        to_lora(early)
    assert {factors.rank for factors in to_lora(early, allow_unfrozen=True).values()} == {4}


def changed(model: Any) -> Any:
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.weight.add_(1e-3)
    return model


def other_size(tiny_model: Path, **changes: Any) -> Any:
    config = BertConfig.from_pretrained(tiny_model)
    for key, value in changes.items():
        setattr(config, key, value)
    config.num_labels = 2
    return BertForSequenceClassification(config)


MISFITS = {
    "another head": (
        lambda folder: users(folder, num_labels=3),
        r" classifier\.\w+ .*\(2.*\(3.*num_labels",
    ),
    "no head": (AutoModel.from_pretrained, r"^head tensor \S+ .* BertModel"),
    "another task's head": (AutoModelForMaskedLM.from_pretrained, r"^head tensor bert\.pooler\.dense\.bias "),
    "one more block": (
        lambda folder: other_size(folder, num_hidden_layers=3),
        r"^tensor (keep|scores) .*\(12, 4\).*\(18, 4\)",
    ),
    "wider blocks": (
        lambda folder: other_size(folder, intermediate_size=48),
        r"tensor bert\.encoder\.layer\.\d\.(intermediate|output)\.dense\.[AB] is ",
    ),
    "other weights": (lambda folder: changed(users(folder)), r"\(fingerprint .*unchanged"),
    "another architecture": (
        lambda folder: GPT2ForSequenceClassification(GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2,
        n_positions=16)),
        r"^head tensor bert\.pooler\.dense\.bias .* GPT2ForSequenceClassification",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISFITS)
def test_a_model_that_does_not_fit_is_refused_and_left_as_it_was(run: Path, tiny_model: Path, name: str) -> None:
    make, says = MISFITS[name]
    model = make(tiny_model)
    before = state_of(model)
    with pytest.raises(CheckpointError, match=says):
        load_adapter(run, model)
    assert_untouched(model, before)


def test_targets_that_the_model_does_not_have_are_refused(run: Path, tiny_model: Path, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    recipe = copied / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("[attention, ffn]", "['*.c_attn']"))
    assert "c_attn" in recipe.read_text()
    with pytest.raises(
        CheckpointError,
        match=r"target '\*\.c_attn' ",
    ):
        load_adapter(copied, users(tiny_model))


def test_an_adapter_is_loaded_once(run: Path, tiny_model: Path) -> None:
    model = users(tiny_model)
    load_adapter(run, model)
    with pytest.raises(ModelError, match=r"^this \w+ carries "):
        load_adapter(run, model)
    with pytest.raises(ModelError, match=r"^this \w+ carries "):
        dora_cli.attach(model, total_steps=10)


def test_what_is_no_run_is_said_without_an_option_that_nobody_gave(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^\S*nowhere "):
        load_adapter(tmp_path / "nowhere", users(tiny_model))
    with pytest.raises(CheckpointError, match=r"^\S+ .*recipe\.yaml"):
        load_adapter(tmp_path, users(tiny_model))
