"""Chain of LoRA from a recipe to its folder: what its knots mean to epochs, checkpoints, records and exports."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dora_cli import evaluate, load_adapter, train
from dora_cli.assembly.dry_run import dry_run
from dora_cli.errors import BudgetError, CheckpointError, ExportError
from dora_cli.export.saved import export_saved
from dora_cli.recipe import Recipe, load_recipe
from dora_cli.training.listener import SilentListener
from tests.commands.conftest import dora
from tests.runs.test_resume import Runs, assert_equal_runs
from tests.training.conftest import MakeRecipe
from tests.training.test_every_method import SMALL, recipe_of

KNOTS = (8, 16)
"""24 steps in four epochs of six: the third epoch ends two steps into the last link."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory)


@pytest.fixture
def recipe(make_recipe: MakeRecipe) -> Recipe:
    return recipe_of(make_recipe, "cola", "train.epochs=4", "save.keep=99", "eval.select=best-after-freeze")


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_cut_exactly_at_a_knot_and_gone_on_with(recipe: Recipe, runs: Runs, tmp_path: Path) -> None:
    for step in KNOTS:
        runs.cut(recipe, tmp_path / str(step), step=step)
        train(recipe, tmp_path / str(step), resume=True)
        assert_equal_runs(runs.straight(recipe), tmp_path / str(step))


def test_records_say_how_ranks_grow(recipe: Recipe, runs: Runs) -> None:
    run, ahead = runs.straight(recipe), dry_run(recipe)
    metrics, ranks = read(run / "metrics.json"), read(run / "ranks.json")
    count = len(ranks["layers"])
    assert [(entry["step"], entry["phase"], entry["budget"], entry["live"]) for entry in ranks["history"]] == [
        (8, "link 1", 5 * count, 5 * count),
        (16, "link 2", 6 * count, 6 * count),
    ]
    assert (ranks["start_rank"], ranks["target_rank"], ranks["live_components"]) == (3, 6, 6 * count)
    assert {(layer["start_rank"], layer["rank"]) for layer in ranks["layers"]} == {(3, 6)}
    budget, each = metrics["budget"], sum(sum(layer["shape"]) for layer in ranks["layers"])
    assert (budget["start_components"], budget["final_components"]) == (3 * count, 6 * count)
    assert budget["adapter_parameters_final"] == 6 * each
    assert ahead.parameters is not None
    assert (ahead.parameters["start"], ahead.parameters["final"]) == (3 * each, 6 * each)
    assert list(ahead.restarts) == list(KNOTS)


def test_the_best_epoch_of_the_last_link_is_selected(recipe: Recipe, runs: Runs, make_recipe: MakeRecipe) -> None:
    """An epoch within an earlier link is a model of fewer components; `best` alone may take it, which is said."""
    metrics = read(runs.straight(recipe) / "metrics.json")
    assert [epoch["phase"] for epoch in metrics["epochs"]] == ["link 1", "link 2", "link 3", "link 3"]
    assert metrics["best_epoch"] in (3, 4)


def test_a_checkpoint_within_an_earlier_link(recipe: Recipe, runs: Runs, tmp_path: Path, tiny_model: Path) -> None:
    """It is evaluated and loaded as it was; an export must be asked for, and holds what there is."""
    from transformers import AutoModelForSequenceClassification

    run = runs.straight(recipe)
    early = run / "checkpoints" / "step-12"
    found = evaluate(early)
    assert found["identical"] is True
    assert found["metrics"] == read(run / "metrics.json")["epochs"][1]["metrics"]
    with pytest.raises(ExportError, match=r"step 12.*--allow-unfrozen"):
        export_saved(early, tmp_path / "none")
    done = export_saved(early, tmp_path / "early", allow_unfrozen=True)
    assert done.largest_rank == 5
    assert done.agreement.difference < 1e-5
    base = load_recipe(run / "recipe.yaml").model.name
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    with pytest.raises(CheckpointError, match="allow_unfrozen"):
        load_adapter(early, model)
    assert {item.rank for item in load_adapter(early, model, allow_unfrozen=True).allocation()} == {5}


def test_an_export_is_the_links_or_their_approximation(recipe: Recipe, runs: Runs, tmp_path: Path) -> None:
    run = runs.straight(recipe)
    whole = export_saved(run, tmp_path / "whole")
    assert (whole.largest_rank, whole.compression) == (6, None)
    small = export_saved(run, tmp_path / "small", compress=2)
    assert small.largest_rank == 2
    assert small.compression is not None
    assert 0 < small.compression.error < 1
    assert "There are 3 links, of the ranks 3, 2, 1." in (tmp_path / "whole" / "README.md").read_text()


def test_what_is_shown_of_ranks_that_have_grown(recipe: Recipe, runs: Runs, tmp_path: Path) -> None:
    run = runs.straight(recipe)
    count = len(read(run / "ranks.json")["layers"])
    ahead = dora("train", run / "recipe.yaml", "--dry-run").out
    assert re.search(r"^  freeze +after step 16: no more components come$", ahead, re.MULTILINE)
    each = sum(sum(layer["shape"]) for layer in read(run / "ranks.json")["layers"])
    assert re.search(rf"^  adapter +{6 * each:,} stored, of which {3 * each:,} train at once$", ahead, re.MULTILINE)
    shown = dora("ranks", run)
    assert f"Live: {6 * count} components of a budget of {6 * count} (rank 6 x {count} projections)" in shown.out
    assert "Grown in 3 rounds" in shown.out
    history = dora("ranks", run, "--history")
    assert history.code == 0
    assert "link 2" in history.out
    assert "0 to 6" in dora("ranks", run, "--by", "group").out
    pattern = json.loads(dora("ranks", run, "--as", "rank-pattern").out)
    assert pattern["r"] == 6
    assert dora("report", run, "-o", tmp_path / "report.html").code == 0
    assert "highest rank" in (tmp_path / "report.html").read_text()


def test_more_links_than_steps_are_refused(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe("method={name: cola, links: 5, rank: 1}", *SMALL, "train.max_steps=4")
    for ask in (dry_run, lambda recipe: train(recipe, tmp_path / "run")):
        with pytest.raises(BudgetError, match="4 optimiser steps for 5 links"):
            ask(recipe)
    assert not (tmp_path / "run").exists()


class Notes(SilentListener):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_the_best_epoch_of_all_may_be_of_an_earlier_link(recipe: Recipe, tmp_path: Path) -> None:
    """Nothing is learned at this rate, so all epochs are equal, and the first is taken: that is said, and whoever
    exports it is asked.
    """
    still = recipe.model_copy(
        update={
            "train": recipe.train.model_copy(update={"learning_rate": 1e-12}),
            "eval": recipe.eval.model_copy(update={"select": "best"}),
        }
    )
    listener = Notes()
    result = train(still, tmp_path / "run", listener=listener)
    assert result.metrics["best_epoch"] == 1
    (said,) = [note for note in listener.notes if "epoch 1" in note]
    assert "hold fewer components" in said
    assert evaluate(tmp_path / "run")["identical"] is True
    with pytest.raises(ExportError, match="--allow-unfrozen"):
        export_saved(tmp_path / "run", tmp_path / "out")
