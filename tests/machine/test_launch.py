"""Several processes of one command: what they are told, how they end. They load nothing here but what tells them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from dora_cli.errors import DoraError, OptionError, ProcessError, StoppedError
from dora_cli.machine import launch
from dora_cli.machine.cores import usable_cores
from dora_cli.machine.launch import check_processes, run_together
from dora_cli.machine.launched import REPORT
from dora_cli.machine.signals import StoppedNow, StopSignals
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

BEGIN = """
import os, signal, sys, time
from pathlib import Path
rank, here = int(os.environ["RANK"]), Path(sys.argv[1])

def until(*names):
    while not all((here / name).exists() for name in names):
        time.sleep(0.01)

def wait_for_a_signal():
    heard = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: heard.append(number))
    (here / f"ready-{rank}").touch()
    while not heard:
        time.sleep(0.01)
    time.sleep(0.3)  # a second one would come at once
    (here / f"heard-{rank}").write_text(str(heard))
    return 128 + heard[0]
"""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "PATIENCE", {"failed": 0.3, "ended": PATIENCE, "told twice": 0.3})
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv(REPORT, raising=False)


@pytest.fixture(autouse=True)
def _hears() -> Iterator[None]:
    """What runs in the background ignores SIGINT, and so do the processes that it starts."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


def command(folder: Path, program: str) -> list[str]:
    return [sys.executable, "-S", "-c", BEGIN + textwrap.dedent(program), str(folder)]


def together(folder: Path, program: str, processes: int = 2) -> int:
    return run_together(command(folder, program), processes)


def test_each_is_told_its_place_and_the_first_one_prints(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = together(
        tmp_path,
        """
        import json
        (here / f"{rank}.json").write_text(json.dumps(dict(os.environ)))
        print("out", rank)
        print("err", rank, file=sys.stderr)
        """,
        processes=3,
    )
    assert code == 0
    assert capfd.readouterr() == ("out 0\n", "err 0\n")
    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    for rank, environment in enumerate(told):
        assert environment["RANK"] == environment["LOCAL_RANK"] == str(rank)
        assert environment["WORLD_SIZE"] == environment["LOCAL_WORLD_SIZE"] == "3"
        assert environment["MASTER_ADDR"] == "127.0.0.1"
        assert not Path(environment[REPORT]).parent.exists(), "what they wrote for the launcher is removed"
    assert len({environment["MASTER_PORT"] for environment in told}) == 1
    assert len({environment[REPORT] for environment in told}) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the port is free until it is listened at")
def test_the_port_is_kept_for_the_one_that_listens() -> None:
    with launch._port() as port:
        with socket.socket() as other, pytest.raises(OSError, match=r"in use"):
            other.bind(("", port))
        with socket.socket() as first:
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            first.bind(("", port))
            first.listen()
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE):
                pass


def test_the_first_one_says_for_all_why_they_end(tmp_path: Path) -> None:
    program = """
    from dora_cli.errors import DivergedError
    from dora_cli.machine.launched import beside_others
    try:
        with beside_others():
            raise DivergedError("the loss")
    except DivergedError as error:
        assert rank == 0  # a command prints it, with this exit code
        sys.exit(error.exit_code)
    """
    assert together(tmp_path, program) == 3


LOST = """
from dora_cli.errors import DataError
from dora_cli.machine.launched import beside_others
with beside_others():
    if rank == 0:
        until("failing")
        time.sleep(0.02)
        raise RuntimeError("Connection closed by peer")
    print("what it had printed", flush=True)
    {fails}
"""


@pytest.mark.parametrize(
    ("fails", "code", "says"),
    [
        ("raise DataError('no memory left')", 2, ["process 2 of 2: no memory left"]),
        ("raise OSError(28, 'no space', 'file')", 2, ["process 2 of 2: [Errno 28] no space: 'file'"]),
        ("1 / 0", 1, ["process 2 of 2 failed:\nTraceback", "ZeroDivisionError: division by zero"]),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, ["process 2 of 2 was ended by SIGKILL", "what it had printed"]),
        ("os.abort()", None, ["process 2 of 2 was ended by SIGABRT", "what it had printed"]),
        ("os._exit(7)", None, ["process 2 of 2 ended with exit code 7", "what it had printed"]),
    ],
)
def test_the_one_that_failed_first_is_told_of(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], fails: str, code: int | None, says: Sequence[str]
) -> None:
    """What the first process says of a connection that it lost is not what happened. An abort and an exit may come of
    that too, and leave no word of when: then both are told of.
    """
    marks = f"(here / 'failing').touch(); {fails}"
    with pytest.raises(ProcessError) as caught:
        together(tmp_path, LOST.format(fails=marks))
    message = str(caught.value)
    if code is not None:
        assert caught.value.exit_code == code
        assert "Connection" not in message
    for part in says:
        assert part in message
    assert capfd.readouterr() == ("", "")


def test_an_exit_without_a_word_is_told_with_what_was_printed(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match=r"process 2 of 2 ended with exit code 7.*--resume.*:\nthe last words") as c:
        together(tmp_path, "if rank == 1:\n    print('the last words', flush=True)\n    os._exit(7)\nuntil('never')")
    assert c.value.exit_code == 7


