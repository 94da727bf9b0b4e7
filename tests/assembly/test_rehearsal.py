"""What a run will need later is tried before it starts: models that fail are one message, and nothing is changed by
trying.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoTokenizer, BertModel, GPT2LMHeadModel

from dora_cli import train
from dora_cli.assembly.build import adapt, load_base, make_method
from dora_cli.assembly.data import load_split
from dora_cli.assembly.evaluator import make_evaluator
from dora_cli.assembly.rehearsal import rehearse
from dora_cli.assembly.resolve import resolve
from dora_cli.errors import LibraryError, ModelError, OutOfMemoryError
from dora_cli.evaluation.search import suitable
from dora_cli.machine.devices import make_accelerator
from dora_cli.machine.random_state import random_state
from dora_cli.recipe import Recipe
from dora_cli.training.loop import Loop
from tests.commands.conftest import contents
from tests.training.conftest import MakeRecipe
from tests.training.test_generation import models, recipe_of, tokenizer

__all__ = ["models", "tokenizer"]  # fixtures

CPU = torch.device("cpu")


class Started(Exception):  # noqa: N818
    """The first step would be next."""


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch) -> Callable[[Recipe, Path], None]:
    """Starts a run and ends it before its first step."""

    def started(self: Loop) -> None:
        raise Started

    def begin(recipe: Recipe, output: Path) -> None:
        monkeypatch.setattr(Loop, "run", started)
        with pytest.raises(Started):
            train(recipe, output)

    return begin


def saved(model: Any, tokenizer: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# --- models that fail -------------------------------------------------------------------------------------------------


def test_a_forward_pass_that_fails_is_one_message(make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path) -> None:
    """This Nystromformer takes inputs of 64 tokens and no other; a run that would be replaced is whole."""
    config = transformers.NystromformerConfig(
        vocab_size=1200, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        num_landmarks=4,
        segment_means_seq_len=64,
    )  # fmt: skip
    model = transformers.NystromformerForMaskedLM(config)
    folder = saved(model, AutoTokenizer.from_pretrained(tiny_model), tmp_path / "model")
    train(make_recipe("train.max_steps=6"), tmp_path / "run")
    before = contents(tmp_path / "run")
    said = (
        r"^model\.name: '.*model' \(NystromformerForSequenceClassification\) fails in a forward pass, .*: "
        r"RuntimeError: \w+"
    )
    with pytest.raises(ModelError, match=said):
        train(make_recipe(f"model.name={folder}"), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(ModelError):
        train(make_recipe(f"model.name={folder}"), tmp_path / "run", overwrite=True)
    assert contents(tmp_path / "run") == before


def test_the_narrowest_batch_is_tried_too(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = BertModel.forward
    widths = []

    def forward(self: BertModel, input_ids: Any = None, **options: Any) -> Any:
        widths.append(input_ids.shape[1])
        if input_ids.shape[1] < max(widths):
            raise RuntimeError("\nthis model takes no short texts.\nmore of it")
        return plain(self, input_ids, **options)

    monkeypatch.setattr(BertModel, "forward", forward)
    with pytest.raises(
        ModelError,
        match=r"BertForSequenceClassification.*RuntimeError: this model takes no short "
        r"texts; choose",
    ):
        train(make_recipe(), tmp_path / "run")
    assert len(widths) == 2


def test_on_a_resumed_run_too(make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise TypeError

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_evaluate", fail)
        with pytest.raises(TypeError):
            train(make_recipe("save.every_steps=2"), tmp_path / "run")
    before = contents(tmp_path / "run")
    monkeypatch.setattr(BertModel, "forward", fail)
    with pytest.raises(ModelError, match="TypeError: no reason given"):
        train(make_recipe("save.every_steps=2"), tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == before


def test_a_model_without_beam_search(tokenizer: Any, tmp_path: Path, begin: Callable[[Recipe, Path], None]) -> None:
    config = transformers.RwkvConfig(
        vocab_size=1200,
        hidden_size=16,
        num_hidden_layers=2,
        attention_hidden_size=16,
        context_length=160,
        bos_token_id=2,
        eos_token_id=3,
    )
    folder = saved(transformers.RwkvForCausalLM(config), tokenizer, tmp_path / "model")
    said = (
        r"RwkvForCausalLM\) fails in decoding with decode\.beams 10.*: ValueError: .*; set decode\.beams: 1, which "
        r"works"
    )
    with pytest.raises(ModelError, match=said):
        train(recipe_of(folder, "decode.beams=10"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    begin(recipe_of(folder, "decode.beams=1"), tmp_path / "run")


def test_a_model_that_does_not_decode(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy decoding is tried first, so beams are not to blame. The model is taken for one of another family, whose
    outputs `generate` finds.
    """

    def generate(self: GPT2LMHeadModel, **settings: Any) -> None:
        raise NotImplementedError(
            f"{settings['generation_config'].num_beams} beams, {settings['generation_config'].max_new_tokens} tokens"
        )

    monkeypatch.setattr(suitable, "suitable", lambda model: False)
    monkeypatch.setattr(GPT2LMHeadModel, "generate", generate)
    with pytest.raises(
        ModelError,
        match=r"fails in decoding, tried before training: NotImplementedError: 1 beams, 2 "
        r"tokens; choose",
    ):
        train(recipe_of(models["gpt2"]), tmp_path / "run")


