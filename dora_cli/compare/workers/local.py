"""Worker processes of this machine, which keep libraries and kernels loaded from one run to the next."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess

from dora_cli.compare.jobs import Ended, Job
from dora_cli.compare.workers.places import Place, find_places
from dora_cli.compare.workers.worker import Make, Used, ready, serve
from dora_cli.wording import plural

_SPAWN = multiprocessing.get_context("spawn")  # CUDA and threads survive no fork


@dataclass(eq=False)
class _Task:
    """A run, how many workers died of it, and whether another one was under way at its place meanwhile."""

    job: Job
    deaths: int = 0
    beside: bool = False


@dataclass(eq=False)
class _Worker:
    """A process and what it does.

    Attributes:
        deterministic: ``train.deterministic`` of all its runs, for cuBLAS asks for it once; None before the first.
    """

    process: BaseProcess
    connection: Connection
    place: Place
    task: _Task | None = None
    deterministic: bool | None = None


class LocalPool:
    """See `dora_cli.compare.jobs.Pool`. What a run comes to does not depend on the worker that makes it.

    A run whose worker dies is made again by another one, once. A run for which memory runs out beside others is made
    again with one worker fewer.

    Args:
        device: ``train.device`` of the runs.
        jobs: runs at once; None for as many as this machine is good for.
        runs: how many there will be at the most, where that is known: no more workers are started.
        note: told what changes on the way.
        load: called in every worker once; what it gives makes the runs.
        places: where workers compute, in place of `device` and `jobs`.
        context: how worker processes start.

    Raises:
        DeviceError: this machine does not have the device.
    """

    def __init__(
        self,
        device: str = "auto",
        jobs: int | None = None,
        *,
        runs: int | None = None,
        note: Callable[[str], None] = lambda _: None,
        load: Callable[[], Make] = ready,
        places: Sequence[Place] | None = None,
        context: SpawnContext | ForkServerContext = _SPAWN,
    ) -> None:
        self._places = find_places(device, jobs) if places is None else list(places)
        self._runs, self._note, self._load, self._context = runs, note, load, context
        self._workers: list[_Worker] = []
        self._again: list[_Task] = []  # to be made again, before anything else

    @property
    def free(self) -> int:
        return max(0, sum(self._room(place) for place in self._places) - len(self._again))

    @property
    def at_once(self) -> int:
        """How many runs it makes at once, as far as is known now."""
        return sum(place.limit for place in self._places)

    def submit(self, job: Job) -> None:
        assert self.free, "no worker is free"
        self._start(_Task(job))

    def wait(self) -> list[tuple[Job, Ended]]:
        ended: list[tuple[Job, Ended]] = []
        while not ended:
            by_connection = {worker.connection: worker for worker in self._workers}
            assert self._again or any(worker.task for worker in self._workers), "no run is under way"
            for connection in wait(list(by_connection)):
                assert isinstance(connection, Connection)
                worker = by_connection[connection]
                if worker in self._workers:  # what another has told may have ended it
                    ended += self._heard(worker)
            while self._again and any(self._room(place) for place in self._places):
                self._start(self._again.pop(0))
        return ended

    def close(self) -> None:
        workers, self._workers, self._again = self._workers, [], []
        try:
            for worker in workers:
                worker.process.terminate()
            for worker in workers:
                worker.process.join()
        except BaseException:  # a second signal, which waits for nothing
            for worker in workers:
                worker.process.terminate()
            raise
        finally:
            for worker in workers:
                worker.connection.close()

    # -- workers -------------------------------------------------------------------------------------------------------

    def _at(self, place: Place) -> list[_Worker]:
        return [worker for worker in self._workers if worker.place is place]

    def _room(self, place: Place) -> int:
        return place.limit - sum(worker.task is not None for worker in self._at(place))

    def _start(self, task: _Task) -> None:
        """Gives the run to a worker of the place with the most room."""
        place, deterministic = max(self._places, key=self._room), task.job.recipe.train.deterministic
        while True:
            idle = [worker for worker in self._at(place) if worker.task is None]
            fitting = [worker for worker in idle if worker.deterministic in (deterministic, None)]
            if idle and not fitting:
                self._remove(idle[0])
            worker = fitting[0] if fitting else self._new_worker(place)
            try:
                worker.connection.send(task.job)
            except OSError:  # it died while it had nothing to do
                self._remove(worker)
                continue
            worker.task, worker.deterministic, task.beside = task, deterministic, False
            break
        under_way = [other.task for other in self._at(place) if other.task is not None]
        if len(under_way) > 1:
            for one in under_way:
                one.beside = True
        if place.limit < place.most:
            # they load their libraries while the first run shows how much memory it takes
            while len(self._at(place)) < place.most and (self._runs is None or len(self._workers) < self._runs):
                self._new_worker(place)

    def _new_worker(self, place: Place) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=serve, args=(theirs, place.visible, self._load), daemon=True)
        process.start()
        theirs.close()  # so that the end of that process is the end of the connection
        worker = _Worker(process, ours, place)
        self._workers.append(worker)
        return worker

    def _dismiss(self, place: Place) -> None:
        """Ends workers that will have nothing to do."""
        idle = [worker for worker in self._at(place) if worker.task is None]
        for worker in idle[: max(0, len(self._at(place)) - place.most)]:
            self._remove(worker)

    def _remove(self, worker: _Worker) -> int:
        """Ends a worker, which has no run; returns its exit code."""
        self._workers.remove(worker)
        worker.process.terminate()
        worker.process.join()
        worker.connection.close()
        code = worker.process.exitcode
        assert code is not None
        return code

    # -- what they tell ------------------------------------------------------------------------------------------------

    def _heard(self, worker: _Worker) -> list[tuple[Job, Ended]]:
        """What a worker has to say: how its run ended, or nothing any more."""
        try:
            ended, used = worker.connection.recv()
        except (EOFError, OSError):
            return self._died(worker)
        task, worker.task = worker.task, None
        assert task is not None
        return self._done(worker, task, ended, used)

    def _died(self, worker: _Worker) -> list[tuple[Job, Ended]]:
        task, worker.task = worker.task, None
        worker.process.join()  # before it is told to: its own exit code is wanted
        code = self._remove(worker)
        if task is None:
            return []
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        task.deaths += 1
        if task.deaths == 1:
            self._note(f"the worker of {task.job.name} {how}; the run is made again by another one")
            self._again.append(task)
            return []
        message = f"the worker of {task.job.folder} {how}, twice; see what the system says of it"
        if code == -signal.SIGKILL:
            message = (
                f"the worker of {task.job.folder} {how}, twice, as systems do that run out of memory; give fewer "
                f"--jobs (now {self.at_once:,})"
            )
        return [(task.job, Ended("failed", message, exit_code=2))]

    def _done(self, worker: _Worker, task: _Task, ended: Ended, used: Used | None) -> list[tuple[Job, Ended]]:
        place = worker.place
        if ended.out_of_memory and task.beside:
            running = 1 + sum(other.task is not None for other in self._at(place))
            place.shrink(running)
            self._remove(worker)  # and what it still holds of the device
            self._note(
                f"memory ran out with {plural(running, 'run')} at once; {task.job.name} is made again, and from now on "
                f"there are at most {place.limit:,}"
            )
            self._again.append(task)
            return []
        if used is not None and ended.outcome in ("finished", "diverged"):
            place.measured(used)
            self._dismiss(place)
        return [(task.job, ended)]
