"""``dora export`` of what `save_adapter` wrote in a loop of the user's own."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file, save_file

from dora_cli import attach, save_adapter
from dora_cli.errors import CheckpointError, ExportError, ModelError, RecipeError
from dora_cli.export.saved import export_saved
from tests.export.conftest import CAUSAL, CLASSIFIER, SEQ2SEQ
from tests.hostile.edits import sign

STEPS = 20  # the freeze is at 3 + 7
SETTINGS: dict[str, Any] = {"rank": 2, "total_steps": STEPS, "prune_interval": 1, "dropout": 0.0}


def base_of(place: Path, auto_class: str) -> Any:
    torch.manual_seed(0)  # a fresh head is drawn
    labels = {"num_labels": 3} if auto_class == CLASSIFIER else {}
    return getattr(transformers, auto_class).from_pretrained(place, **labels)


def trained(place: Path, auto_class: str, steps: int = STEPS) -> Any:
    """Every component does something."""
    model = base_of(place, auto_class)
    # no checkpoint of a masked language model has one
    fresh = [name for name, _ in model.named_parameters() if ".pooler." in name]
    method = attach(model, fresh=fresh, **SETTINGS)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    for step in range(1, steps + 1):
        method.after_step(step)
    return model.eval()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(6, 30).view(2, 12)
    more = {"decoder_input_ids": ids[:, :5]} if getattr(model.config, "is_encoder_decoder", False) else {}
    return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids), **more).logits


@pytest.mark.parametrize(("base", "auto_class"), [("bert", CLASSIFIER), ("gpt2", CAUSAL), ("bart-talking", SEQ2SEQ)])
def test_a_saved_adapter_is_exported_in_both_formats(
    base: str, auto_class: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    model = trained(bases[base], auto_class)
    expected = logits(model)
    assert not torch.allclose(expected, logits(base_of(bases[base], auto_class)), atol=1e-2)
    save_adapter(model, tmp_path / "saved")
    found = export_saved(tmp_path / "saved", tmp_path / "peft", padding="common")
    assert found.agreement.difference < 1e-4
    assert json.loads((tmp_path / "peft" / "adapter_config.json").read_text())["rank_pattern"] == {}
    theirs = PeftModel.from_pretrained(base_of(bases[base], auto_class), tmp_path / "peft")
    torch.testing.assert_close(logits(theirs), expected, atol=1e-4, rtol=0)
    export_saved(tmp_path / "saved", tmp_path / "merged", format="merged")
    merged = getattr(transformers, auto_class).from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), expected, atol=1e-4, rtol=0)


@pytest.fixture
def saved(bases: dict[str, Path], tmp_path: Path) -> Path:
    save_adapter(trained(bases["bert"], CLASSIFIER), tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("format", ["peft", "merged"])
def test_the_lines_of_its_card_load_it(
    format: str, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_saved(saved, tmp_path / "out", format=format)
    monkeypatch.chdir(tmp_path / "out")
    (code,) = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    base = json.loads((saved / "adapter.json").read_text())["base"]["name"]
    torch.testing.assert_close(logits(names["model"]), logits(trained(Path(base), CLASSIFIER)), atol=1e-4, rtol=0)


def test_the_base_may_have_moved(saved: Path, bases: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(bases["bert"], tmp_path / "elsewhere")
    record = saved / "adapter.json"
    content = json.loads(record.read_text())
    content["base"]["name"] = None
    record.write_text(json.dumps(content))
    sign(saved)
    with pytest.raises(ExportError, match=r"does not say where its base model is.*--set model\.name"):
        export_saved(saved, tmp_path / "out")
    export_saved(saved, tmp_path / "out", overrides=[f"model.name={tmp_path / 'elsewhere'}"])
    weights = load_file(tmp_path / "elsewhere" / "model.safetensors")
    changed = {name: value + 1 if name.endswith("query.weight") else value for name, value in weights.items()}
    save_file(changed, tmp_path / "elsewhere" / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"\(fingerprint "):
        export_saved(saved, tmp_path / "other", overrides=[f"model.name={tmp_path / 'elsewhere'}"])
    with pytest.raises(ModelError, match="nowhere"):
        export_saved(saved, tmp_path / "other", overrides=[f"model.name={tmp_path / 'nowhere'}"])
    with pytest.raises(RecipeError, match=r"--set method\.rank: .*can change model\.name"):
        export_saved(saved, tmp_path / "other", overrides=["method.rank=3"])
    assert not (tmp_path / "other").exists()


def test_before_the_freeze_it_must_be_asked_for(bases: dict[str, Path], tmp_path: Path) -> None:
    save_adapter(trained(bases["bert"], CLASSIFIER, steps=5), tmp_path / "saved", allow_unfrozen=True)
    with pytest.raises(ExportError, match=r"\bstep 5, .*--allow-unfrozen"):
        export_saved(tmp_path / "saved", tmp_path / "out")
    assert export_saved(tmp_path / "saved", tmp_path / "out", allow_unfrozen=True).exact.components == 6 * 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"architecture": "os"}, "no model class of transformers"),
        ({"architecture": "Trainer"}, "no model class of transformers"),
        ({"architecture": "BertModel"}, "head tensor|neither classifies texts nor generates"),
        ({"dtype": "float64"}, "a model in float64"),
        ({"config": {"hidden_size": "wide"}}, "."),
        ({"config": {"num_hidden_layers": 1}}, "."),
    ],
)
def test_a_record_by_a_stranger_loads_classes_of_transformers_alone(
    saved: Path, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    record = saved / "adapter.json"
    content = json.loads(record.read_text())
    content["base"] |= change
    record.write_text(json.dumps(content))
    sign(saved)
    with pytest.raises((ExportError, CheckpointError, ModelError), match=says):
        export_saved(saved, tmp_path / "out")
    assert not (tmp_path / "out").exists()
