"""A task that another package brings, in one module, goes through everything that the product does with a task."""

from __future__ import annotations

import csv
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dora_cli.data.builtin import generate
from dora_cli.errors import RecipeError
from dora_cli.tasks import get_task
from tests.brought import Command, installed
from tests.runs.test_resume import assert_equal_runs
from tests.training.test_run import read

MODULE = Path(__file__).parent / "brought" / "stars_task.py"
ENTRY_POINTS = """
[dora_cli.tasks]
film/stars = stars_task:STARS
"""


@pytest.fixture(scope="module", name="dora")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """`dora` in a process in which the package that brings the task is installed."""
    with installed(tmp_path_factory.mktemp("site"), [MODULE], ENTRY_POINTS) as run:
        yield run


@pytest.fixture
def recipe(tiny_model: Path, tmp_path: Path) -> Path:
    """A recipe of 24 steps; a film is fine where its review is short."""
    (tmp_path / "data").mkdir()
    for split, size in (("train", 96), ("validation", 40), ("test", 12)):
        found = generate("glue/sst2", split)
        assert found.labels is not None
        with (tmp_path / "data" / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["review", "label"])
            for text, label in list(zip(found.texts[0], found.labels, strict=True))[:size]:
                writer.writerow([text, "fine" if len(text.split()) < 8 else ("bad", "good")[int(label)]])
    file = tmp_path / "recipe.yaml"
    file.write_text(f"""
task: film/stars
model: {{name: {tiny_model}}}
data: {{source: files, path: {tmp_path / "data"}}}
method: {{name: dora, rank: 2, prune_interval: 3}}
train: {{epochs: 4, batch_size: 16, learning_rate: 5.0e-3, log_every: 5, device: cpu}}
save: {{every_steps: 4}}
""")
    return file


def test_from_training_to_export(dora: Command, recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert "training examples  96" in dora("train", recipe, "--dry-run").out.replace("|", "")
    dora("train", recipe, "--output", run)
    metrics = read(run / "metrics.json")
    errors = [epoch["metrics"]["mean_error"] for epoch in metrics["epochs"]]
    assert metrics["task"] == "film/stars"
    assert set(metrics["metrics"]) == {"mean_error", "exact"}
    frozen = [epoch["metrics"]["mean_error"] for epoch in metrics["epochs"] if epoch["phase"] == "final"]
    assert metrics["metrics"]["mean_error"] == min(frozen)  # lower is better
    assert 0 <= min(errors) < 2

    evaluated = dora("eval", "--checkpoint", run, "--output", tmp_path / "evaluated.json")
    assert "mean_error" in evaluated.out
    assert read(tmp_path / "evaluated.json")["identical"] is True
    dora("ranks", run)
    dora("report", run, "--output", tmp_path / "report.html")
    assert "mean error" in (tmp_path / "report.html").read_text()

    dora("predict", "--checkpoint", run, "--split", "validation", "--output", tmp_path / "out.jsonl")
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    with (tmp_path / "data" / "validation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = {1: "bad", 2: "fine", 3: "good"}
    assert [record["review"] for record in records] == [row["review"] for row in rows]
    exact = sum(names[record["stars"]] == row["label"] for record, row in zip(records, rows, strict=True)) / len(rows)
    assert exact == pytest.approx(metrics["metrics"]["exact"])
    refused = dora("predict", "--checkpoint", run, "--output", f"{tmp_path}/", code=2)
    assert f"{tmp_path}" in refused.err

    for form in ("peft", "merged"):
        dora("export", "--checkpoint", run, "--format", form, "--output", tmp_path / form)
        card = (tmp_path / form / "README.md").read_text()
        assert "print(logits[0].tolist())" in card
    assert "num_labels=2" in (tmp_path / "peft" / "README.md").read_text()


def test_killed_and_resumed_bit_for_bit(dora: Command, recipe: Path, tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    dora("train", recipe, "--output", straight)
    dora("train", recipe, "--output", killed, code=-signal.SIGKILL, killed_at=11)
    assert not (killed / "metrics.json").exists()
    dora("train", recipe, "--output", killed, "--resume")
    assert_equal_runs(straight, killed)


def test_it_is_listed_and_its_recipes_are_checked_like_all_others(dora: Command, recipe: Path) -> None:
    listed = next(task for task in json.loads(dora("tasks", "--json").out)["tasks"] if task["name"] == "film/stars")
    assert (listed["asks"], listed["primary"]) == ("1 text, 3 labels", "mean_error")
    assert "film/stars" in dora("tasks").out
    made = dora("init", "film/stars", "--model", "builtin:tiny-encoder").out
    assert "\ntask: film/stars" in made
    assert "decode" in dora("train", recipe, "--dry-run", "--set", "decode.beams=2", code=2).err
    assert "film/stars has no metric" in dora("train", recipe, "--dry-run", "--set", "eval.metric=f1", code=2).err
    assert "are no texts" in dora("score", "film/stars", "--predictions", recipe, code=2).err


def test_without_the_package_the_task_is_unknown() -> None:
    with pytest.raises(RecipeError, match="no task 'film/stars'"):
        get_task("film/stars")
