"""Several processes of this machine for one command: started, watched and ended together.

Each is told what torch's launcher (torchrun) tells its own, and finds the others by it. The one that starts them waits;
it loads no PyTorch, which would take the seconds in which they load theirs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from dora_cli.errors import OptionError, ProcessError, StoppedError
from dora_cli.machine.cores import usable_cores
from dora_cli.machine.launched import REPORT, read_report
from dora_cli.machine.signals import SIGNALS

OFTEN = 0.05
"""Seconds between two looks at the processes."""
PATIENCE = {"failed": 10.0, "ended": 60.0, "told twice": 5.0}
"""Seconds after which processes that go on without another are killed: one that crashed, one that ended by an error or
a signal it was told of, after which the others may have to close their trackers, and after a second signal."""
TAIL = 2000
"""Characters of what a process printed last that are shown where it said nothing else."""
_OF_A_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_SAID = {2, 3, *(128 + number for number in SIGNALS)}  # exit codes of errors that mostly all processes meet together
_HELD = sys.platform == "linux"  # elsewhere a port cannot be listened at that another socket is bound to


def check_processes(processes: int, *, resume: bool, environment: Mapping[str, str] = os.environ) -> None:
    """Refuses ``--processes`` where it cannot be done.

    Args:
        resume: whether a run goes on, which began with as many: it may do so on fewer cores.

    Raises:
        OptionError: another launcher is at work, there are not so many cores, or the system has no such signals.
    """
    if found := [name for name in _OF_A_LAUNCHER if name in environment]:
        raise OptionError(
            f"--processes starts processes itself, and {found[0]}={environment[found[0]]} says that a launcher has "
            "started this one; leave --processes out, or start dora without the launcher"
        )
    if os.name != "posix":
        raise OptionError("--processes needs Linux or macOS; here, start them with torchrun or accelerate launch")
    if processes > (most := usable_cores()) and not resume:
        raise OptionError(
            f"--processes {processes}, but {most} core(s) may be used here, and every process takes one; give "
            f"{most} at most (a run that began with more may go on with as many)"
        )


def run_together(command: Sequence[str], processes: int) -> int:
    """Runs `command` in so many processes, each in a session of its own, and waits for all.

    The first one has this process's stdout and stderr; what the others print is shown only where one of them ends by
    itself. SIGINT, SIGTERM and SIGHUP are passed on to all, once each, and Ctrl-Z halts them too. Where one fails, the
    others are ended.

    Returns:
        The exit code: 0, or that of the first process, which has then said why.

    Raises:
        ProcessError: one ended with an error, and nobody has said it yet.
        StoppedError: a signal ended them before the first could say so.
    """
    with tempfile.TemporaryDirectory(prefix="dora-processes-") as folder, _port() as port:
        together = _Together(Path(folder), processes)
        with together.passing_signals_on():
            try:
                for rank in range(processes):
                    together.start(command, rank, port)
                together.wait()
            finally:
                together.kill()
        return together.outcome()


@contextlib.contextmanager
def _port() -> Iterator[int]:
    """A port of this machine that nobody uses, on which the first process will listen; held meanwhile where the system
    allows that, since it takes seconds until it does.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("", 0))
        port = held.getsockname()[1]
        if not _HELD:
            held.close()
        yield port


