"""`dora train` as a process that is struck by signals, at chosen or at random moments, and goes on.

A process is forked for each attempt (see `tests.processes`) and runs the command line as `dora` does. It says where
it is (see `marks`) and waits where a signal is meant to fall, so that one can be sent into a moment of microseconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, repeat
from multiprocessing.connection import Connection
from pathlib import Path

from dora_cli.recipe import Recipe, dump_recipe
from tests.patience import PATIENCE
from tests.processes import CONTEXT, begin
from tests.runs.test_resume import assert_equal_runs
from tests.training.marks import install


@dataclass(frozen=True)
class Strike:
    """Signals to one process.

    Attributes:
        place: the mark at which they are sent; None for `after` seconds from the start.
        visit: at which of its visits there, counted from 1.
        numbers: the signals, in order, `gap` seconds between them.
    """

    place: str | None = None
    visit: int = 1
    after: float = 0.0
    numbers: tuple[int, ...] = (signal.SIGKILL,)
    gap: float = 0.0


@dataclass(frozen=True)
class Attempt:
    """What became of a process.

    Attributes:
        code: its exit code; negative for the signal that ended it.
        marks: where it was, in order.
        output: what it printed.
        struck: whether it lived to be struck.
    """

    code: int
    marks: list[str]
    output: str
    struck: bool
    seconds: float

    @property
    def phase(self) -> str:
        """One of `PHASES`: where the process was at its end."""
        return self.marks[-1].split(":")[0] if self.marks else "loading"


class Warm:
    """Runs ``dora`` in processes forked from a warm one, which ends with this program."""

    def __init__(self) -> None:
        self.run("--version")  # starts it, so that no other run's seconds count its imports

    def run(
        self,
        *arguments: str,
        strike: Strike | None = None,
        pauses: Mapping[str, float] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Attempt:
        """Runs ``dora ARGUMENTS`` to its end, whatever that is.

        Args:
            pauses: seconds to rest at each mark, by phase.
            environment: variables to set.
        """
        here, there = CONTEXT.Pipe()
        with tempfile.NamedTemporaryFile() as printed:
            settings = _Settings(arguments, printed.name, strike, dict(pauses or {}), dict(environment or {}))
            process = CONTEXT.Process(target=_dora, args=(there, settings), daemon=True)
            began = time.monotonic()
            process.start()
            there.close()
            try:
                marks, struck = _watch(process.pid or 0, here, strike, began)
                process.join(PATIENCE)
            finally:
                process.kill()
                process.join()
                here.close()
            output = Path(printed.name).read_text(encoding="utf-8", errors="replace")
        assert process.exitcode is not None
        return Attempt(process.exitcode, marks, output, struck, time.monotonic() - began)

    def run_together(self, *arguments: str, strikes: Sequence[Strike | None]) -> list[Attempt]:
        """Runs one process per element of `strikes`, as torch's launcher does: they train one model together."""
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        size = str(len(strikes))
        common = {
            "OMP_NUM_THREADS": "1",
            "WORLD_SIZE": size,
            "LOCAL_WORLD_SIZE": size,
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(port),
        }
        common["ACCELERATE_USE_CPU"] = "true"

        def one(rank: int) -> Attempt:
            return self.run(
                *arguments, strike=strikes[rank], environment={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            )

        with ThreadPoolExecutor(len(strikes)) as pool:
            return list(pool.map(one, range(len(strikes))))


@dataclass(frozen=True)
class _Settings:
    """What a process is told."""

    arguments: tuple[str, ...]
    printed: str
    strike: Strike | None
    pauses: dict[str, float]
    environment: dict[str, str]


def _until_taken(process: int, number: int) -> None:
    """Waits until a signal was delivered, which takes its time on a busy machine: two that wait come in another order,
    or as one.
    """
    status = Path("/proc", str(process), "status")
    with contextlib.suppress(OSError):  # it ended just now, or this system does not say
        while any(
            int(line.split()[1], 16) >> (number - 1) & 1
            for line in status.read_text().splitlines()
            if line.startswith(("SigPnd", "ShdPnd"))
        ):
            time.sleep(0.01)


def _watch(process: int, connection: Connection, strike: Strike | None, began: float) -> tuple[list[str], bool]:
    """Reads marks until the process ends, and strikes it."""
    marks: list[str] = []
    visits: Counter[str] = Counter()
    struck = False
    while True:
        timed = strike is not None and strike.place is None and not struck
        left = began + strike.after - time.monotonic() if timed and strike is not None else PATIENCE
        if not connection.poll(max(left, 0.0)):
            if not timed:
                raise AssertionError(f"nothing happened for {PATIENCE} s after {marks[-1:]}")
            place = None
        else:
            try:
                place = connection.recv_bytes().decode()
            except (EOFError, ConnectionResetError):
                return marks, struck
            marks.append(place)
            visits[place] += 1
        if (
            strike is None
            or struck
            or (place, visits[place or ""]) != (strike.place, strike.visit if strike.place else 0)
        ):
            continue
        for index, number in enumerate(strike.numbers):
            if index:
                _until_taken(process, strike.numbers[index - 1])
                time.sleep(strike.gap)
            with contextlib.suppress(ProcessLookupError):  # it ended just now
                os.kill(process, number)
        struck = True
        if strike.place is not None and strike.numbers[-1] != signal.SIGKILL:
            try:
                connection.send_bytes(b"go on")
            except (BrokenPipeError, ConnectionResetError):
                continue


def _dora(connection: Connection, settings: _Settings) -> None:
    """The process: `dora` with hooks."""
    begin({**os.environ, **settings.environment})
    handle = os.open(settings.printed, os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    from dora_cli.commands import program

    strike = settings.strike
    visits: Counter[str] = Counter()

    def mark(place: str) -> None:
        visits[place] += 1
        connection.send_bytes(place.encode())
        if strike is not None and (place, visits[place]) == (strike.place, strike.visit):
            connection.recv_bytes()  # until a signal ends it, or it may go on
        time.sleep(settings.pauses.get(place.split(":")[0], 0.0))

    mark("loading")
    install(mark)
    sys.argv = ["dora", *settings.arguments]
    program()(list(settings.arguments), prog_name="dora")


def assert_same_files(one: Path, two: Path) -> None:
    """No file or folder of `one` is missing in `two`, and none is left over there."""
    expected, found = ({str(path.relative_to(folder)) for path in folder.rglob("*")} for folder in (one, two))
    assert expected == found, f"missing: {sorted(expected - found)}; left over: {sorted(found - expected)}"


@dataclass(frozen=True)
class Straight:
    """A run without an interruption.

    Attributes:
        recipe: the file.
        run: the folder.
        seconds: from the process's start to its end, with `pauses`.
    """

    recipe: Path
    run: Path
    pauses: Mapping[str, float]
    seconds: float

    @classmethod
    def of(cls, warm: Warm, recipe: Recipe, folder: Path, pauses: Mapping[str, float] | None = None) -> Straight:
        """Trains `recipe` into ``folder/run``."""
        file = folder / "recipe.yaml"
        file.write_text(dump_recipe(recipe), encoding="utf-8")
        pauses = pauses or {}
        return cls(file, folder / "run", pauses, go_on(warm, file, folder / "run", None, pauses).seconds)

    def assert_equals(self, run: Path) -> None:
        """Weights, records, ranks, log, outputs, optimiser and random states; and no file is missing or left over."""
        assert_equal_runs(self.run, run)
        assert_same_files(self.run, run)
        outputs = [folder / "predictions.jsonl" for folder in (self.run, run)]
        assert not outputs[0].exists() or outputs[0].read_bytes() == outputs[1].read_bytes()

    def struck(self, warm: Warm, run: Path, strikes: Iterable[Strike]) -> list[Attempt]:
        """The same run in `run`, while each of `strikes` ends an attempt; the last attempt ends by itself."""
        attempts = []
        for strike in chain(strikes, repeat(None)):
            attempts.append(go_on(warm, self.recipe, run, strike, self.pauses))
            if attempts[-1].code == 0:
                break
        return attempts


def go_on(
    warm: Warm, recipe: Path, run: Path, strike: Strike | None, pauses: Mapping[str, float] | None = None
) -> Attempt:
    """One attempt, with the flags that a user would give who does what messages say.

    Raises:
        AssertionError: the process ended otherwise than by success, by the strike, or by saying that there is nothing
            to go on from.
    """
    command = ("train", str(recipe), "--output", str(run))
    attempt = warm.run(
        *command, *(["--resume"] if (run / "recipe.yaml").exists() else []), strike=strike, pauses=pauses
    )
    if attempt.code == 2 and "start it again with --overwrite" in attempt.output:
        attempt = warm.run(*command, "--overwrite", strike=strike, pauses=pauses)
    ends = {0} if strike is None else {0, -signal.SIGKILL}
    assert attempt.code in ends, f"exit code {attempt.code} after {attempt.marks[-3:]}:\n{attempt.output}"
    return attempt
