"""Lines that stay at the bottom of a terminal while others are printed above them.

Not rich's `Live`: that one draws as often as it is told, whatever that costs, loses its place when the terminal gets
narrower, and lets loggers that were set up before write into the picture.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.control import Control
from rich.segment import ControlType, Segment
from rich.text import Text

from dora_cli.reports.live.marks import Line, length

PAUSE = 1 / 8
"""Seconds between two pictures at least."""
SHARE = 1 / 250
"""Share of this process's time that pictures may take at most: where one takes long, they are drawn less often."""


class Screen:
    """Keeps the lines that `draw` makes below all other output, from `start` to `stop`.

    What is written to stderr (and stdout, if it is this terminal too) meanwhile, by warnings, loggers and libraries,
    appears above them.

    Args:
        draw: makes the lines for a width and a height in cells; called in a thread of its own.
        stdout: whether stdout is this terminal as well.
    """

    def __init__(self, console: Console, draw: Callable[[int, int], list[Line]], *, stdout: bool) -> None:
        self._console = console
        self._lines = draw
        self._stdout = stdout
        self._lock = threading.RLock()
        self._widths: list[int] = []  # of the lines that are on the terminal now
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._undo = ExitStack()

    def start(self) -> None:
        """Hides the cursor and draws for the first time."""
        self._console.show_cursor(False)
        self._undo.callback(self._console.show_cursor, True)
        self._redirect("stderr")
        if self._stdout:
            self._redirect("stdout")
        self.refresh()
        self._thread = threading.Thread(target=self._run, name="dora-view", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Takes the lines away and gives the terminal back as it was; a second call does nothing."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with self._lock:
            self._put((), [])
            self._undo.close()

    def print(self, *above: RenderableType) -> None:
        """Prints above the lines."""
        self._put(above, None)

    def refresh(self) -> None:
        """Draws the lines as they are now."""
        self._put((), None)

    def _run(self) -> None:
        pause = PAUSE
        while not self._ended.wait(pause):
            wall, cpu = time.perf_counter(), time.thread_time()
            try:
                self.refresh()
            except (OSError, ValueError):  # the terminal has gone; the run goes on
                return
            # waiting for a slow line (ssh) hinders nobody, but should not be all this thread does
            pause = max(PAUSE, (time.thread_time() - cpu) / SHARE, time.perf_counter() - wall)

    def _put(self, above: tuple[RenderableType, ...], lines: list[Line] | None) -> None:
        """Replaces the lines by `above` and `lines`, drawn anew if None, in one write."""
        with self._lock:
            width, height = self._console.size
            if lines is None:
                # one column is left free: a full line would move the cursor on in some terminals and not in others
                lines = [] if self._ended.is_set() else self._lines(width - 1, max(height - 3, 1))
            with self._console:
                self._console.control(self._erase(width))
                for renderable in above:
                    self._console.print(renderable)
                self._console.print(_Picture(lines), end="", crop=False)
            self._widths = [length(line) for line in lines]

    def _erase(self, width: int) -> Control:
        """Takes the lines away; a terminal that got narrower has broken each into several."""
        if not self._widths:
            return Control()
        rows = sum(max(-(-cells // max(width, 1)), 1) for cells in self._widths)
        up = ((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)) * (rows - 1)
        return Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2), *up)

    # -- what others write ---------------------------------------------------------------------------------------------

    def _redirect(self, name: str) -> None:
        """Takes over ``sys.stderr`` or ``sys.stdout``, also where loggers hold on to it."""
        former: TextIO = getattr(sys, name)
        above = _Above(former, self.print)
        stand_in = cast("TextIO", above)
        setattr(sys, name, stand_in)
        self._undo.callback(setattr, sys, name, former)
        for handler in _stream_handlers():
            if handler.stream is former:
                handler.stream = stand_in  # not setStream(): that flushes, which some libraries have replaced
                self._undo.callback(setattr, handler, "stream", former)
        self._undo.callback(above.end)


def _stream_handlers() -> Iterator[logging.StreamHandler[TextIO]]:
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    for logger in loggers:
        for handler in getattr(logger, "handlers", ()):  # a placeholder has none
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                yield handler


class _Picture:
    """Lines without a newline after the last."""

    def __init__(self, lines: list[Line]) -> None:
        self._lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for index, line in enumerate(self._lines):
            if index:
                yield Segment.line()
            yield from line


class _Above(io.TextIOBase):
    """A stand-in for a stream: every line written to it is printed above the picture."""

    def __init__(self, stream: TextIO, show: Callable[[RenderableType], None]) -> None:
        self._stream = stream
        self._show = show
        self._rest = ""

    @property
    def rich_proxied_file(self) -> TextIO:
        """Where rich writes to, whose consoles look `sys.stderr` up each time."""
        return self._stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        if lines:
            self._show(Text("\n").join(_shown(line) for line in lines))
        return len(text)

    def end(self) -> None:
        """What was written without a newline is not lost."""
        if self._rest:
            self._show(_shown(self._rest))
            self._rest = ""

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


def _shown(line: str) -> Text:
    """A line with its colours, but without what moves the cursor; of a bar that redraws itself only what it showed
    last.
    """
    return Text.from_ansi(line.rstrip("\r").rsplit("\r", 1)[-1])