def test_those_that_go_on_without_another_are_killed(tmp_path: Path) -> None:
    """The first one waits, as in a sum over GPUs, for one that crashed."""
    began = time.monotonic()
    with pytest.raises(ProcessError, match=r"process 3 of 3 was ended by SIGSEGV"):
        together(tmp_path, "rank == 2 and os.kill(os.getpid(), signal.SIGSEGV)\nuntil('never')", processes=3)
    assert time.monotonic() - began < PATIENCE / 2


# Signals --------------------------------------------------------------------------------------------------------------


def when_ready(folder: Path, act: Callable[[], None], processes: int = 2) -> threading.Thread:
    """Does something as soon as all processes listen."""

    def wait() -> None:
        limit = time.monotonic() + PATIENCE
        while not all((folder / f"ready-{rank}").exists() for rank in range(processes)):
            if time.monotonic() > limit:
                return
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_reaches_each_once(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    thread = when_ready(tmp_path, lambda: os.kill(os.getpid(), number))
    assert together(tmp_path, "sys.exit(wait_for_a_signal())") == 128 + number
    thread.join()
    assert signal.getsignal(number) == before
    assert [(tmp_path / f"heard-{rank}").read_text() for rank in range(2)] == [f"[{int(number)}]"] * 2


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    program = "signal.signal(signal.SIGINT, signal.SIG_IGN)\n(here / f'ready-{rank}').touch()\nuntil('never')"

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    thread = when_ready(tmp_path, twice)
    with pytest.raises(StoppedError, match=r"^stopped by SIGINT ") as caught:
        together(tmp_path, program)
    thread.join()
    assert caught.value.exit_code == 130


def test_a_signal_before_they_listen_ends_them(tmp_path: Path) -> None:
    """It ends a single process that still loads its libraries in the same way."""
    thread = when_ready(tmp_path, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(StoppedError) as caught:
        together(tmp_path, "(here / f'ready-{rank}').touch()\nuntil('never')")
    thread.join()
    assert caught.value.exit_code == 143


LAUNCHER = """
import sys
from dora_cli.machine.launch import run_together
sys.exit(run_together(sys.argv[1:], 2))
"""


def launcher(folder: Path, program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", LAUNCHER, *command(folder, program)], stdin=subprocess.DEVNULL)


def until(folder: Path, *names: str) -> None:
    limit = time.monotonic() + PATIENCE
    while not all((folder / name).exists() for name in names):
        assert time.monotonic() < limit, names
        time.sleep(0.01)


def test_they_stop_when_the_one_that_started_them_is_killed(tmp_path: Path) -> None:
    program = """
    from dora_cli.machine.launched import beside_others
    with beside_others():
        wait_for_a_signal()
    """
    with launcher(tmp_path, program) as process:
        until(tmp_path, "ready-0", "ready-1")
        process.kill()
        until(tmp_path, "heard-0", "heard-1")
    assert [(tmp_path / f"heard-{rank}").read_text() for rank in range(2)] == [f"[{int(signal.SIGTERM)}]"] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ctrl_z_halts_all_and_they_go_on(tmp_path: Path) -> None:
    program = "(here / f'pid-{rank}').write_text(str(os.getpid()))\n(here / f'ready-{rank}').touch()\nuntil('on')"

    def all_are(halted: bool) -> bool:
        states = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in pids]
        return all((state == "T") is halted for state in states)

    with launcher(tmp_path, program) as process:
        until(tmp_path, "ready-0", "ready-1")
        pids = [process.pid, *((tmp_path / f"pid-{rank}").read_text() for rank in range(2))]
        for number, halted in ((signal.SIGTSTP, True), (signal.SIGCONT, False)):
            process.send_signal(number)
            limit = time.monotonic() + PATIENCE
            while not all_are(halted):
                assert time.monotonic() < limit
                time.sleep(0.01)
        (tmp_path / "on").touch()
        assert process.wait(PATIENCE) == 0


def test_a_job_whose_processes_all_get_the_signal_saves_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reaches a launched process twice at once, from the outside and from the launcher; later, or of another kind,
    it is a second one.
    """
    clock = iter([0.0, 0.5, 1.5])
    monkeypatch.setattr("dora_cli.machine.signals.time.monotonic", lambda: next(clock))
    monkeypatch.setenv(REPORT, "somewhere")
    with StopSignals() as signals:
        signals.patient = True
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert signals.received == signal.SIGTERM
        with pytest.raises(StoppedNow) as caught:
            signal.raise_signal(signal.SIGTERM)
        assert caught.value.again


# What is refused ------------------------------------------------------------------------------------------------------


def test_more_than_there_are_cores_are_refused_but_to_go_on() -> None:
    check_processes(usable_cores(), resume=False, environment={})
    with pytest.raises(OptionError, match=rf"--processes {usable_cores() + 1}, but {usable_cores()} "):
        check_processes(usable_cores() + 1, resume=False, environment={})
    check_processes(usable_cores() + 1, resume=True, environment={})


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK"])
def test_another_launcher_is_left_its_work(name: str) -> None:
    with pytest.raises(DoraError, match=rf"{name}=0 says that a launcher .*leave --processes out"):
        check_processes(1, resume=False, environment={name: "0"})
