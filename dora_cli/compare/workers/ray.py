"""Workers of a Ray cluster, or of a Ray that is started on this machine."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dora_cli.compare.jobs import Ended, Job
from dora_cli.compare.workers.worker import Make, made, ready
from dora_cli.errors import DeviceError, LibraryError, OutputError
from dora_cli.wording import plural

if TYPE_CHECKING:
    from collections.abc import Iterator

A_DEVICE = 4
"""Runs at once on one GPU, if nobody says how many: what they take of its memory is not known here."""
_LOOK = 0.5  # seconds between two looks at the marker
_CLOSING = 600.0  # seconds that a run may take to save itself
_OPTIONS: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


class RayPool:
    """See `dora_cli.compare.jobs.Pool`: each slot is an actor of Ray, which makes one run after another.

    All nodes must see the folder of the runs under the same path. A file above the first of them, as long as the pool
    is open, shows that they do; where it is gone, runs stop and save themselves. A run whose actor dies is made again
    by another one, once; one that runs out of memory beside others with one actor fewer.

    Args:
        address: of a running cluster, ``auto`` for the one that the environment names; ``local`` starts Ray on this
            machine.
        device: ``train.device`` of the runs: for ``cpu`` no GPU is asked for.
        jobs: runs at once; None for one a CPU, or where there are GPUs `A_DEVICE` for each of them.
        note: told what changes on the way.
        load: called in every actor once; what it gives makes the runs.

    Raises:
        LibraryError: Ray is not installed.
        DeviceError: the cluster cannot be reached, or has nothing to compute on.
        OutputError: a node does not see the folder; raised by `wait`.
    """

    def __init__(
        self,
        address: str = "local",
        device: str = "auto",
        jobs: int | None = None,
        *,
        note: Callable[[str], None] = lambda _: None,
        load: Callable[[], Make] = ready,
    ) -> None:
        self._ray, self._ours = _connected(address)
        self._note, self._load = note, load
        self._actors: list[Any] = []
        self._idle: list[Any] = []
        self._running: dict[Any, tuple[Any, Job]] = {}  # by the answer that is awaited: who makes what
        self._again: list[Job] = []
        self._deaths: dict[str, int] = {}
        self._marker: Path | None = None
        try:
            self._slots, self._share = share(self._ray.cluster_resources(), device, jobs)
        except BaseException:
            self.close()
            raise

    @property
    def free(self) -> int:
        return max(0, self._slots - len(self._running) - len(self._again))

    @property
    def at_once(self) -> int:
        """How many runs it makes at once, as far as is known now."""
        return self._slots

    def submit(self, job: Job) -> None:
        assert self.free, "no actor is free"
        if self._marker is None:
            there = next(folder for folder in job.folder.parents if folder.is_dir())
            self._marker = there / f".dora-{secrets.token_hex(8)}"
            self._marker.touch()
        self._start(job)

    def wait(self) -> list[tuple[Job, Ended]]:
        assert self._running or self._again, "no run is under way"
        ended: list[tuple[Job, Ended]] = []
        while not ended:
            while self._again and len(self._running) < self._slots:
                self._start(self._again.pop(0))
            answers, _ = self._ray.wait(list(self._running), num_returns=1)
            for answer in answers:
                ended += self._heard(answer)
        return ended

    def close(self) -> None:
        if self._marker is not None:
            self._marker.unlink(missing_ok=True)
        actors, self._actors, self._idle, self._again = self._actors, [], [], []
        running, self._running = list(self._running), {}
        try:
            if running:
                self._ray.wait(running, num_returns=len(running), timeout=_CLOSING)
        finally:
            for actor in actors:
                self._ray.kill(actor)
            if self._ours:
                self._ray.shutdown()

    # -- actors --------------------------------------------------------------------------------------------------------

    def _start(self, job: Job) -> None:
        if self._idle:
            actor = self._idle.pop(0)
        else:
            assert self._marker is not None
            actor = self._ray.remote(**self._share)(_Actor).remote(self._load, os.fspath(self._marker))
            self._actors.append(actor)
        self._running[actor.make.remote(job)] = (actor, job)

    def _drop(self, actor: Any) -> None:
        self._actors.remove(actor)
        self._ray.kill(actor)

    def _heard(self, answer: Any) -> list[tuple[Job, Ended]]:
        """How a run ended, if it is not made again."""
        actor, job = self._running.pop(answer)
        try:
            ended = self._ray.get(answer)
        except self._ray.exceptions.RayActorError as error:
            self._drop(actor)
            self._deaths[job.name] = self._deaths.get(job.name, 0) + 1
            if self._deaths[job.name] > 1:
                reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
                message = f"the Ray actor of {job.folder} died twice ({reason[:300]}); Ray's logs say more"
                return [(job, Ended("failed", message, exit_code=2))]
            self._note(f"the Ray actor of {job.name} died; the run is made again by another one")
            self._again.append(job)
            return []
        if ended is None:
            raise OutputError(
                f"a node of the Ray cluster does not see what is above {job.folder}; put it on a file system that "
                "all nodes share under the same path, or leave out the cluster's address"
            )
        if ended.out_of_memory and self._slots > 1:
            self._drop(actor)  # and what it still holds of the device
            running, self._slots = len(self._running) + 1, self._slots - 1
            self._note(
                f"memory ran out with {plural(running, 'run')} at once; {job.name} is made again, and from now on "
                f"there are at most {self._slots:,}"
            )
            self._again.append(job)
            return []
        if ended.outcome == "stopped":
            self._drop(actor)
        else:
            self._idle.append(actor)
        return [(job, ended)]


def share(there: dict[str, float], device: str, jobs: int | None) -> tuple[int, dict[str, float]]:
    """How many runs a cluster takes at once, and what each asks of it.

    Args:
        there: the cluster's resources, by Ray's names.
        device, jobs: see `RayPool`.

    Raises:
        DeviceError: it has no CPUs, or no GPUs for a `device` that is one.
    """
    cpus, gpus = int(there.get("CPU", 0)), int(there.get("GPU", 0))
    if not cpus:
        raise DeviceError("the Ray cluster has no CPUs; start a node with some, or leave out the cluster's address")
    if device == "cpu" or (device == "auto" and not gpus):
        slots = jobs or cpus
        return slots, {"num_cpus": _part(cpus, slots), "num_gpus": 0}
    if not gpus:
        raise DeviceError(
            f"train.device is {device}, but the Ray cluster has no GPUs; set train.device: cpu or auto, or start a "
            "node with one"
        )
    each = -(-jobs // gpus) if jobs is not None else max(1, min(A_DEVICE, cpus // gpus))
    slots = jobs or each * gpus
    return slots, {"num_cpus": _part(cpus, slots), "num_gpus": _part(1, each)}


def _part(whole: int, number: int) -> float:
    """At most one, and never so much that `number` of it are more than `whole`; Ray counts in ten-thousandths."""
    return min(10_000, 10_000 * whole // number) / 10_000


def _connected(address: str) -> tuple[Any, bool]:
    """Ray, and whether it is ours to shut down."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # of which it would warn
    try:
        import ray
    except ImportError as error:
        raise LibraryError("a Ray cluster needs the package ray; pip install 'dora-cli[ray]'") from error
    if ray.is_initialized():  # by the program that called us
        return ray, False
    try:
        if address == "local":
            ray.init(address=address, include_dashboard=False, **_OPTIONS)
        else:
            ray.init(address=address, **_OPTIONS)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
        where = "on this machine cannot be started" if address == "local" else f"at {address} cannot be reached"
        raise DeviceError(f"Ray {where} ({reason[:300]}); start one by ray start --head, or leave Ray out") from error
    return ray, True


class _Actor:
    """A worker process of the cluster. Its methods run in the process's main thread, where signals are heard."""

    def __init__(self, load: Callable[[], Make], marker: str) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its neighbours use the other cores
        self._marker = Path(marker)
        self._load = load
        self._make: Make | None = None

    def make(self, job: Job) -> Ended | None:
        """How the run ended; None where the experiment's folder is not to be seen."""
        if not self._marker.is_file():
            return None
        self._make = self._make or self._load()
        with _watched(self._marker):
            return made(self._make, job)[0]


@contextmanager
def _watched(marker: Path) -> Iterator[None]:
    """Stops this process as by a signal once `marker` is gone."""
    done = threading.Event()

    def watch() -> None:
        missed = 0
        while missed < 2 and not done.wait(_LOOK):
            try:
                missed = 0 if marker.is_file() else missed + 1
            except OSError:  # a file server that is away for a moment
                missed = 0
        if not done.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
