"""Tries inputs in forked processes, so that whatever one does, a hang or a crash included, is seen and ends with it.

A warm process (multiprocessing's fork server) imports everything once; each worker forked from it tries inputs one
after another, calling the command line in itself, and is replaced when it hangs, dies, or has tried many.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
import traceback
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

from tests.hostile.edits import sign
from tests.hostile.ground import GROUND, Ground
from tests.hostile.inputs import Input, make

PATIENCE = 20.0
"""Seconds after which a command hangs."""
MEMORY = 3 << 29
"""Bytes that a command may take beyond what the warm process holds; the inputs are of some kilobytes."""
MANY = 100
"""Inputs for one worker."""
MOST_OUTPUT = 1 << 22
"""Bytes of output that are looked at."""
EXITS = (0, 2, 3)
"""Exit codes of commands that did their work, that a user's mistake or a divergence ended."""


@dataclass(frozen=True)
class Outcome:
    """What became of an input.

    Attributes:
        input: what was tried; None where the process died while it made it.
        code: the exit code; None if there was none.
        fault: what is wrong, in a line that is the same for all inputs that go wrong so; None if nothing is.
        detail: traceback, place of a hang, or what was printed last.
        seconds: by the clock.
        work: seconds of the processor, which do not depend on what else the machine does.
    """

    number: int
    input: Input | None
    code: int | None
    fault: str | None = None
    detail: str = ""
    seconds: float = 0.0
    work: float = 0.0


# The worker -----------------------------------------------------------------------------------------------------------


def _work(connection: Connection, ground: Ground, seed: int, scratch: Path) -> None:
    scratch.mkdir(parents=True, exist_ok=True)
    printed = _redirect(scratch)
    stacks = (scratch / "stacks").open("wb", buffering=0)
    faulthandler.enable(stacks)
    faulthandler.register(signal.SIGUSR1, stacks)
    _limit_memory()
    held = _peak()
    if not ground.root.exists():  # forked from a process that was warm before, for something else
        os.environ["PATH"] = ""  # without Java, as in `tests.hostile.preload`
        Ground.make(ground.root)
    while (task := connection.recv()) is not None:
        number, content = task
        place = scratch / str(number)
        place.mkdir()
        given = make(ground, seed, number, place)
        if content is not None and given.edited is not None:
            _replace(place / given.edited, content)
        connection.send(given)
        began, worked = time.monotonic(), time.process_time()
        code, fault, detail = _run(given, place, printed)
        if fault is None and _peak() - held > MEMORY:
            fault, detail = "memory", f"{_peak() - held:,} bytes more than before"
        connection.send(
            Outcome(number, given, code, fault, detail, time.monotonic() - began, time.process_time() - worked)
        )
        shutil.rmtree(place)
        held = max(held, _peak())


