"""Lines that stay at the bottom of a terminal, whatever else is written."""

from __future__ import annotations

import io
import logging
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import ClassVar

import pytest
from rich.console import Console
from rich.segment import Segment

from dora_cli.reports.live.marks import Line
from dora_cli.reports.live.screen import PAUSE, Screen
from tests.patience import PATIENCE


class Terminal(io.StringIO):
    """Applies what a screen writes: carriage return, newline, cursor up, erase line, show and hide the cursor."""

    def __init__(self) -> None:
        super().__init__()
        self.lines, self.row, self.cursor = [""], 0, True

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        super().write(text)
        while text:
            if text.startswith("\x1b["):
                end = next(index for index, character in enumerate(text) if character.isalpha())
                self._obey(text[2:end], text[end])
                text = text[end + 1 :]
                continue
            stop = min((place for mark in "\x1b\r\n" if (place := text.find(mark)) >= 0), default=len(text))
            if stop:
                self.lines[self.row] += text[:stop]
            elif text[0] == "\n":
                self.row += 1
                if self.row == len(self.lines):
                    self.lines.append("")
                assert not self.lines[self.row], "a newline goes to an empty line"
                stop = 1
            else:
                stop = 1
            text = text[stop:]
        return 0

    def _obey(self, number: str, letter: str) -> None:
        if letter == "A":
            self.row -= int(number)
            assert self.row >= 0
        elif letter == "K":
            self.lines[self.row] = ""
        elif number == "?25":
            self.cursor = letter == "h"

    @property
    def shown(self) -> list[str]:
        return [line for line in self.lines if line]


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


@pytest.fixture
def picture() -> list[str]:
    return ["one", "two"]


@pytest.fixture
def screen(terminal: Terminal, picture: list[str]) -> Iterator[Screen]:
    def draw(width: int, height: int) -> list[Line]:
        return [[Segment(line)] for line in picture]

    made = Screen(
        Console(file=terminal, force_terminal=True, color_system=None, width=20, height=10), draw, stdout=True
    )
    yield made
    made.stop()


def test_the_lines_stay_below_what_is_printed(screen: Screen, terminal: Terminal, picture: list[str]) -> None:
    screen.start()
    assert (terminal.shown, terminal.cursor) == (["one", "two"], False)
    screen.print("first")
    screen.print("second")
    assert terminal.shown == ["first", "second", "one", "two"]
    picture[:] = ["three"]
    screen.refresh()
    assert terminal.shown == ["first", "second", "three"]
    picture[:] = ["a", "b", "c", "d"]
    screen.refresh()
    assert terminal.shown == ["first", "second", "a", "b", "c", "d"]
    screen.stop()
    assert (terminal.shown, terminal.cursor) == (["first", "second"], True)
    assert terminal.row == 2, "what follows goes on below"


def test_it_draws_by_itself(screen: Screen, terminal: Terminal, picture: list[str]) -> None:
    screen.start()
    picture[:] = ["later"]
    until = time.monotonic() + PATIENCE
    while terminal.shown != ["later"] and time.monotonic() < until:
        time.sleep(0.02)
    assert terminal.shown == ["later"]


@pytest.mark.parametrize(
    ("cpu", "wall", "pause"),
    [
        (0.0, 0.0, PAUSE),
        (0.0004, 0.0004, PAUSE),  # 1/250 of the time would allow ten a second
        (0.02, 0.02, 5.0),  # of which 1/250 of the time is 5 seconds
        (0.0, 2.0, 2.0),  # a slow line: no more than half of the time is spent waiting for it
    ],
)
def test_a_picture_that_takes_long_is_drawn_less_often(
    monkeypatch: pytest.MonkeyPatch, cpu: float, wall: float, pause: float
) -> None:
    """On a clock of its own, which drawing alone moves."""
    now = {"cpu": 0.0, "wall": 0.0}
    clock = SimpleNamespace(perf_counter=lambda: now["wall"], thread_time=lambda: now["cpu"])
    monkeypatch.setattr("dora_cli.reports.live.screen.time", clock)

    def draw(width: int, height: int) -> list[Line]:
        now["cpu"] += cpu
        now["wall"] += wall
        return []

    class Ended(threading.Event):
        pauses: ClassVar[list[float]] = []

        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            self.pauses.append(timeout)
            return len(self.pauses) > 2

    screen = Screen(Console(file=Terminal(), force_terminal=True), draw, stdout=False)
    screen._ended = Ended()
    screen._run()
    assert Ended.pauses == pytest.approx([PAUSE, pause, pause])


def test_what_others_write_appears_above(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    console = Console(stderr=True, force_terminal=True, color_system=None, width=40, height=10)
    screen = Screen(console, lambda width, height: [[Segment("one")], [Segment("two")]], stdout=True)
    logger = logging.getLogger("set up before the view")
    handler = logging.StreamHandler()
    logger.addHandler(handler)
    try:
        screen.start()
        logger.warning("of a logger")
        print("of print")
        print("half, ", end="", file=sys.stderr)
        print("whole", file=sys.stderr)
        thread = threading.Thread(target=print, args=("of a thread",))
        thread.start()
        thread.join()
        for percent in (0, 50, 100):
            sys.stderr.write(f"\rbar {percent}%")
        sys.stderr.write("\n")
        sys.stderr.write("\x1b[2J\x1b[31mred and clearing\x1b[0m\n")
        assert terminal.shown == [
            "of a logger", "of print", "half, whole", "of a thread", "bar 100%",
            "red and clearing", "one", "two",
        ]  # fmt: skip
        sys.stderr.write("no newline")
        screen.stop()
        assert terminal.shown[-1] == "no newline"
        assert sys.stderr is sys.stdout is terminal
        assert handler.stream is terminal
    finally:
        screen.stop()
        logger.removeHandler(handler)


def test_a_narrower_terminal_has_broken_the_lines(terminal: Terminal) -> None:
    """Each line of 30 has become three of 10 at most, the cursor is at the end of the last."""
    console = Console(file=terminal, force_terminal=True, color_system=None, width=40, height=10)
    screen = Screen(console, lambda width, height: [[Segment("x" * min(30, width))]] * 2, stdout=False)
    screen.start()
    console.size = console.size._replace(width=10)
    terminal.lines = ["x" * 10] * 6
    terminal.row = 5
    screen.refresh()
    screen.stop()
    assert terminal.shown == []


def test_the_terminal_may_go_away(terminal: Terminal, screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(text: str) -> int:
        raise OSError(5, "Input/output error")

    screen.start()
    thread = screen._thread
    assert thread is not None
    with monkeypatch.context() as context:
        context.setattr(terminal, "write", gone)
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_stopping_twice_and_without_a_start(screen: Screen, terminal: Terminal) -> None:
    screen.stop()
    assert terminal.getvalue() == ""
    screen.stop()
