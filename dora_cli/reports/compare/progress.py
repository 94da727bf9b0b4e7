"""How far an experiment of many runs is: a live view in a terminal, a line for each run elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from dora_cli.printable import indented
from dora_cli.reports import palette
from dora_cli.reports.console import make_console
from dora_cli.reports.live.marks import ASCII, BOLD, DIM, PLAIN, UNICODE, Glyphs, Line, bar, cut, length
from dora_cli.reports.live.screen import Screen
from dora_cli.reports.progress import redraws
from dora_cli.reports.stderr import LastingStderr
from dora_cli.reports.units import duration, number
from dora_cli.wording import plural

if TYPE_CHECKING:
    from typing import TextIO

RECENT = 20
"""Runs whose seconds say how long the next ones take: the first ones load and compile what later ones find."""
LABEL = 8
MIN_BAR, MAX_BAR = 10, 60
KEPT = 5
"""Runs that have ended and are still shown."""
WELL = "finished"
"""The outcome that is not said where the view shows it."""

_DONE, _ODD = Style(color=palette.BUDGET), Style(color=palette.LIVE)


def make_compare_progress(
    console: Console | None = None, *, plain: bool | None = None, quiet: bool = False
) -> CompareProgress:
    """A listener to an experiment for people.

    Args:
        console: where it goes; stderr by default.
        plain: lines instead of the live view; by default wherever `console` is not a terminal that can redraw, and
            under CI.
        quiet: notes alone.
    """
    if console is None:
        file: TextIO = LastingStderr()  # type: ignore[assignment]
        console = make_console(file)
    if plain is None:
        plain = not redraws(console)
    return CompareProgress(console, live=not plain and not quiet, quiet=quiet)


@dataclass(frozen=True)
class State:
    """What is known of an experiment while it goes on; replaced as a whole, never changed.

    Attributes:
        total: runs there will be, as far as is known now.
        done: runs that have ended, those of an earlier start included.
        stages: what each cell that is at work does, the latest last.
        running: runs that go on, and when each began.
        seconds: of the latest runs that have ended.
        ended: the latest runs that have ended: name, outcome, score, seconds.
        together: how many went on when the latest one ended, that one included.
        odd: how many did not end well.
    """

    total: int = 0
    done: int = 0
    stages: Mapping[str, str] | None = None
    running: Mapping[str, float] | None = None
    seconds: tuple[float, ...] = ()
    ended: tuple[tuple[str, str, float | None, float], ...] = ()
    together: int = 1
    odd: int = 0

    def left(self, now: float) -> float | None:
        """Seconds until all is done, if runs take as long as the latest ones, and as many go on at once as did then;
        None before one has ended.
        """
        if not self.seconds:
            return None
        mean = sum(self.seconds) / len(self.seconds)
        running = self.running or {}
        begun = sum(min(now - since, mean) for since in running.values())
        return max((self.total - self.done) * mean - begun, 0.0) / max(self.together, len(running))


class CompareProgress:
    """Shows an experiment while it goes on. Its methods may be called from any thread."""

    def __init__(
        self, console: Console, *, live: bool, quiet: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._live = live
        self._quiet = quiet
        self._clock = clock
        self._lock = threading.Lock()
        self._state = State()
        self._began = clock()
        self._screen: Screen | None = None

    def planned(self, total_runs: int, note: str = "") -> None:
        """How many runs there are to be made, and what is to be said of that; shows the live view."""
        self._update(lambda state: replace(state, total=total_runs))
        self._say(f"{plural(total_runs, 'run')} planned" + (f": {indented(note)}" if note else ""), "bold")
        if self._live and self._screen is None:
            glyphs = UNICODE if self._console.encoding.startswith("utf") else ASCII
            view = _View(lambda: self._state, glyphs, self._clock)
            # what others print to stdout belongs above the view, but must not be taken out of a pipe
            self._screen = Screen(self._console, view.lines, stdout=make_console().is_terminal)
            self._screen.start()

    def stage(self, cell_name: str, what: str) -> None:
        """What one method on one task does now: ``tunes``, ``measures``."""

        def moved(state: State) -> State:
            others = {name: done for name, done in (state.stages or {}).items() if name != cell_name}
            return replace(state, stages={**others, cell_name: what})

        self._update(moved)
        if not self._live:
            self._say(f"{cell_name}: {what}")

    def started(self, run_name: str) -> None:
        """A run goes on from now."""
        now = self._clock()
        self._update(lambda state: replace(state, running={**(state.running or {}), run_name: now}))

    def finished(self, run_name: str, outcome: str, score: float | None, seconds: float) -> None:
        """A run has ended."""

        def ended(state: State) -> State:
            running = {name: since for name, since in (state.running or {}).items() if name != run_name}
            one = (run_name, outcome, score, seconds)
            return replace(
                state,
                done=state.done + 1,
                running=running,
                together=max(len(state.running or {}), 1),
                seconds=(*state.seconds[1 - RECENT :], seconds),
                ended=(*state.ended[1 - KEPT :], one),
                odd=state.odd + (outcome != WELL),
            )

        state = self._update(ended)
        left = state.left(self._clock())
        if self._live and outcome == WELL:
            return
        self._say(_ended_line(state, run_name, outcome, score, seconds, left), "yellow" if outcome != WELL else "")

    def kept(self, runs: int) -> None:
        """So many runs of an earlier start are taken as they are."""
        self._update(lambda state: replace(state, done=state.done + runs))
        if not self._live:
            self._say(f"{plural(runs, 'finished run')} found")

    def total(self, runs: int) -> None:
        """How many runs there are now: a grid has grown, or halving has dropped some."""
        before = self._state.total
        self._update(lambda state: replace(state, total=runs))
        if not self._live and runs != before:
            self._say(
                f"{plural(runs, 'run')} planned now, {abs(runs - before):,} {'more' if runs > before else 'fewer'}"
            )

    def note(self, text: str) -> None:
        """A line of its own, also where all else is quiet."""
        self._print(f"note: {indented(text)}", "yellow")

    def close(self) -> None:
        """Gives the terminal back and says how many runs took how long; a second call does nothing."""
        screen, self._screen = self._screen, None
        if screen is not None:
            screen.stop()
            state = self._state
            odd = f", {plural(state.odd, 'run')} not well" if state.odd else ""
            done = f"{state.done:,} of {plural(state.total, 'run')} done{odd}"
            self._print(f"{done}, {duration(self._clock() - self._began)}", "")

    def _update(self, change: Callable[[State], State]) -> State:
        with self._lock:
            self._state = change(self._state)
            return self._state

    def _say(self, line: str, style: str = "") -> None:
        if not self._quiet:
            self._print(line, style)

    def _print(self, line: str, style: str) -> None:
        if self._screen is not None:
            self._screen.print(Text(line, style=style))
        else:
            self._console.print(Text(line, style=style), soft_wrap=not self._live)  # a line in a file stays one line


def _ended_line(state: State, name: str, outcome: str, score: float | None, seconds: float, left: float | None) -> str:
    scored = f" score {number(score)}" if score is not None else ""
    rest = f", about {duration(left)} left" if left is not None and state.done < state.total else ""
    return f"{state.done}/{state.total} {name}: {outcome}{scored} in {duration(seconds)}{rest}"


class _View:
    """Draws the state: how many runs are done, what is at work, what goes on, what ended last."""

    def __init__(self, state: Callable[[], State], glyphs: Glyphs, clock: Callable[[], float]) -> None:
        self._state = state
        self._glyphs = glyphs
        self._clock = clock
        self._began = clock()

    def lines(self, width: int, height: int) -> list[Line]:
        """At most `height` lines of at most `width` cells; those that matter least go first."""
        state, now = self._state(), self._clock()
        first = self._runs(state, now, width)
        rows = [first]
        running = list((state.running or {}).items())
        room = max(height - 1, 0)
        shown = running[: max(room - (len(running) > room), 0)]
        for index, (name, since) in enumerate(shown):
            label = "running" if index == 0 else ""
            rows.append(self._row(label, [Segment(name), Segment(f"  {duration(now - since)}", DIM)]))
        if len(shown) < len(running) and room:
            rows.append(self._row("", [Segment(f"and {len(running) - len(shown):,} more", DIM)]))
        stages = list((state.stages or {}).items())[-2:]
        rest = [self._row("stage" if i == 0 else "", [Segment(f"{name} "), Segment(what, DIM)])
                for i, (name, what) in enumerate(stages)]  # fmt: skip
        for index, one in enumerate(reversed(state.ended)):
            rest.append(self._row("done" if index == 0 else "", _outcome(*one)))
        rows += rest[: max(height - len(rows), 0)]
        return [cut(row, width, self._glyphs) for row in rows]

    def _row(self, label: str, parts: Line) -> Line:
        return [Segment(label.ljust(LABEL + 1), DIM), *parts]

    def _runs(self, state: State, now: float, width: int) -> Line:
        left = state.left(now)
        text = f"{state.done:,}/{state.total:,}"
        text += f"  {duration(left)} left" if left is not None else ""
        tail = [Segment(text, BOLD), Segment(f"  {duration(now - self._began)} so far", DIM)]
        tail += [Segment(f"  {state.odd:,} not well", _ODD)] if state.odd else []
        room = min(width - LABEL - 3 - length(tail), MAX_BAR)
        share = state.done / state.total if state.total else 0.0
        drawn = [*bar(room, share, self._glyphs, style=_DONE), Segment("  ", PLAIN)] if room >= MIN_BAR else []
        return self._row("runs", [*drawn, *tail])


def _outcome(name: str, outcome: str, score: float | None, seconds: float) -> Line:
    said = f"  {number(score)}" if score is not None else ""
    return [
        Segment(name),
        Segment(said, BOLD),
        Segment(f"  {outcome}" if outcome != WELL else "", _ODD),
        Segment(f"  {duration(seconds)}", DIM),
    ]
