"""Whole runs of methods that train the base itself: everything that holds a frozen base for granted elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForSequenceClassification, BertConfig, LlamaConfig

from dora_cli import evaluate, load_adapter, merge, parse_recipe, save_adapter, train
from dora_cli.assembly.dry_run import dry_run
from dora_cli.assembly.restore import restore
from dora_cli.errors import CheckpointError, ExportError, ModelError, RecipeError
from dora_cli.export.saved import export_saved
from dora_cli.methods.attached import carried
from dora_cli.recipe import Recipe
from tests.runs.test_resume import Runs, assert_equal_runs
from tests.training.conftest import MakeRecipe
from tests.training.test_run import STEPS, read

D, FFN = 16, 32
BIASES = 7 * D + FFN + D
"""Those of the one block, see `tests.methods.bitfit`, and of the embeddings' LayerNorm."""
HEAD = D * D + D + 2 * D + 2
SHORT = ("data.max_train_samples=46", "data.max_eval_samples=16", "train.batch_size=4", "train.gradient_accumulation=2")
NAMES = ("full", "bitfit")
methods = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory, copied=False)


def recipe_of(make_recipe: MakeRecipe, name: str) -> Recipe:
    return make_recipe(f"method={{name: {name}}}", *SHORT, "save.every_steps=1")


def users(model: Path, **changes: Any) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(model, **({"num_labels": 2} | changes))


def logits(model: nn.Module) -> torch.Tensor:
    ids = torch.arange(5, 45).view(4, 10)
    with torch.no_grad():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


@methods
def test_the_records_say_what_was_trained_and_a_checkpoint_holds_it_once(
    make_recipe: MakeRecipe, runs: Runs, tiny_model: Path, name: str
) -> None:
    run = runs.straight(recipe_of(make_recipe, name))
    entries = BIASES if name == "bitfit" else sum(p.numel() for p in users(tiny_model).parameters()) - HEAD
    assert read(run / "metrics.json")["budget"] == {
        "start_components": 0,
        "final_components": 0,
        "live_components": 0,
        "trainable_parameters_start": entries + HEAD,
        "trainable_parameters_final": entries + HEAD,
        "adapter_parameters_final": entries,
        "adapter_bytes": 4 * entries,
    }
    assert read(run / "ranks.json")["layers"] == []
    checkpoint = run / "checkpoints" / f"step-{STEPS}"
    stored = [load_file(checkpoint / f"{part}.safetensors") for part in ("adapter", "head")]
    assert sum(tensor.numel() for tensors in stored for tensor in tensors.values()) == entries + HEAD
    assert evaluate(run)["identical"] is True


@methods
def test_a_cut_run_goes_on_as_if_nothing_had_happened(
    make_recipe: MakeRecipe, runs: Runs, tmp_path: Path, name: str
) -> None:
    recipe = recipe_of(make_recipe, name)
    runs.cut_again_and_again(recipe, tmp_path / "run", [7, STEPS])
    train(recipe, tmp_path / "run", resume=True)
    assert_equal_runs(runs.straight(recipe), tmp_path / "run")


@methods
def test_it_is_exported_as_a_whole_model_alone(
    make_recipe: MakeRecipe, runs: Runs, tiny_model: Path, tmp_path: Path, name: str
) -> None:
    run = runs.straight(recipe_of(make_recipe, name))
    export_saved(run, tmp_path / "merged", format="merged")
    trained = load_file(run / "adapter" / "adapter.safetensors") | load_file(run / "adapter" / "head.safetensors")
    base = dict(users(tiny_model).named_parameters())
    for path, parameter in users(tmp_path / "merged").named_parameters():
        assert torch.equal(parameter, trained.get(path, base[path])), path
    with pytest.raises(ExportError, match=f"method {name} is no plain LoRA"):
        export_saved(run, tmp_path / "peft", format="peft")


@methods
def test_a_users_model_becomes_that_of_the_run_and_goes_through_a_folder(
    make_recipe: MakeRecipe, runs: Runs, tiny_model: Path, tmp_path: Path, name: str
) -> None:
    run = runs.straight(recipe_of(make_recipe, name))
    expected = logits(restore(run, [], lambda recipe, task: ()).adapted.model)
    model, again = users(tiny_model), users(tiny_model)
    assert not torch.equal(logits(model), expected)
    load_adapter(run, model)
    assert torch.equal(logits(model), expected)
    with pytest.warns(UserWarning, match="PEFT"):
        save_adapter(model, tmp_path / "saved")
    load_adapter(tmp_path / "saved", again)
    assert torch.equal(logits(again), expected)
    export_saved(tmp_path / "saved", tmp_path / "merged", format="merged")
    assert torch.equal(logits(users(tmp_path / "merged")), expected)
    merge(again).save_pretrained(tmp_path / "plain")
    assert torch.equal(logits(users(tmp_path / "plain")), expected)


def changed(model: Any) -> Any:
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight.add_(1e-3)
    return model


def wider(folder: Path) -> Any:
    config = BertConfig.from_pretrained(folder)
    config.intermediate_size, config.num_labels = 48, 2
    return AutoModelForSequenceClassification.from_config(config)