def test_no_memory_for_a_few_rows(make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(BertModel, "forward", short)
    with pytest.raises(OutOfMemoryError, match=r"train\.batch_size 16"):
        train(make_recipe(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- nothing is changed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["classifier", "generator"])
def test_nothing_is_changed(make_recipe: MakeRecipe, models: dict[str, Path], kind: str) -> None:
    recipe, task = resolve(make_recipe() if kind == "classifier" else recipe_of(models["gpt2"]))
    accelerator = make_accelerator(CPU, "fp32")
    adapted = adapt(recipe, task, load_base(recipe, task), make_method(recipe), CPU, total_steps=40)
    model = adapted.model
    evaluated = {split: load_split(recipe, task, split, training=False) for split in task.evaluated_splits(recipe)}
    evaluator = make_evaluator(
        recipe,
        task,
        evaluated,
        model=model,
        tokenizer=adapted.tokenizer,
        layout=adapted.layout,
        accelerator=accelerator,
    )
    encoded = next(iter(evaluator.splits.values()))

    def count(module: Any, _: Any) -> None:
        module.normalised(torch.ones(4, 1))

    model.train()
    model.register_module("normalised", torch.nn.BatchNorm1d(1))  # whose buffers would count in training mode
    model.register_forward_pre_hook(count)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = random_state(CPU)
    rehearse(recipe, task, adapted, encoded, evaluator, accelerator)
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    after = model.state_dict()
    assert all(after[name].equal(tensor) for name, tensor in before.items())
    assert after.keys() == before.keys()
    assert all(tensor.equal(random[name]) for name, tensor in random_state(CPU).items())


# --- metrics ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["glue/sst2", "glue/stsb"])
def test_a_metric_that_fails_on_two_rows_leaves_no_run(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    """It loads but does not compute: said after the first step, not after the first epoch."""
    from dora_cli.metrics import glue

    seen = []

    def broken(predictions: Any, references: Any) -> None:
        seen.append((predictions.tolist(), predictions.dtype.kind))
        raise RuntimeError("this build computes nothing")

    for name in glue.metric_names():
        monkeypatch.setitem(glue._METRICS, name, broken)
    with pytest.raises(LibraryError, match="RuntimeError: this build computes nothing"):
        train(make_recipe(f"task={task}"), tmp_path / "run")
    assert seen == [([0, 1], "f" if task == "glue/stsb" else "i")]
    assert contents(tmp_path / "run") == {}


def test_scores_of_outputs_are_tried_without_meteor(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which takes seconds to start."""
    import dora_cli.metrics.e2e.score

    def broken(outputs: list[str], references: list[list[str]], *, meteor: bool = True) -> None:
        assert len(outputs) == len(references) == 2
        raise RuntimeError(f"meteor {meteor}")

    monkeypatch.setattr(dora_cli.metrics.e2e.score, "score_e2e", broken)
    with pytest.raises(LibraryError, match="RuntimeError: meteor False"):
        train(recipe_of(models["gpt2"]), tmp_path / "run")