def surroundings(rank: int, processes: int, port: int) -> dict[str, str]:
    """What torch's launcher tells process number `rank` by its environment."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


@dataclass
class _Process:
    """One of them.

    Attributes:
        own: the process; it holds the writing end of its standard input, which closes with this process.
        report, printed: files in which it says why it failed, and what it prints; the first prints elsewhere.
        ended: when it was seen to have ended, in seconds since the epoch.
        killed: whether that was our doing.
    """

    own: subprocess.Popen[bytes]
    report: Path
    printed: Path
    ended: float | None = None
    killed: bool = False

    @property
    def code(self) -> int | None:
        return self.own.returncode


@dataclass(frozen=True, order=True)
class _Failure:
    """What is said if a process has failed first; the least one has.

    One that is killed says nothing, while the others write down at once that they lost it. One that aborts, or exits
    without a word, may do so because it lost another.

    Attributes:
        order: 0 where no other can be the reason, 2 where it was this program that killed it.
        time: when, in seconds since the epoch.
        code: the exit code.
        silent: whether it has written nothing down.
    """

    order: int
    time: float
    rank: int
    what: str
    code: int
    silent: bool


class _Together:
    """The processes, by rank, and the signals that have been passed on."""

    def __init__(self, folder: Path, count: int) -> None:
        self._folder, self._count = folder, count
        self._all: list[_Process] = []
        self._signals: list[int] = []
        self._limit = float("inf")  # when those that are left are killed, on the monotonic clock

    def start(self, command: Sequence[str], rank: int, port: int) -> None:
        if self._signals:  # those that have started know already
            return
        report, printed = self._folder / f"report-{rank}.json", self._folder / f"printed-{rank}.txt"
        environment = {**os.environ, **surroundings(rank, self._count, port), REPORT: str(report)}
        with printed.open("wb") as output:
            own = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=None if rank == 0 else output,
                stderr=None if rank == 0 else output,
                start_new_session=True,  # Ctrl-C is for this process, which passes it on
            )
        self._all.append(_Process(own, report, printed))
        if self._signals:  # it came meanwhile
            self._send(self._signals[0])

    # Signals ----------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def passing_signals_on(self) -> Iterator[None]:
        """Within it signals are for the processes. One that is ignored (``nohup``) stays so, and is by them."""
        former: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            handlers = dict.fromkeys(SIGNALS, self._pass_on) | {signal.SIGTSTP: self._halt}
            former = {
                number: signal.signal(number, handler)
                for number, handler in handlers.items()
                if signal.getsignal(number) is not signal.SIG_IGN
            }
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)
        self._send(number)
        if len(self._signals) > 1:
            self._wait_no_longer_than("told twice")

    def _halt(self, number: int, frame: FrameType | None) -> None:
        self._send(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        self._send(signal.SIGCONT)  # this process goes on, and so do they

    def _send(self, number: int) -> None:
        for process in self._all:
            process.own.send_signal(number)  # which one that has ended does not get

    # The end ----------------------------------------------------------------------------------------------------------

    def wait(self) -> None:
        """Waits until all have ended, and kills those that go on for too long without another."""
        while left := [process for process in self._all if process.own.poll() is None]:
            self._look()
            if time.monotonic() > self._limit:
                self.kill()
            elif left:
                time.sleep(OFTEN)
        self._look()

    def _look(self) -> None:
        for process in self._all:
            if process.code is None or process.ended is not None:
                continue
            process.ended = time.time()
            if process.code:
                self._wait_no_longer_than("ended" if process.code in _SAID else "failed")

    def _wait_no_longer_than(self, why: str) -> None:
        self._limit = min(self._limit, time.monotonic() + PATIENCE[why])

    def kill(self) -> None:
        """Ends those that have not."""
        for process in self._all:
            if process.own.poll() is None:
                process.own.kill()
                process.killed = True
            process.own.wait()
            if process.own.stdin is not None:
                process.own.stdin.close()

    def outcome(self) -> int:
        """The exit code; see `run_together`."""
        if self._all and not any(process.code for process in self._all) and len(self._all) == self._count:
            return 0
        first = self._all[0] if self._all else None
        if first is not None and (first.code or 0) > 0 and not first.report.exists():
            return first.code or 0
        if self._signals:
            name = signal.Signals(self._signals[-1]).name
            raise StoppedError(f"stopped by {name} before the processes could say where", self._signals[-1])
        failed = sorted(self._failure(rank) for rank, process in enumerate(self._all) if process.code)
        silent = [one.what for one in failed[1:] if one.silent and not self._all[one.rank].killed]
        raise ProcessError("\n".join([failed[0].what, *silent]), failed[0].code)

    def _failure(self, rank: int) -> _Failure:
        process = self._all[rank]
        code, who = process.code or 0, f"process {rank + 1} of {self._count}"
        report = read_report(process.report)
        if report is not None:
            what = f": {report['message']}" if report["code"] > 1 else f" failed:\n{report['message'].rstrip()}"
            return _Failure(1, report["time"], rank, f"{who}{what}", report["code"], silent=False)
        alone = code < 0 and code != -signal.SIGABRT
        what = f"{who} was ended by {signal.Signals(-code).name}" if code < 0 else f"{who} ended with exit code {code}"
        if code == -signal.SIGKILL:
            what += ", as the system does where memory runs out"
        what += "; a run that has a checkpoint goes on from it with --resume"
        if printed := process.printed.read_text(encoding="utf-8", errors="replace")[-TAIL:].strip():
            what += f". It had printed:\n{printed}"
        order = 2 if process.killed else 0 if alone else 1
        return _Failure(order, process.ended or 0.0, rank, what, 128 - code if code < 0 else code, silent=True)