def _replace(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    if (path.parent / "manifest.json").is_file() and path.name != "manifest.json":
        sign(path.parent)


def _redirect(scratch: Path) -> int:
    """Both standard streams into one file, as bytes: what libraries print counts too."""
    printed = os.open(scratch / "printed", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1)  # noqa: SIM115
    return printed


def _limit_memory() -> None:
    """A bomb must not take the machine with it."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        most = pages * os.sysconf("SC_PAGE_SIZE") + (8 << 30)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _run(given: Input, place: Path, printed: int) -> tuple[int | None, str | None, str]:
    """Exit code, fault and detail."""
    from dora_cli.commands import program

    os.ftruncate(printed, 0)
    os.chdir(place)
    code: int | None = None
    fault, detail = None, ""
    try:
        program()(list(given.arguments), prog_name="dora")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:
        fault, detail = _described(error), traceback.format_exc(limit=-40)
    finally:
        os.chdir(place.parent)
        sys.stdout.flush()
        sys.stderr.flush()
    output = os.pread(printed, MOST_OUTPUT, 0)
    if fault is None:
        fault, detail = judge(code, output)
    return code, fault, detail


def _described(error: BaseException) -> str:
    """The class of `error` and the line of ours that it came through last."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "dora_cli" in frame.filename] or frames
    return f"{type(error).__name__} in {Path(ours[-1].filename).name}, {ours[-1].name}"


def judge(code: int | None, output: bytes) -> tuple[str | None, str]:
    """What is wrong with an ordinary end, and its detail; `output` is all that was printed."""
    if code not in EXITS:
        return f"exit code {code}", output.decode(errors="replace")[-4000:]
    try:
        text = output.decode()
    except UnicodeDecodeError as error:
        if len(output) == MOST_OUTPUT:  # cut within a character
            return None, ""
        return "output that is not UTF-8", repr(output[max(0, error.start - 200) : error.start + 200])
    raw = next((place for place, character in enumerate(text) if is_raw(character)), None)
    if raw is not None:
        return f"raw U+{ord(text[raw]):04X} in the output", repr(text[max(0, raw - 300) : raw + 100])
    if "Traceback (most recent call last)" in text:
        return "a traceback in the output", text[-4000:]
    if code and "dora:" not in text and "Usage:" not in text:
        return f"exit code {code} without a message", text[-4000:]
    return None, text[-200:]


def is_raw(character: str) -> bool:
    """Whether a terminal may obey a character, or show others in another order for it; line feeds and
    tabs are wanted.
    """
    if character in "\n\t":
        return False
    return (
        unicodedata.category(character) == "Cc"
        or character in "\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    )


# The pool -------------------------------------------------------------------------------------------------------------


class _Worker:
    """A process, and the input that it is at."""

    def __init__(self, pool: Pool) -> None:
        self._here, there = pool.context.Pipe()
        self.scratch = pool.scratch / f"worker-{pool.started}"
        self.process = pool.context.Process(
            target=_work, args=(there, pool.ground, pool.seed, self.scratch), daemon=True
        )
        self.process.start()
        there.close()
        self.tried, self.number, self.input, self.began = 0, -1, None, 0.0

    @property
    def connection(self) -> Connection:
        return self._here

    def give(self, number: int, content: bytes | None = None) -> None:
        self.tried, self.number, self.input, self.began = self.tried + 1, number, None, time.monotonic()
        self._here.send((number, content))

    def take(self) -> Outcome | None:
        """The outcome, if it is there; a worker that is gone has one too."""
        try:
            got = self._here.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            code = self.process.exitcode or 0
            return self._lost(f"killed by signal {-code}" if code < 0 else "no outcome")
        if isinstance(got, Outcome):
            return got
        self.input, self.began = got, time.monotonic()
        return None

    def hung(self) -> Outcome:
        os.kill(self.process.pid or 0, signal.SIGUSR1)  # says where it is
        time.sleep(0.5)
        return self._lost("hang")

    def _lost(self, fault: str) -> Outcome:
        said = [
            path.read_bytes()[-4000:].decode(errors="replace")
            for path in map(self.scratch.joinpath, ("printed", "stacks"))
            if path.exists()
        ]
        return Outcome(self.number, self.input, None, fault, "\n".join(said), time.monotonic() - self.began)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self._here.close()
        shutil.rmtree(self.scratch, ignore_errors=True)


class Pool:
    """Workers that try inputs of one seed.

    Args:
        ground: sound files, made by the first process, which forks all others.
        seed: of all draws.
        scratch: a folder for the inputs.
        jobs: how many at once.
    """

    def __init__(self, ground: Ground, seed: int, scratch: Path, *, jobs: int = 1) -> None:
        self.ground, self.seed, self.scratch, self.jobs = ground, seed, scratch, jobs
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["tests.hostile.preload"])
        os.environ[GROUND] = str(ground.root)
        self.started = 0

    def _new(self) -> _Worker:
        self.started += 1
        return _Worker(self)

    def run(self, numbers: Iterable[int]) -> Iterator[Outcome]:
        """The outcomes of inputs, as they come."""
        return self._run(((number, None) for number in numbers), self.jobs)

    def _run(self, tasks: Iterable[tuple[int, bytes | None]], jobs: int) -> Iterator[Outcome]:
        """Outcomes of numbers, each with new content for its file or none; in order where there is one job."""
        left = iter(tasks)
        busy: list[_Worker] = []
        try:
            for _ in range(jobs):
                if (task := next(left, None)) is not None:
                    busy.append(self._new())
                    busy[-1].give(*task)
            while busy:
                ready = wait([worker.connection for worker in busy], timeout=1.0)
                for worker in [*busy]:
                    outcome = worker.take() if worker.connection in ready else None
                    if outcome is None and time.monotonic() - worker.began > (
                        PATIENCE if worker.input else 6 * PATIENCE
                    ):
                        outcome = worker.hung()  # making an input waits for nothing but the first worker's imports
                    if outcome is None:
                        continue
                    yield outcome
                    task = next(left, None)
                    if task is None or outcome.code is None or worker.tried >= MANY:
                        worker.end()
                        busy.remove(worker)
                        worker = self._new() if task is not None else worker
                        busy += [worker] if task is not None else []
                    if task is not None:
                        worker.give(*task)
        finally:
            for worker in busy:
                worker.end()

    def reduced(self, outcome: Outcome, *, tries: int = 80) -> bytes | None:
        """The shortest content found of the file of a fault that still gives it; None where nothing can be left out."""
        given = outcome.input
        if given is None or given.edited is None or outcome.fault == "hang":
            return None
        place = self.scratch / "reduced"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        path = place / make(self.ground, self.seed, outcome.number, place).edited  # type: ignore[operator]  # checked above
        if path.is_symlink() or not path.is_file() or path.stat().st_size > 1 << 20:
            return None
        best = content = path.read_bytes()
        size = len(content) // 2
        while size and tries > 0:
            cuts = [best[:at] + best[at + size :] for at in range(0, len(best), size)][:tries]
            tries -= len(cuts)
            for cut, again in zip(cuts, self._run([(outcome.number, cut) for cut in cuts], 1), strict=True):
                if again.fault == outcome.fault:
                    best = cut
                    break
            else:
                size //= 2
        return None if best == content else best
