"""The same runs through Ray: equal results, stopping, and what is missing."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dora_cli import train
from dora_cli.compare.jobs import Ended, Job
from dora_cli.compare.workers.ray import RayPool, share
from dora_cli.errors import DeviceError, LibraryError, OutputError
from dora_cli.runs.checkpoints import checkpoints_of
from dora_cli.runs.run_folder import RunRecords
from tests.compare.workers import makers
from tests.compare.workers.makers import tries
from tests.compare.workers.test_equal import recipes
from tests.compare.workers.test_local import run_all
from tests.compare.workers.test_stopping import await_
from tests.runs.test_resume import assert_equal_runs
from tests.training.conftest import MakeRecipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray on this machine with one worker, for all tests; it stays with us and asks no network."""
    ray = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        address="local",
        num_cpus=1,
        num_gpus=0,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=80 * 2**20,
    )
    try:
        yield
    finally:
        ray.shutdown()


def test_runs_equal_those_of_this_process_and_are_saved_when_it_ends(
    cluster: None, tmp_path: Path, make_recipe: MakeRecipe
) -> None:
    """So do those of local workers, see test_equal.py."""
    found, folder = {name: recipes(make_recipe)[name] for name in ("dora", "lora")}, tmp_path / "ray"
    folder.mkdir()
    pool = RayPool(device="cpu", jobs=1)  # every actor loads the libraries anew
    try:
        ended = run_all(pool, [Job(name, folder / name, recipe) for name, recipe in found.items()])
        long = folder / "long"
        pool.submit(Job("long", long, make_recipe("train.epochs=1", "train.max_steps=4000", "train.threads=1")))
        await_(lambda: (long / "log.jsonl").exists() and bool((long / "log.jsonl").read_text()))
    finally:
        pool.close()
    assert checkpoints_of(RunRecords(long))  # stopped, and saved
    assert not RunRecords(long).metrics.exists()
    assert {end.outcome for end in ended.values()} == {"finished"}, [end.message for end in ended.values()]
    for name, recipe in found.items():
        train(recipe, tmp_path / name)
        assert_equal_runs(folder / name, tmp_path / name)
    assert sorted(path.name for path in folder.iterdir()) == sorted([*found, "long"])  # the marker is gone


def test_an_actor_that_dies(cluster: None, tmp_path: Path, make_recipe: MakeRecipe) -> None:
    notes: list[str] = []
    jobs = [Job(name, tmp_path / name, make_recipe()) for name in ("once-SIGKILL", "always-SIGKILL")]
    pool = RayPool(device="cpu", jobs=1, load=makers.deadly, note=notes.append)
    try:
        ended = run_all(pool, jobs)
    finally:
        pool.close()
    assert ended["once-SIGKILL"] == Ended("finished")
    assert (ended["always-SIGKILL"].outcome, ended["always-SIGKILL"].exit_code) == ("failed", 2)
    assert [len(tries(job.folder)) for job in jobs] == [2, 2]
    assert len(notes) == 2


def test_a_folder_that_a_node_does_not_see(
    cluster: None, tmp_path: Path, make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = RayPool(device="cpu", jobs=1, load=makers.quick)
    monkeypatch.setattr(Path, "touch", lambda path: None)  # what is written here is not to be seen there
    try:
        pool.submit(Job("run", tmp_path / "run", make_recipe()))
        with pytest.raises(OutputError, match="does not see"):
            pool.wait()
    finally:
        pool.close()


def test_a_cluster_without_gpus(cluster: None) -> None:
    with pytest.raises(DeviceError, match="no GPUs"):
        RayPool(device="cuda")


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LibraryError, match=r"pip install 'dora-cli\[ray\]'"):
        RayPool()


def test_what_a_run_asks_of_the_cluster() -> None:
    assert share({"CPU": 6.0}, "auto", None) == (6, {"num_cpus": 1.0, "num_gpus": 0})
    assert share({"CPU": 2.0, "GPU": 1.0}, "cpu", 4) == (4, {"num_cpus": 0.5, "num_gpus": 0})
    assert share({"CPU": 64.0, "GPU": 2.0}, "auto", None) == (8, {"num_cpus": 1.0, "num_gpus": 0.25})
    assert share({"CPU": 4.0, "GPU": 2.0}, "cuda", None) == (4, {"num_cpus": 1.0, "num_gpus": 0.5})
    slots, asked = share({"CPU": 8.0, "GPU": 2.0}, "auto", 5)
    assert slots == 5
    assert asked["num_gpus"] == 0.3333  # three to a device
    assert slots * asked["num_cpus"] <= 8
    with pytest.raises(DeviceError):
        share({"GPU": 1.0}, "auto", None)