@methods
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda folder: changed(users(folder)), id="other weights"),
        pytest.param(wider, id="wider blocks"),
        pytest.param(lambda folder: users(folder, num_labels=3), id="another head"),
        pytest.param(lambda folder: users(folder, dtype=torch.bfloat16), id="another type"),
    ],
)
def test_a_model_that_does_not_fit_is_left_as_it_was(
    make_recipe: MakeRecipe, runs: Runs, tiny_model: Path, name: str, make: Any
) -> None:
    run = runs.straight(recipe_of(make_recipe, name))
    model = make(tiny_model)
    before = {path: parameter.detach().clone() for path, parameter in model.named_parameters()}
    for parameter in model.bert.embeddings.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(CheckpointError):
        load_adapter(run, model)
    for path, parameter in model.named_parameters():
        assert torch.equal(parameter, before[path])
        assert parameter.requires_grad == (not path.startswith("bert.embeddings"))
    assert carried(model) is None


def test_norms_are_the_users_own_again_where_an_adapter_is_refused(
    make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path
) -> None:
    """Where they train, copies are put in their places, which loading writes to."""
    method = "method={name: houlsby, bottleneck: 3, train_norms: true}"
    train(make_recipe(method, *SHORT, "train.max_steps=4"), tmp_path / "run")
    model = changed(users(tiny_model))
    expected, before = logits(model), dict(model.named_parameters())
    with pytest.raises(CheckpointError, match="fingerprint"):
        load_adapter(tmp_path / "run", model)
    assert all(parameter is before[path] for path, parameter in model.named_parameters())
    assert torch.equal(logits(model), expected)


@methods
def test_another_base_model_is_refused_by_an_evaluation(
    make_recipe: MakeRecipe, runs: Runs, tiny_model: Path, tmp_path: Path, name: str
) -> None:
    run = runs.straight(recipe_of(make_recipe, name))
    shutil.copytree(tiny_model, tmp_path / "other")
    changed(users(tiny_model)).save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match="fingerprint"):
        evaluate(run, overrides=[f"model.name={tmp_path / 'other'}"])


@methods
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_half_base_is_refused(make_recipe: MakeRecipe, name: str, dtype: str) -> None:
    with pytest.raises(
        RecipeError,
        match=rf"model\.dtype: must be float32 with method {name}, got {dtype}.* train\.precision: bf16",
    ):
        make_recipe(f"method={{name: {name}}}", f"model.dtype={dtype}")


@methods
def test_it_computes_in_half_where_that_is_asked_for(make_recipe: MakeRecipe, tmp_path: Path, name: str) -> None:
    result = train(
        make_recipe(f"method={{name: {name}}}", *SHORT, "train.max_steps=4", "train.precision=bf16"), tmp_path / "run"
    )
    assert {tensor.dtype for tensor in load_file(tmp_path / "run" / "adapter" / "adapter.safetensors").values()} == {
        torch.float32
    }
    assert evaluate(tmp_path / "run")["metrics"] == result.metrics["metrics"]


def test_a_model_without_biases_is_refused_before_a_weight_is_loaded(
    make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path
) -> None:
    """The file of weights is none: whoever read it would say so."""
    shutil.copytree(tiny_model, tmp_path / "llama")
    LlamaConfig(
        vocab_size=len(users(tiny_model).bert.embeddings.word_embeddings.weight), hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=32, pad_token_id=0,
    ).save_pretrained(tmp_path / "llama")  # fmt: skip
    (tmp_path / "llama" / "model.safetensors").write_bytes(b"none")
    recipe = make_recipe("method={name: bitfit}", f"model.name={tmp_path / 'llama'}")
    for refused in (lambda: dry_run(recipe), lambda: train(recipe, tmp_path / "run")):
        with pytest.raises(ModelError, match=r"model\.name: LlamaForSequenceClassification .*bitfit"):
            refused()
    assert not (tmp_path / "run").exists()


def test_the_dry_run_tells_how_much_trains(make_recipe: MakeRecipe, tiny_model: Path) -> None:
    """That the checkpoint lacks the pooler, which is then of the head, a configuration does not say."""
    found = dry_run(make_recipe("method={name: bitfit}"))
    pooler = D * D + D
    assert found.parameters == {
        "projections": 0, "per_rank": 0, "start": BIASES + D, "final": BIASES + D, "head": HEAD - pooler,
    }  # fmt: skip
    found = dry_run(make_recipe("method={name: full}"))
    assert found.parameters is not None
    assert found.parameters["final"] + found.parameters["head"] == sum(
        p.numel() for p in users(tiny_model).parameters()
    )


@pytest.mark.parametrize("model", ["tiny-decoder", "tiny-seq2seq"])
def test_a_generator_trains_and_decodes(tmp_path: Path, model: str) -> None:
    """The built-in ones tie their embeddings; the weights that are selected are not the last."""
    recipe = parse_recipe(f"""
        task: e2e
        model: {{name: "builtin:{model}"}}
        data: {{source: builtin, max_train_samples: 24, max_eval_samples: 2, max_length: 256}}
        method: {{name: full}}
        train: {{epochs: 2, batch_size: 8, learning_rate: 1.0e-3, device: cpu}}
        decode: {{beams: 1, max_new_tokens: 4, epoch_samples: 0}}
    """)
    result = train(recipe, tmp_path / "run")
    assert result.metrics["epochs"][1]["metrics"]["loss"] < result.metrics["epochs"][0]["metrics"]["loss"]
    assert evaluate(tmp_path / "run")["identical"] is True
    export_saved(tmp_path / "run", tmp_path / "merged", format="merged")
    stored = load_file(tmp_path / "run" / "adapter" / "adapter.safetensors")
    assert "lm_head.weight" not in stored
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert all(torch.equal(merged[path], tensor) for path, tensor in stored.items())
