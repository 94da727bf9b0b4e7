"""A method that another package brings, in one module and a section of keys, goes through everything that the product
does with a method, and a task, in one module, through everything that it does with a task.

They are installed together, in one warm process: each of its own would take as long to start as some of the tests here.
"""

from __future__ import annotations

import csv
import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dora_cli.data.builtin import generate
from dora_cli.errors import RecipeError
from dora_cli.recipe import load_recipe
from dora_cli.tasks import get_task
from tests.brought import Command, installed
from tests.runs.test_resume import assert_equal_runs
from tests.training.test_run import lines, read

BROUGHT = [Path(__file__).parent / room / "brought" for room in ("methods", "tasks")]
ENTRY_POINTS = """
[dora_cli.methods]
scale = scale_method:Scale
links = links_method:Links

[dora_cli.recipes]
scale = scale_keys
links = links_keys

[dora_cli.tasks]
film/stars = stars_task:STARS
"""


@pytest.fixture(scope="module", name="installed")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """`dora` in a process in which the package that brings the methods and the task is installed."""
    modules = [file for room in BROUGHT for file in room.glob("*.py") if file.name != "__init__.py"]
    with installed(tmp_path_factory.mktemp("site"), modules, ENTRY_POINTS) as run:
        yield run


@pytest.fixture(scope="module")
def links(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of 24 steps that names the method `links`: 94 examples, of which 9 are held out, leave 85."""
    file = tmp_path_factory.mktemp("links") / "links.yaml"
    file.write_text(f"""
        task: glue/sst2
        model: {{name: {tiny_model}}}
        data: {{source: builtin, max_train_samples: 94, max_eval_samples: 40}}
        method: {{name: links, targets: [attention]}}
        train: {{epochs: 4, batch_size: 16, learning_rate: 0.02, log_every: 5, device: cpu}}
        save: {{every_steps: 4}}
    """)
    return file


@pytest.fixture(scope="module")
def recipe(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of 24 steps that names the method `scale`."""
    file = tmp_path_factory.mktemp("scale") / "scale.yaml"
    file.write_text(f"""
        task: glue/sst2
        model: {{name: {tiny_model}}}
        data: {{source: builtin, max_train_samples: 94, max_eval_samples: 40}}
        method: {{name: scale, targets: [attention]}}
        train: {{epochs: 4, batch_size: 16, learning_rate: 0.1, log_every: 5, device: cpu}}
        save: {{every_steps: 4}}
    """)
    return file


def straight(installed: Command, recipe: Path, folder: Path) -> Path:
    """A run of a recipe without an interruption."""
    installed("train", recipe, "--output", folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def straight_scale(installed: Command, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return straight(installed, recipe, tmp_path_factory.mktemp("straight"))


def test_from_training_to_export(installed: Command, recipe: Path, straight_scale: Path, tmp_path: Path) -> None:
    run = straight_scale
    planned = installed("train", recipe, "--dry-run").out
    assert "momentum: 0.9" in planned  # the section's default
    metrics, ranks = read(run / "metrics.json"), read(run / "ranks.json")
    entries = 4 * 16  # a block of four attention projections, a vector of the width of the model each
    assert metrics["budget"]["adapter_parameters_final"] == entries
    assert f"adapter {entries:,}" in " ".join(planned.split())
    assert (metrics["method"], ranks["layers"], ranks["start_rank"]) == ("scale", [], None)

    evaluated = installed("eval", "--checkpoint", run)
    assert "\nidentical " in evaluated.out
    assert "components" not in installed("ranks", run).out
    assert f" {run} " in installed("ranks", run, "--history", code=2).err
    installed("report", run, "--output", tmp_path / "report.html")
    installed("predict", "--checkpoint", run, "--split", "validation", "--output", tmp_path / "out.jsonl")

    merged = installed("export", "--checkpoint", run, "--format", "merged", "--output", tmp_path / "merged")
    assert f"{entries:,} parameters in 4 of 4 projections" in merged.out
    record = read(tmp_path / "merged" / "dora_export.json")
    assert record["live_parameters"] == record["adapter_parameters"] == entries
    assert "## Ranks" not in (tmp_path / "merged" / "README.md").read_text()
    refused = installed("export", "--checkpoint", run, "--format", "peft", "--output", tmp_path / "peft", code=2)
    assert refused.err.count("\n") == 1
    assert " scale " in refused.err
    assert "--format merged" in refused.err
    assert not (tmp_path / "peft").exists()


@pytest.fixture(scope="module")
def straight_links(installed: Command, links: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return straight(installed, links, tmp_path_factory.mktemp("straight"))


def test_killed_and_resumed_bit_for_bit(installed: Command, recipe: Path, straight_scale: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    installed("train", recipe, "--output", killed, code=-signal.SIGKILL, killed_at=11)
    assert not (killed / "metrics.json").exists()
    installed("train", recipe, "--output", killed, "--resume")
    assert_equal_runs(straight_scale, killed)


def test_one_that_grows_is_resumed_bit_for_bit(
    installed: Command, links: Path, straight_links: Path, tmp_path: Path
) -> None:
    """From a checkpoint just after an event, then from one within the second link; past the next event."""
    killed, flags = tmp_path / "killed", list[str]()
    for killed_at, newest in ((11, 8), (15, 12)):
        installed("train", links, "--output", killed, *flags, code=-signal.SIGKILL, killed_at=killed_at)
        assert (killed / "checkpoints" / f"step-{newest}" / "method.safetensors").is_file()
        assert not (killed / "checkpoints" / f"step-{newest + 4}").exists()
        flags = ["--resume"]
    installed("train", links, "--output", killed, "--resume")
    assert_equal_runs(straight_links, killed)


def test_what_it_asks_for_is_planned_recorded_and_exported(
    installed: Command, links: Path, straight_links: Path, tmp_path: Path
) -> None:
    planned = " ".join(installed("train", links, "--dry-run").out.split())
    assert "training examples 85" in planned
    assert "anew after steps 8, 16" in planned
    environment, metrics = read(straight_links / "environment.json"), read(straight_links / "metrics.json")
    assert {name: part["examples"] for name, part in environment["data"].items()} == {
        "train": 85,
        "held_out": 9,
        "validation": 40,
    }
    log = lines(straight_links / "log.jsonl")
    rates = [entry["learning_rate"] for entry in log if entry["type"] == "train"]
    # steps 5, 10, 15, 20 and 24, of parts of 8 steps that each fall from 0.02 to 0
    assert rates == pytest.approx([0.02 * (8 - done % 8) / 8 for done in (4, 9, 14, 19, 23)])
    links_of = 3 * (2 * 16 + 16 * 2 + 1)  # three links of rank 2 on 16 x 16, each with its weight
    assert metrics["budget"]["adapter_parameters_final"] == 4 * links_of
    assert metrics["budget"]["adapter_bytes"] == 4 * 4 * links_of
    merged = tmp_path / "merged"
    last = straight_links / "checkpoints" / "step-24"
    installed("export", "--checkpoint", last, "--format", "merged", "--output", merged)
    assert read(merged / "dora_export.json")["live_parameters"] == 4 * links_of


def test_two_processes_see_the_same_statistics_as_one(
    installed: Command, links: Path, straight_links: Path, tmp_path: Path
) -> None:
    """Also the same gradients at its start and the same held-out losses; up to rounding, which training enlarges."""
    flags = ["--set", "train.batch_size=8"]
    installed("train", links, "--output", tmp_path / "two", *flags, processes=2)
    one, two = (load_file(run / "adapter" / "adapter.safetensors") for run in (straight_links, tmp_path / "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=2e-3)


def test_a_start_from_another_model(installed: Command, links: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Whose query differs along one direction: that is what the first link reads there. An evaluation does not ask for
    that model.
    """
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    weights = load_file(other / "model.safetensors")
    name = next(name for name in weights if name.endswith("query.weight"))
    direction = torch.randn(weights[name].shape[1], generator=torch.Generator().manual_seed(3))
    weights[name] += torch.outer(torch.ones(len(weights[name])), direction)
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    flags = ["--set", f"method.reference={other}", "--set", "method.links=1", "--set", "train.learning_rate=1e-30"]
    installed("train", links, "--output", tmp_path / "run", *flags, "--set", "train.weight_decay=0")
    (A,) = load_file(tmp_path / "run" / "adapter" / "adapter.safetensors")[f"{name.removesuffix('.weight')}.A"]
    cosine = torch.nn.functional.cosine_similarity(A[0], direction, dim=0)
    assert abs(cosine) == pytest.approx(1.0, abs=1e-4)
    shutil.rmtree(other)
    installed("eval", "--checkpoint", tmp_path / "run")
    refused = installed("train", links, "--output", tmp_path / "again", *flags, code=2)
    assert str(other) in refused.err


def test_its_keys_are_checked_like_all_others(installed: Command, recipe: Path) -> None:
    def refused(*overrides: str) -> str:
        flags = [part for override in overrides for part in ("--set", override)]
        return installed("train", recipe, "--dry-run", *flags, code=2).err

    assert "method.momentum" in refused("method.momentum=1.0")
    assert "method.momentum?" in refused("method.momentums=0.5")
    assert "needs method.momentum above 0" in refused("method.nesterov=true", "method.momentum=0")
    said = refused("method={name: scales}")
    assert all(part in said for part in ("method.name: ", "dora, lora, ", "head, scale, links", "'scales'", "scale?"))


def test_without_the_package_its_method_is_unknown(recipe: Path) -> None:
    with pytest.raises(ValueError, match=r"method\.name: .*dora, lora, .*head\b"):
        load_recipe(recipe)


# A task --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def film_recipe(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of 24 steps; a film is fine where its review is short."""
    tmp_path = tmp_path_factory.mktemp("films")
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


@pytest.fixture(scope="module")
def straight_film(installed: Command, film_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return straight(installed, film_recipe, tmp_path_factory.mktemp("straight"))


def test_a_task_from_training_to_export(
    installed: Command, film_recipe: Path, straight_film: Path, tmp_path: Path
) -> None:
    run = straight_film
    assert "training examples  96" in installed("train", film_recipe, "--dry-run").out.replace("|", "")
    metrics = read(run / "metrics.json")
    errors = [epoch["metrics"]["mean_error"] for epoch in metrics["epochs"]]
    assert metrics["task"] == "film/stars"
    assert set(metrics["metrics"]) == {"mean_error", "exact"}
    frozen = [epoch["metrics"]["mean_error"] for epoch in metrics["epochs"] if epoch["phase"] == "final"]
    assert metrics["metrics"]["mean_error"] == min(frozen)  # lower is better
    assert 0 <= min(errors) < 2

    evaluated = installed("eval", "--checkpoint", run, "--output", tmp_path / "evaluated.json")
    assert "mean_error" in evaluated.out
    assert read(tmp_path / "evaluated.json")["identical"] is True
    installed("ranks", run)
    installed("report", run, "--output", tmp_path / "report.html")
    assert "mean error" in (tmp_path / "report.html").read_text()

    installed("predict", "--checkpoint", run, "--split", "validation", "--output", tmp_path / "out.jsonl")
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    with (film_recipe.parent / "data" / "validation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = {1: "bad", 2: "fine", 3: "good"}
    assert [record["review"] for record in records] == [row["review"] for row in rows]
    exact = sum(names[record["stars"]] == row["label"] for record, row in zip(records, rows, strict=True)) / len(rows)
    assert exact == pytest.approx(metrics["metrics"]["exact"])
    refused = installed("predict", "--checkpoint", run, "--output", f"{tmp_path}/", code=2)
    assert f"{tmp_path}" in refused.err

    for form in ("peft", "merged"):
        installed("export", "--checkpoint", run, "--format", form, "--output", tmp_path / form)
        card = (tmp_path / form / "README.md").read_text()
        assert "print(logits[0].tolist())" in card
    assert "num_labels=2" in (tmp_path / "peft" / "README.md").read_text()


def test_a_run_of_the_task_is_killed_and_resumed_bit_for_bit(
    installed: Command, film_recipe: Path, straight_film: Path, tmp_path: Path
) -> None:
    killed = tmp_path / "killed"
    installed("train", film_recipe, "--output", killed, code=-signal.SIGKILL, killed_at=11)
    assert not (killed / "metrics.json").exists()
    installed("train", film_recipe, "--output", killed, "--resume")
    assert_equal_runs(straight_film, killed)


def test_the_task_is_listed_and_its_recipes_are_checked_like_all_others(installed: Command, film_recipe: Path) -> None:
    listed = next(
        task for task in json.loads(installed("tasks", "--json").out)["tasks"] if task["name"] == "film/stars"
    )
    assert (listed["asks"], listed["primary"]) == ("1 text, 3 labels", "mean_error")
    assert "film/stars" in installed("tasks").out
    made = installed("init", "film/stars", "--model", "builtin:tiny-encoder").out
    assert "\ntask: film/stars" in made
    assert "decode" in installed("train", film_recipe, "--dry-run", "--set", "decode.beams=2", code=2).err
    assert (
        "film/stars has no metric"
        in installed("train", film_recipe, "--dry-run", "--set", "eval.metric=f1", code=2).err
    )
    assert "are no texts" in installed("score", "film/stars", "--predictions", film_recipe, code=2).err


def test_without_the_package_the_task_is_unknown() -> None:
    with pytest.raises(RecipeError, match="no task 'film/stars'"):
        get_task("film/stars")


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["scale", "links"])
def test_captured_on_a_gpu(installed: Command, recipe: Path, links: Path, tmp_path: Path, name: str) -> None:
    """The trial tries each method, an optimiser of its own included; captured steps give what eager ones do, also
    where work is captured anew because tensors have grown.
    """
    file = {"scale": recipe, "links": links}[name]
    flags = ["--set", "train.device=cuda", "--set", "train.precision=fp32", "--set", "train.deterministic=true"]
    for setting in ("on", "off"):
        flag = f"train.cuda_graph={setting}"
        installed("train", file, "--output", tmp_path / setting, *flags, "--set", flag, forked=False)
    one, two = (read(tmp_path / setting / "metrics.json") for setting in ("on", "off"))
    losses = [[entry["train_loss"] for entry in metrics["epochs"]] for metrics in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
