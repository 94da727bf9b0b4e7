"""The progress of an experiment: every run in a line or in the live view, and how long it still takes."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

import dora_cli.reports.compare.progress as module
from dora_cli.reports.compare.progress import CompareProgress, State, make_compare_progress
from dora_cli.reports.live.marks import Line


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeScreen:
    """Takes what a terminal would show."""

    made: list[FakeScreen]

    def __init__(self, console: Console, draw: Callable[[int, int], list[Line]], *, stdout: bool) -> None:
        self.draw, self.said, self.stops = draw, [], 0  # type: ignore[var-annotated]
        assert not stdout, "it is none here: what others print there is not taken"
        self.made.append(self)

    def start(self) -> None: ...

    def stop(self) -> None:
        self.stops += 1

    def print(self, text: Any) -> None:
        self.said.append(str(text))


@pytest.fixture
def screens(monkeypatch: pytest.MonkeyPatch) -> list[FakeScreen]:
    monkeypatch.setattr(FakeScreen, "made", [], raising=False)
    monkeypatch.setattr(module, "Screen", FakeScreen)
    return FakeScreen.made


def plain(clock: Clock | None = None, *, quiet: bool = False) -> tuple[CompareProgress, io.StringIO]:
    file = io.StringIO()
    console = Console(file=file, width=80, highlight=False)
    return CompareProgress(console, live=False, quiet=quiet, clock=clock or Clock()), file


def drive(progress: CompareProgress, clock: Clock) -> None:
    progress.planned(4, "2 of 6 are made")
    progress.stage("lora on rte", "tunes")
    progress.started("a")
    clock.now += 10
    progress.finished("a", "finished", 0.61234, 10.0)
    progress.total(5)
    progress.started("b")
    clock.now += 20
    progress.finished("b", "diverged", None, 20.0)
    progress.note("a grid has grown\nby one value")
    progress.close()


def test_a_line_for_each_thing_without_a_terminal() -> None:
    clock = Clock()
    progress, file = plain(clock)
    drive(progress, clock)
    assert file.getvalue().splitlines() == [
        "4 runs planned: 2 of 6 are made",
        "lora on rte: tunes",
        "1/4 a: finished score 0.6123 in 10s, about 30s left",
        "5 runs planned now, 1 more",
        "2/5 b: diverged in 20s, about 45s left",
        "note: a grid has grown",
        "  by one value",
    ]


def test_quiet_is_notes_alone() -> None:
    clock = Clock()
    progress, file = plain(clock, quiet=True)
    drive(progress, clock)
    assert file.getvalue().splitlines() == ["note: a grid has grown", "  by one value"]


def test_runs_of_an_earlier_start_count_as_done() -> None:
    progress, file = plain()
    progress.planned(9)
    progress.kept(4)
    progress.finished("a", "finished", None, 10.0)
    assert file.getvalue().splitlines()[-1] == "5/9 a: finished in 10s, about 40s left"


def test_fewer_runs_are_said_once() -> None:
    progress, file = plain()
    progress.planned(9)
    progress.total(6)
    progress.total(6)
    assert file.getvalue().splitlines() == ["9 runs planned", "6 runs planned now, 3 fewer"]


def test_the_time_left() -> None:
    """Runs that are left, less what those that go on have behind them, by as many as go on at once."""
    assert State(total=10).left(0) is None, "before one has ended nothing is known"
    state = State(total=10, done=4, seconds=(8.0, 12.0), running={"x": 96.0, "y": 97.0}, together=2)
    assert state.left(100.0) == pytest.approx((6 * 10 - 4 - 3) / 2)
    # between the end of one run and the start of the next there are no fewer workers
    assert State(total=10, done=4, seconds=(10.0,), running={"x": 100.0}, together=2).left(100.0) == 30.0
    # a run that takes longer than others does not make the rest shorter
    assert State(total=3, done=1, seconds=(10.0,), running={"x": 0.0}).left(100.0) == 10.0
    assert State(total=2, done=2, seconds=(10.0,)).left(100.0) == 0.0


def test_first_runs_that_load_and_compile_are_forgotten() -> None:
    clock = Clock()
    progress, file = plain(clock)
    progress.planned(100)
    progress.finished("first", "finished", None, 1000.0)
    for run in range(20):
        progress.finished(f"{run}", "finished", None, 1.0)
    assert file.getvalue().splitlines()[-1].endswith("about 1m19s left")


def test_runs_end_in_any_thread() -> None:
    progress, file = plain()
    progress.planned(200)

    def work(worker: int) -> None:
        for run in range(25):
            progress.started(f"{worker}-{run}")
            progress.finished(f"{worker}-{run}", "finished", 0.5, 1.0)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(" finished score 0.5000 in " in line for line in file.getvalue().splitlines()) == 200
    progress.finished("one more", "finished", None, 1.0)
    assert file.getvalue().splitlines()[-1].startswith("201/200 ")


@pytest.mark.parametrize("width", [20, 60, 140])
@pytest.mark.parametrize("height", [1, 3, 8, 30])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_live_view(width: int, height: int, encoding: str, screens: list[FakeScreen]) -> None:
    clock = Clock()
    buffer = io.BytesIO()
    file = io.TextIOWrapper(buffer, encoding=encoding, write_through=True)
    progress = CompareProgress(Console(file=file, width=width, force_terminal=True), live=True, clock=clock)
    progress.planned(20, "")
    (screen,) = screens
    progress.stage("lora on rte", "tunes")
    for run in range(9):
        progress.started(f"running-{run}")
    for run in range(3):
        progress.started(f"done-{run}")
        progress.finished(f"done-{run}", "finished", 0.5 + run / 10, 10.0)
    clock.now += 5
    lines = ["".join(segment.text for segment in line) for line in screen.draw(width, height)]
    assert 1 <= len(lines) <= height
    assert all(len(line) <= width for line in lines)
    "\n".join(lines).encode(encoding)
    assert lines[0].startswith("runs ")
    if width >= 60:
        # 17 runs of 10 s, of which 9 have 5 s behind them, by the ten that went on at once
        assert "3/20  12s left  5.0s so far" in lines[0]
    if height == 30 and width >= 60:
        text = "\n".join(lines)
        assert all(f"running-{run}  5.0s" in text for run in range(9))
        assert "lora on rte tunes" in text
        assert "done-2  0.7000  10s" in text
    if height == 8 and width >= 60:
        assert lines[-1].split() == ["and", "3", "more"]


def test_the_view_is_put_away_and_says_what_was_done(screens: list[FakeScreen]) -> None:
    clock, file = Clock(), io.StringIO()
    progress = CompareProgress(Console(file=file, width=80, force_terminal=True), live=True, clock=clock)
    drive(progress, clock)
    progress.close()
    (screen,) = screens
    assert screen.stops == 1
    assert screen.said[0] == "2/5 b: diverged in 20s, about 45s left", "what went well is in the view alone"
    assert file.getvalue().splitlines()[-1] == "2 of 5 runs done, 1 run not well, 30s"


def test_no_view_without_a_terminal(screens: list[FakeScreen]) -> None:
    file = io.StringIO()
    progress = make_compare_progress(Console(file=file, force_terminal=True))
    progress.planned(1)
    make_compare_progress(Console(file=file, force_terminal=True), plain=False, quiet=True).planned(1)
    assert screens == []
    assert file.getvalue().splitlines() == ["\x1b[1m1 run planned\x1b[0m"]
