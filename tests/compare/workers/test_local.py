"""Worker processes of this machine: what they tell, and how they end."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dora_cli.compare.jobs import Ended, Job
from dora_cli.compare.workers.local import LocalPool
from dora_cli.compare.workers.places import Place
from dora_cli.compare.workers.worker import Make
from tests.compare.workers import makers
from tests.compare.workers.makers import tries
from tests.processes import CONTEXT
from tests.training.conftest import MakeRecipe

NewJob = Callable[[str], Job]


@pytest.fixture
def new_job(tmp_path: Path, make_recipe: MakeRecipe) -> NewJob:
    return lambda name: Job(name, tmp_path / name, make_recipe())


@contextmanager
def pool(load: Callable[[], Make], *places: Place, notes: list[str] | None = None) -> Iterator[LocalPool]:
    found = LocalPool(load=load, places=places, note=(notes if notes is not None else []).append, context=CONTEXT)
    try:
        yield found
    finally:
        found.close()


def run_all(workers: LocalPool, jobs: list[Job]) -> dict[str, Ended]:
    """Makes all of them, as many at once as the pool takes; each must end once."""
    left, ended, under_way = list(jobs), {}, 0
    while left or under_way:
        while left and workers.free:
            workers.submit(left.pop(0))
            under_way += 1
        for job, end in workers.wait():
            assert job.name not in ended
            ended[job.name] = end
            under_way -= 1
    assert workers.free == workers.at_once
    return ended


def test_few_workers_make_many_runs(new_job: NewJob) -> None:
    jobs = [new_job(f"run-{number}") for number in range(9)]
    with pool(makers.quick, Place(None, 2, 2)) as workers:
        assert workers.free == 2
        ended = run_all(workers, jobs)
    assert ended == {job.name: Ended("finished") for job in jobs}
    lines = [line for job in jobs for line in tries(job.folder)]
    assert len(lines) == 9
    assert len(set(lines)) <= 2


def test_a_worker_that_begins_with_nothing_loaded_makes_a_run(new_job: NewJob) -> None:
    """Users have such workers; those of the other tests are forked from a process that has everything loaded. That what
    trains is loaded by name in such a process too, test_ray.py shows.
    """
    job = new_job("run")
    workers = LocalPool("cpu", 1, load=makers.quick)
    try:
        assert run_all(workers, [job]) == {"run": Ended("finished")}
        (pid,) = {int(line.split()[0]) for line in tries(job.folder)}
        assert [worker.process.pid for worker in workers._workers] == [pid]
    finally:
        workers.close()


def test_every_worker_sees_its_place_alone(new_job: NewJob) -> None:
    jobs = [new_job("first"), new_job("second")]
    with pool(makers.quick, Place("3", 1, 1), Place("GPU-x", 1, 1)) as workers:
        for job in jobs:
            workers.submit(job)
        under_way = 2
        while under_way:
            under_way -= len(workers.wait())
    assert {line.split()[1] for job in jobs for line in tries(job.folder)} == {"3", "GPU-x"}


def test_a_place_takes_more_once_it_knows_what_a_run_takes(new_job: NewJob) -> None:
    with pool(makers.measured, Place(None, 1, 3)) as workers:
        workers.submit(new_job("first"))
        assert workers.free == 0
        workers.wait()
        assert workers.free == 3


def test_a_worker_that_dies_once(new_job: NewJob) -> None:
    notes: list[str] = []
    job = new_job("once-SIGKILL")
    with pool(makers.deadly, Place(None, 1, 1), notes=notes) as workers:
        assert run_all(workers, [job, new_job("fine")]) == {job.name: Ended("finished"), "fine": Ended("finished")}
    assert len({line.split()[0] for line in tries(job.folder)}) == 2  # in two processes
    assert [note for note in notes if job.name in note and "SIGKILL" in note]


def test_a_worker_that_dies_twice(new_job: NewJob) -> None:
    jobs = [new_job("always-SIGKILL"), new_job("always-SIGSEGV")]
    with pool(makers.deadly, Place(None, 2, 2)) as workers:
        ended = run_all(workers, jobs)
    assert [(end.outcome, end.exit_code) for end in ended.values()] == [("failed", 2)] * 2
    killed, crashed = ended["always-SIGKILL"].message, ended["always-SIGSEGV"].message
    assert "was killed by SIGKILL, twice" in killed
    assert "fewer --jobs (now 2)" in killed
    assert "SIGSEGV" in crashed
    assert "--jobs" not in crashed
    assert [len(tries(job.folder)) for job in jobs] == [2, 2]


def test_a_mistake_of_ours_ends_one_run(new_job: NewJob) -> None:
    with pool(makers.mistaken, Place(None, 1, 1)) as workers:
        ended = run_all(workers, [new_job("one"), new_job("two")])
    assert [(end.outcome, end.exit_code, name in end.message) for name, end in ended.items()] == [
        ("failed", 1, True)
    ] * 2


def test_memory_that_runs_out_shrinks_the_pool(new_job: NewJob) -> None:
    notes: list[str] = []
    jobs = [new_job(f"run-{number}") for number in range(5)]
    with pool(makers.crowded, Place(None, 3, 3), notes=notes) as workers:
        ended = run_all(workers, jobs)
        assert workers.at_once < 3
    assert {end.outcome for end in ended.values()} == {"finished"}
    assert len(notes) >= 3 - workers.at_once  # a run that failed beside others may be told of when they have ended


def test_memory_that_one_run_alone_has_too_little_of(new_job: NewJob) -> None:
    with pool(makers.crowded, Place(None, 2, 2)) as workers:
        ended = run_all(workers, [new_job("large"), new_job("small")])
    assert ended["large"].out_of_memory
    assert ended["small"].outcome == "finished"
    assert len(tries(new_job("large").folder)) >= 2


def test_nothing_is_left_after_closing(new_job: NewJob) -> None:
    with pool(makers.measured, Place(None, 1, 3)) as workers:
        workers.submit(new_job("first"))
        processes = [worker.process for worker in workers._workers]
        assert len(processes) == 3
        workers.wait()
    assert all(process.exitcode is not None for process in processes)


def test_a_worker_that_dies_with_nothing_to_do_is_replaced(new_job: NewJob) -> None:
    with pool(makers.quick, Place(None, 1, 1)) as workers:
        run_all(workers, [new_job("first")])
        (pid,) = {int(line.split()[0]) for line in tries(new_job("first").folder)}
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert run_all(workers, [new_job("second")])["second"] == Ended("finished")


def test_runs_that_are_deterministic_and_others_do_not_share_a_worker(tmp_path: Path, make_recipe: MakeRecipe) -> None:
    strict, free = make_recipe("train.deterministic=true"), make_recipe()
    names = {"a": free, "b": free, "c": strict, "d": free}
    with pool(makers.quick, Place(None, 1, 1)) as workers:
        run_all(workers, [Job(name, tmp_path / name, recipe) for name, recipe in names.items()])
    pids = [tries(tmp_path / name)[0] for name in names]
    assert pids[0] == pids[1]
    assert len(set(pids)) == 3
