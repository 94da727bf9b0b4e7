"""A run that is evaluated on a part of its training split, and one that is evaluated only at its end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from dora_cli import evaluate, load_recipe, train
from dora_cli.assembly.data import HELD_OUT, load_data
from dora_cli.assembly.dry_run import dry_run
from dora_cli.assembly.resolve import resolve
from dora_cli.data import Examples
from dora_cli.errors import DataError, RecipeError, StoppedError
from dora_cli.runs.checkpoints import checkpoints_of
from dora_cli.runs.run_folder import RunRecords
from dora_cli.training.listener import SilentListener
from tests.training.conftest import MakeRecipe

ROOT = Path(__file__).parents[2]
HALF = "eval.held_out=0.25"


def test_of_every_class_a_share_is_kept_from_the_training(make_recipe: MakeRecipe) -> None:
    whole = load_data(*resolve(make_recipe()))
    parted = load_data(*resolve(make_recipe(HALF, "train.seed=7")))
    (name, held), training = *parted.evaluated.items(), parted.training
    assert name == HELD_OUT
    assert sorted(training.texts[0] + held.texts[0]) == sorted(whole.training.texts[0])
    for label in (0, 1):
        count = whole.training.labels.count(label)
        assert held.labels.count(label) == round(count / 4)
    assert load_data(*resolve(make_recipe(HALF))).evaluated == parted.evaluated  # whatever the seed
    few = load_data(*resolve(make_recipe(HALF, "data.max_eval_samples=5"))).evaluated[HELD_OUT]
    assert len(few) == 5
    assert set(few.texts[0]) <= set(held.texts[0])


def test_it_is_evaluated_in_the_place_of_the_dev_split(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """The same numbers as of a data set whose dev split it is."""
    recipe = make_recipe(HALF)
    data = load_data(*resolve(recipe))
    result = train(recipe, tmp_path / "run")
    write(tmp_path / "set" / "train.csv", data.training)
    write(tmp_path / "set" / "dev.csv", data.evaluated[HELD_OUT])
    other = make_recipe("data.source=files", f"data.path={tmp_path / 'set'}", "data.max_train_samples=null")
    assert train(other, tmp_path / "other").metrics["epochs"] == result.metrics["epochs"]
    assert result.metrics["baseline"]["metrics"]["accuracy"] == pytest.approx(
        max(data.evaluated[HELD_OUT].labels.count(label) for label in (0, 1)) / len(data.evaluated[HELD_OUT])
    )
    again = evaluate(tmp_path / "run")
    assert again["identical"] is True
    assert again["splits"] == {HELD_OUT: len(data.evaluated[HELD_OUT])}
    assert evaluate(tmp_path / "run", split="validation")["splits"] == {"validation": 40}
    assert dry_run(recipe).length.examples == len(data.training)


def write(path: Path, examples: Examples) -> None:
    path.parent.mkdir(exist_ok=True)
    rows = [f'"{text}",{label}' for text, label in zip(examples.texts[0], examples.labels, strict=True)]
    path.write_text("\n".join(["sentence,label", *rows]) + "\n")


def test_metrics_of_single_splits_are_none_of_a_part(make_recipe: MakeRecipe) -> None:
    with pytest.raises(RecipeError, match="accuracy_matched"):
        resolve(make_recipe(HALF, "task=glue/mnli", "eval.metric=accuracy_matched"))


def test_too_few_to_part(make_recipe: MakeRecipe) -> None:
    with pytest.raises(DataError, match=r"eval\.held_out"):
        load_data(*resolve(make_recipe(HALF, "data.max_train_samples=1")))


def test_outputs_are_written_about_it_too(tmp_path: Path) -> None:
    short = ("train.max_steps=3", "data.max_train_samples=40", "decode.max_new_tokens=5", "decode.beams=1")
    recipe = load_recipe(ROOT / "configs" / "demo" / "e2e.yaml", [HALF, "decode.epoch_samples=0", *short])
    result = train(recipe, tmp_path / "run")
    held = load_data(*resolve(recipe)).evaluated
    assert list(held) == [HELD_OUT]
    sources = set(held[HELD_OUT].texts[0])
    assert not sources & set(load_data(*resolve(recipe)).training.texts[0])  # parted by source
    assert len((tmp_path / "run" / "predictions.jsonl").read_text().splitlines()) == len(sources)
    assert "bleu" in result.metrics["metrics"]


class Stopping(SilentListener):
    """Stops the run after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def tick(self, step: int, phase: str, budget: int) -> None:
        if step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def test_once_at_the_end(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    often = train(make_recipe(), tmp_path / "often").metrics
    recipe = make_recipe("eval.every=end")
    once = train(recipe, tmp_path / "once").metrics
    assert once["epochs"] == often["epochs"][-1:]
    assert once["metrics"] == once["last"] == often["last"]
    assert once["best_epoch"] == 4
    with pytest.raises(StoppedError):
        train(recipe, tmp_path / "stopped", listener=Stopping(13))
    assert checkpoints_of(RunRecords(tmp_path / "stopped"))
    resumed = train(recipe, tmp_path / "stopped", resume=True).metrics
    assert {key: resumed[key] for key in resumed if key != "timing"} == {
        key: once[key] for key in once if key != "timing"
    }
    weights = "adapter/adapter.safetensors"
    assert (tmp_path / "stopped" / weights).read_bytes() == (tmp_path / "once" / weights).read_bytes()
