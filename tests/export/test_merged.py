"""A plain transformers model, for tools that know nothing else."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, GenerationConfig

from dora_cli.errors import CheckpointError, ExportError, ModelError
from dora_cli.export.merged import merge
from dora_cli.export.saved import export_saved
from tests.export.conftest import GetRun, restored
from tests.export.given import Given

FILES = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md", "dora_export.json"}


def test_a_classifier_knows_its_labels(run_of: GetRun, tmp_path: Path) -> None:
    found = export_saved(run_of("bert, fresh pooler and classifier"), tmp_path / "out", format="merged")
    assert set(found.files) == FILES == {path.name for path in (tmp_path / "out").iterdir()}
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert config.id2label == {0: "entailment", 1: "neutral", 2: "contradiction"}
    assert config.label2id == {"entailment": 0, "neutral": 1, "contradiction": 2}
    assert config.architectures == ["BertForSequenceClassification"]
    assert AutoTokenizer.from_pretrained(tmp_path / "out").vocab_size > 5
    names = load_file(tmp_path / "out" / "model.safetensors").keys()
    assert not [name for name in names if ".A" in name or ".base." in name or "lora" in name]


def test_a_generator_decodes_as_its_run_does(run_of: GetRun, tmp_path: Path) -> None:
    found = export_saved(
        run_of("bart"), tmp_path / "out", format="merged", overrides=["decode.beams=3", "decode.no_repeat_ngram=2"]
    )
    assert set(found.files) == FILES | {"generation_config.json"}
    config = GenerationConfig.from_pretrained(tmp_path / "out")
    got = (
        config.num_beams,
        config.length_penalty,
        config.max_new_tokens,
        config.no_repeat_ngram_size,
        config.do_sample,
    )
    assert got == (3, 0.8, 12, 2, False)
    assert (config.decoder_start_token_id, config.forced_bos_token_id, config.eos_token_id) == (3, 2, [3])
    assert config.forced_eos_token_id is None, "the base model's own settings were not the run's"
    export_saved(
        run_of("llama, grouped queries"), tmp_path / "llama", format="merged", overrides=["decode.no_repeat_ngram=4"]
    )
    config = GenerationConfig.from_pretrained(tmp_path / "llama")
    assert config.num_beams == 2
    assert not config.no_repeat_ngram_size, "it would forbid to copy from the prompt"
    assert "no 4-gram stands twice" in (tmp_path / "llama" / "README.md").read_text()
    assert json.loads((tmp_path / "llama" / "config.json").read_text())["use_cache"] is True


def test_each_sum_is_rounded_once() -> None:
    """Merging in bf16 would lose an update of 2^-9: 1 + 2^-9 + 2^-9 is 1 + 2^-8 rounded once, and 1 rounded at every
    step.
    """
    model = nn.Sequential(nn.Linear(1, 1, bias=False))
    nn.init.constant_(model[0].weight, 1 + 2**-9)
    method = Given(model, _0=torch.tensor([[2**-8 * 1.5]]))
    merge(model, method, method.sites, "bfloat16")
    assert model[0].weight.dtype == torch.bfloat16
    assert float(model[0].weight) == 1 + 2**-7


def test_a_weight_that_is_used_elsewhere_is_refused() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    method = Given(model, a=torch.ones(2, 2))
    with pytest.raises(ExportError, match=r"weight of a is also that of b.*--format peft"):
        merge(model, method, method.sites, "float32")


def test_a_quantised_base_is_refused_with_a_reason(run_of: GetRun, bases: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(bases["bert"], tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    run = run_of("bert, fresh pooler and classifier")
    for format in ("merged", "peft"):
        with pytest.raises(ModelError, match=r"quantised weights.*unquantised model"):
            export_saved(run, tmp_path / "out", format=format, overrides=[f"model.name={tmp_path / 'base'}"])
        assert not (tmp_path / "out").exists()


def test_a_run_with_damaged_numbers_leaves_nothing(run_of: GetRun, tmp_path: Path) -> None:
    """A head with a NaN, in files that are otherwise whole."""
    import hashlib

    shutil.copytree(run_of("bert, regression"), tmp_path / "run")
    adapter = tmp_path / "run" / "adapter"
    head = load_file(adapter / "head.safetensors")
    name = sorted(head)[0]
    head[name].view(-1)[0] = math.nan
    save_file(head, adapter / "head.safetensors")
    manifest = json.loads((adapter / "manifest.json").read_text())
    content = (adapter / "head.safetensors").read_bytes()
    manifest["files"]["head.safetensors"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (adapter / "manifest.json").write_text(json.dumps(manifest))
    for format in ("merged", "peft"):
        with pytest.raises(CheckpointError, match=f"not finite .* in {name};"):
            export_saved(tmp_path / "run", tmp_path / "out", format=format)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_fp16_model_is_half_the_size_and_close(run_of: GetRun, tmp_path: Path) -> None:
    run = run_of("bert, fresh pooler and classifier")
    whole = export_saved(run, tmp_path / "whole", format="merged")
    half = export_saved(run, tmp_path / "half", format="merged", dtype="float16")
    assert half.files["model.safetensors"] < 0.75 * whole.files["model.safetensors"]
    assert half.agreement.difference < 5e-3 * half.agreement.largest
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "half", dtype="auto")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}


def test_the_run_itself_is_left_alone(run_of: GetRun, tmp_path: Path) -> None:
    run = run_of("bert, regression")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    export_saved(run, tmp_path / "out", format="merged")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert restored(run).adapted.method.frozen
