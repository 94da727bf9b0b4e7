"""Which runs belong together."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dora_cli.atomic import write_json
from dora_cli.errors import CheckpointError
from dora_cli.reports.html.groups import find_groups
from tests.reports.examples import environment
from tests.reports.html.folders import FREEZE, write_run


def test_seeds_of_one_recipe_are_one_group(tmp_path: Path) -> None:
    for seed in (10, 2, 1):
        write_run(tmp_path / "rte" / f"seed-{seed}", seed=seed, stop=60 if seed == 10 else None)
    (group,) = find_groups([tmp_path / "rte"])
    assert group.name == "rte"
    assert [run.seed for run in group.runs] == ["1", "2", "10"]
    assert [run.seed for run in group.finished] == ["1", "2"]
    assert group.varied == ("train.seed",)
    assert group.metric_names == ("accuracy", "f1")
    assert group.ranks is not None
    first, second = (run.curves.ranks["layers"][0]["rank"] for run in group.finished if run.curves.ranks)
    assert group.ranks["layers"][0]["rank"] == (first + second) / 2
    stopped = group.runs[-1]
    assert (stopped.steps, stopped.phases[-1][0], len(stopped.evaluations)) == (60, "pruning", 3)
    assert group.finished[0].phases[1] == ("pruning", 25, FREEZE)


def test_recipes_are_groups_of_their_own_whatever_the_folders(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", seed=1)
    b = write_run(tmp_path / "b", seed=2, extra="save: {keep: 5}\n")  # changes nothing that is trained
    c = write_run(tmp_path / "c", seed=1, rank=4)
    groups = find_groups([a, c, b])
    assert [(group.name, [run.folder.name for run in group.runs]) for group in groups] == [
        ("a, b", ["a", "b"]),
        ("c", ["c"]),
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"model": {"commit": None, "fingerprint": "cd34"}},
        {"data": {"train": {"examples": 3668, "fingerprint": "ef56"}}},
    ],
)
def test_runs_of_another_model_or_other_data_are_not_averaged(tmp_path: Path, other: dict[str, object]) -> None:
    """Their recipes are the same, key by key: what a folder held has changed."""
    for seed in (1, 2):
        write_run(tmp_path / "rte" / f"seed-{seed}", seed=seed)
    write_json(tmp_path / "rte" / "seed-2" / "environment.json", {**environment(), **other})
    assert [[run.seed for run in group.runs] for group in find_groups([tmp_path / "rte"])] == [["1"], ["2"]]


def test_a_seed_that_is_there_twice_is_another_group(tmp_path: Path) -> None:
    """Else its numbers would count twice in the mean."""
    write_run(tmp_path / "one" / "seed-1", seed=1)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert [(group.name, len(group.runs)) for group in find_groups([tmp_path / "one", tmp_path / "two"])] == [
        ("one/seed-1", 1),
        ("two/seed-1", 1),
    ]


def test_runs_are_called_by_the_last_parts_of_their_paths(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_run(tmp_path / "runs" / "mrpc" / f"seed-{seed}", seed=seed)
    write_run(tmp_path / "other" / "x", rank=4)
    write_run(tmp_path / "again" / "x", rank=2)
    groups = find_groups([tmp_path / "runs" / "mrpc", tmp_path / "other" / "x", tmp_path / "again" / "x"])
    assert [run.name for group in groups for run in group.runs] == ["mrpc/seed-1", "mrpc/seed-2", "other/x", "again/x"]
    mixed = find_groups([tmp_path / "runs" / "mrpc", tmp_path / "other" / "x"])
    names = [run.name for group in mixed for run in group.runs]
    assert names == ["mrpc/seed-1", "mrpc/seed-2", "x"], "no more than is needed"
    assert [run.name for group in find_groups([tmp_path / "other" / "x"]) for run in group.runs] == ["x"]


def test_a_run_named_twice_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with pytest.raises(CheckpointError, match="is named twice"):
        find_groups([run, tmp_path / "." / "run" / ".." / "run"])


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{tmp_path / 'none'}"):
        find_groups([tmp_path / "none"])
    with pytest.raises(CheckpointError, match=r"ranks\.json"):
        find_groups([tmp_path])
    write_run(tmp_path / "inside")
    with pytest.raises(CheckpointError, match="holds runs"):
        find_groups([tmp_path])


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", stop=0)
    (run / "log.jsonl").unlink()
    (group,) = find_groups([run])
    assert (group.runs[0].steps, group.runs[0].evaluations, group.ranks, group.task) == (0, [], None, "glue/mrpc")


def test_lines_of_a_log_that_nobody_could_draw_are_passed_over(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", stop=20)
    with open(run / "log.jsonl", "a", encoding="utf-8") as log:
        log.write('{"type": "train", "step": -1, "phase": "x", "budget": 1, "live": 1}\n')
        log.write('{"type": "train", "step": 1' + "0" * 400 + ', "phase": "x", "budget": 1, "live": 1}\n')
        log.write('{"type": "eval", "step": 30, "phase": "x", "epoch": "first", "metrics": {}}\n')
        log.write('{"type": "eval", "step": 30, "phase": "x", "epoch": 3, "train_loss": [], "metrics": {}}\nhalf a li')
    assert find_groups([run])[0].runs[0].steps == 20
