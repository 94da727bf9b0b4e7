"""Models that come with Python code of their own: never run unasked, announced when run."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dora_cli import evaluate, train
from dora_cli.assembly.dry_run import dry_run
from dora_cli.errors import ModelError, RecipeError
from dora_cli.models import config_model, load_generator, load_model
from dora_cli.recipe import Recipe, parse_recipe
from dora_cli.training.listener import SilentListener
from tests.training.conftest import tiny_model

__all__ = ["tiny_model"]

CODE = """
from pathlib import Path

import torch
from torch import nn
from transformers import BertConfig, BertModel, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

Path({trace!r}).open("a").write("ran\\n")


class OwnConfig(BertConfig):
    model_type = "own"


class OwnClassifier(PreTrainedModel):
    config_class = OwnConfig
    base_model_prefix = "bert"

    def __init__(self, config):
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.out = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def get_input_embeddings(self):
        return self.bert.embeddings.word_embeddings

    def forward(self, input_ids=None, attention_mask=None, token_type_ids=None, **_):
        hidden = self.bert(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).last_hidden_state
        return SequenceClassifierOutput(logits=self.out(hidden[:, 0]))
"""


class Notes(SilentListener):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """The file in which the model's code leaves a line whenever it runs."""
    return tmp_path / "trace"


@pytest.fixture
def own(tiny_model: Path, tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A model folder with code; what the loaders copy of it goes into a folder of this test."""
    modules = tmp_path / "modules"
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(modules))
    path, loaded = list(sys.path), set(sys.modules)
    folder = shutil.copytree(tiny_model, tmp_path / "own")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own",
        "architectures": ["OwnClassifier"],
        "auto_map": {
            "AutoConfig": "modeling_own.OwnConfig",
            "AutoModelForSequenceClassification": "modeling_own.OwnClassifier",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_own.py").write_text(CODE.format(trace=str(trace)))
    yield folder
    sys.path[:] = path
    for name in set(sys.modules) - loaded:
        if name.startswith("transformers_modules"):
            del sys.modules[name]


def recipe_of(folder: Path, *overrides: str) -> Recipe:
    text = f"""
        task: glue/sst2
        model: {{name: {folder}}}
        data: {{source: builtin, max_train_samples: 48, max_eval_samples: 20}}
        method: {{rank: 2, prune_interval: 2}}
        train: {{epochs: 2, device: cpu}}
    """
    return parse_recipe(text, overrides=overrides)


def test_nothing_is_run_unasked(own: Path, trace: Path, tmp_path: Path) -> None:
    for call in (
        lambda: load_model(str(own), num_labels=2),
        lambda: load_generator(str(own)),
        lambda: config_model(str(own), num_labels=2),
        lambda: dry_run(recipe_of(own)),
        lambda: train(recipe_of(own), tmp_path / "run"),
    ):
        with pytest.raises(
            ModelError,
            match=r"^model\.name: .*set "
            r"model\.trust_remote_code: true",
        ):
            call()
    assert not trace.exists()
    assert not (tmp_path / "run").exists()


def test_when_trusted_it_is_run_and_said(own: Path, trace: Path, tmp_path: Path) -> None:
    recipe, notes = recipe_of(own, "model.trust_remote_code=true"), Notes()
    result = train(recipe, tmp_path / "run", listener=notes)
    said = f"model.trust_remote_code is on: code of {own} is run"
    assert said in notes.said
    assert trace.exists()
    assert result.metrics["budget"]["live_components"] == 12
    assert [row for row in dry_run(recipe).rows if row[0] == "code"] == [("code", said)]
    assert "code" not in dict(dry_run(recipe_of(own, "model.name=builtin:tiny-encoder")).rows)

    trace.unlink()
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]  # as in a new process
    with pytest.raises(RecipeError, match=r"--set model\.trust_remote_code=true"):
        evaluate(tmp_path / "run")
    with pytest.raises(RecipeError, match="Python code"):
        evaluate(tmp_path / "run", overrides=["eval.batch_size=8"])
    with pytest.raises(ModelError, match="Python code"):
        evaluate(tmp_path / "run", overrides=["model.trust_remote_code=false"])
    assert not trace.exists()
    notes = Notes()
    assert evaluate(tmp_path / "run", overrides=["model.trust_remote_code=true"], note=notes.note)["identical"] is True
    assert said in notes.said
    assert trace.exists()


def test_a_run_without_code_stays_without(tiny_model: Path, own: Path, trace: Path, tmp_path: Path) -> None:
    """Nor does a resumed run gain it, whatever its folder says by now."""
    notes = Notes()
    train(recipe_of(tiny_model), tmp_path / "run", listener=notes)
    assert not any("trust_remote_code" in said for said in notes.said)
    with pytest.raises(RecipeError, match=r"--set model\.trust_remote_code=true"):
        evaluate(tmp_path / "run", overrides=["model.trust_remote_code=true", f"model.name={own}"])
    with pytest.raises(ModelError, match="Python code"):
        evaluate(tmp_path / "run", overrides=[f"model.name={own}"])
    (tmp_path / "run" / "metrics.json").unlink()
    stored = tmp_path / "run" / "recipe.yaml"
    stored.write_text(
        stored.read_text()
        .replace("trust_remote_code: false", "trust_remote_code: true")
        .replace(str(tiny_model), str(own))
    )
    with pytest.raises(ValueError, match=r"model\.trust_remote_code was True and is False"):
        train(recipe_of(own), tmp_path / "run", resume=True)
    assert not trace.exists()
