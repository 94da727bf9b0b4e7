"""The number of threads: what decides it, where it is kept, who keeps it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dora_cli import evaluate, predict, train
from dora_cli.__main__ import main
from dora_cli.assembly.dry_run import dry_run
from dora_cli.assembly.restore import evaluate_saved
from dora_cli.export.saved import export_saved
from dora_cli.machine import threads
from dora_cli.machine.threads import (
    most_threads,
    note_on_threads,
    own_threads,
    recorded_threads,
)
from dora_cli.recipe import Recipe, parse_recipe
from dora_cli.runs.left_open import HELD_OUT_BY
from dora_cli.runs.resume import ADDED, ADDED_TO, HARMLESS, LOCATIONS, recipe_hash
from dora_cli.training.listener import RunStart, SilentListener
from tests.commands.conftest import ROOT
from tests.training.conftest import MakeRecipe
from tests.training.test_run import largest_difference, read


@pytest.fixture(autouse=True)
def _number_is_given_back() -> Iterator[None]:
    with own_threads():
        yield


class Watcher(SilentListener):
    """Remembers how many threads there are when a run starts, steps and is evaluated, and may cut the
    power at a step.
    """

    def __init__(self, cut: int | None = None) -> None:
        self.cut, self.seen, self.notes = cut, set[int](), list[str]()
        self.said: int | None = None

    def start(self, start: RunStart) -> None:
        self.said = start.threads
        self.seen.add(torch.get_num_threads())

    def tick(self, step: int, phase: str, budget: int) -> None:
        self.seen.add(torch.get_num_threads())
        if step == self.cut:
            raise KeyboardInterrupt

    def evaluating(self, split: str, done: int, total: int) -> None:
        self.seen.add(torch.get_num_threads())

    def note(self, message: str) -> None:
        self.notes.append(message)


def recipe_of(*overrides: str) -> Recipe:
    return parse_recipe("task: glue/sst2\nmodel: {name: builtin:tiny-encoder}", overrides=overrides)


# What decides ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "environment", "quota", "most"),
    [
        (16, {}, None, 16),
        (16, {"LOCAL_WORLD_SIZE": "4"}, None, 4),
        (2, {"LOCAL_WORLD_SIZE": "4"}, None, 1),
        (4, {"LOCAL_WORLD_SIZE": "4", "OMP_NUM_THREADS": "4"}, None, 4),  # a number for each process
        (16, {"LOCAL_WORLD_SIZE": "2"}, "600000 100000", 3),  # they share the quota, too
        (16, {"LOCAL_WORLD_SIZE": "2"}, "100000 100000", 1),
        (16, {"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "5"}, "600000 100000", 3),
        (16, {}, "max 100000", 16),
        (16, {}, "250000 100000", 2),
        (16, {}, "50000 100000", 1),
        (1, {}, "250000 100000", 1),
        (16, {}, "what?", 16),
    ],
)
def test_the_most(tmp_path: Path, own: int, environment: dict[str, str], quota: str | None, most: int) -> None:
    place = tmp_path / "cpu.max"
    if quota is not None:
        place.write_text(f"{quota}\n")
    torch.set_num_threads(own)
    assert most_threads(environment, place) == most
    if "OMP_NUM_THREADS" not in environment:  # before they are started, their number is given
        processes = int(environment.get("LOCAL_WORLD_SIZE", "1"))
        assert most_threads({}, place, processes) == most


@pytest.mark.parametrize(
    ("wanted", "processes", "quota", "said"),
    [
        (8, None, None, []),
        ("auto", None, "100000 100000", []),
        (500, None, None, ["train.threads is 500,", " 8 cores ", "auto or at most 8"]),
        (4, 2, None, []),
        (5, 2, None, ["train.threads is 5 in each of 2 processes,", " 8 cores ", "at most 4"]),
        (4, None, "300000 100000", ["train.threads is 4,", " 3 cores ", "at most 3"]),
        (2, None, "100000 100000", ["train.threads is 2,", " 1 core ", "set train.threads to auto"]),
    ],
)
def test_more_threads_than_cores_are_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wanted: int | str,
    processes: int | None,
    quota: str | None,
    said: list[str],
) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 8)
    place = tmp_path / "cpu.max"
    if quota is not None:
        place.write_text(f"{quota}\n")
    note = note_on_threads(wanted, {}, place, processes)
    assert (note is None) == (said == [])
    assert all(part in (note or "") for part in said)


def test_a_run_and_its_dry_run_say_so_once(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 1)
    recipe, watcher = make_recipe("train.threads=2", "train.max_steps=6"), Watcher()
    train(recipe, tmp_path / "run", listener=watcher)
    note = note_on_threads(2)
    assert note is not None
    assert watcher.notes.count(note) == 1
    assert note in dry_run(recipe).notes


# Who keeps it ---------------------------------------------------------------------------------------------------------


def test_a_run_records_its_number_and_what_follows_keeps_it(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe, watcher = make_recipe("train.threads=3"), Watcher()
    torch.set_num_threads(1)
    train(recipe, tmp_path / "run", listener=watcher)
    assert (watcher.said, watcher.seen, torch.get_num_threads()) == (3, {3}, 1)
    assert read(tmp_path / "run" / "environment.json")["cpu_threads"] == 3

    watcher = Watcher()
    assert evaluate_saved(tmp_path / "run", progress=watcher.evaluating)["identical"]
    assert (watcher.seen, torch.get_num_threads()) == ({3}, 1)
    watcher = Watcher()
    evaluate_saved(tmp_path / "run", overrides=["train.threads=2"], progress=watcher.evaluating)
    assert (watcher.seen, torch.get_num_threads()) == ({2}, 1)


def test_predictions_and_exports_compute_with_the_number_of_the_run(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(make_recipe("train.threads=3", "train.max_steps=6"), tmp_path / "run")
    torch.set_num_threads(1)
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    predict(tmp_path / "run", split="validation")
    export_saved(tmp_path / "run", tmp_path / "export", allow_unfrozen=True)
    assert asked == [3, 1, 3, 1]


def test_a_resumed_run_keeps_its_number_where_there_are_other_cores(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ``auto`` chose on three cores is kept on one, and gives the bits of three."""
    monkeypatch.setattr(threads, "WORK_PER_THREAD", 1)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    recipe = make_recipe("train.epochs=2", "save.every_steps=1")
    torch.set_num_threads(3)
    train(recipe, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", listener=Watcher(cut=9))
    torch.set_num_threads(1)
    watcher = Watcher()
    train(recipe, tmp_path / "run", resume=True, listener=watcher)
    assert (watcher.said, watcher.seen, torch.get_num_threads()) == (3, {3}, 1)
    assert len(watcher.notes) == 1
    assert largest_difference(tmp_path / "straight" / "adapter", tmp_path / "run" / "adapter") == 0


def test_a_run_that_recorded_none_goes_on_with_what_pytorch_takes(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe("train.epochs=2", "save.every_steps=1")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", listener=Watcher(cut=9))
    place = tmp_path / "run" / "environment.json"
    environment = read(place)
    del environment["cpu_threads"]
    place.write_text(json.dumps(environment))
    torch.set_num_threads(2)
    watcher = Watcher()
    train(recipe, tmp_path / "run", resume=True, listener=watcher)
    assert watcher.seen == {2}
    assert evaluate(tmp_path / "run")["identical"]


def test_recipes_from_before_the_key_have_the_hash_that_they_had() -> None:
    def before(recipe: Recipe) -> str:
        kept: dict[str, Any] = {}

        def walk(prefix: str, value: Any) -> None:
            for key, inner in value.items():
                walk(f"{prefix}{key}.", inner) if isinstance(inner, dict) else kept.update({f"{prefix}{key}": inner})

        walk("", recipe.model_dump())
        out = (*HARMLESS, *LOCATIONS, *ADDED, *ADDED_TO["dora"])
        kept = {key: value for key, value in kept.items() if key not in out}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()

    older = recipe_of(f"eval.held_out_by={HELD_OUT_BY}")  # what is left open is settled before a hash is made
    assert recipe_hash(older) == before(older)
    assert recipe_hash(recipe_of("train.threads=2")) != recipe_hash(recipe_of())


def test_the_number_that_was_recorded() -> None:
    assert recorded_threads({"cpu_threads": 3}) == 3
    assert recorded_threads({}) == torch.get_num_threads()


# Waiting --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "used"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_the_program_lets_waiting_threads_sleep(monkeypatch: pytest.MonkeyPatch, given: str | None, used: str) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")  # so that it is put back
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    with pytest.raises(SystemExit):
        main(["--version"])
    assert os.environ["OMP_WAIT_POLICY"] == used


def test_openmp_hears_it_before_pytorch_is_loaded() -> None:
    """OpenMP itself says how it waits; of the program, in another process, since it asks once."""
    code = (
        "from dora_cli.libraries import sleep_while_waiting; sleep_while_waiting(); import torch; "
        "torch.get_num_threads()"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "KMP_", "GOMP_"))}
    environment |= {"OMP_DISPLAY_ENV": "TRUE", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    if "OMP_WAIT_POLICY" not in done.stderr:
        pytest.skip("this PyTorch computes without OpenMP")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr or "OMP_WAIT_POLICY='PASSIVE'" in done.stderr, done.stderr
