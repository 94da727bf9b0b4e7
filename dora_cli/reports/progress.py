"""What a run shows while it goes on: a live view in a terminal, one-line records elsewhere.

Progress and notes go to stderr, results (the rank table and the summary) to stdout, so that results can be piped on
their own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.style import Style
from rich.text import Text

from dora_cli.printable import indented
from dora_cli.reports.baseline import baseline_note
from dora_cli.reports.console import make_console
from dora_cli.reports.grid import heat
from dora_cli.reports.live.marks import ASCII, UNICODE
from dora_cli.reports.live.screen import Screen
from dora_cli.reports.live.state import RunState
from dora_cli.reports.live.view import LiveView
from dora_cli.reports.ranks.table import grid_lines, render
from dora_cli.reports.rounds import print_rounds, round_line
from dora_cli.reports.stderr import LastingStderr
from dora_cli.reports.summary import print_run
from dora_cli.reports.units import duration, number, size, speed
from dora_cli.wording import plural

if TYPE_CHECKING:  # training imports reports, not the other way round
    from dora_cli.training.listener import EvalLog, Listener, RunStart, StepLog

GRID_LINES = 24  # a longer rank table would push the summary off the screen; `dora ranks` shows it whole


def make_listener(
    console: Console | None = None,
    plain: bool | None = None,
    *,
    results: Console | None = None,
    brief: bool = False,
    quiet: bool = False,
) -> Listener:
    """A listener for people.

    Args:
        console: where progress and notes go; stderr by default.
        plain: one-line records instead of the live view; by default wherever `console` is not a terminal that can
            redraw, and under CI.
        results: where the rank table and the summary go; stdout by default.
        brief: end with one line instead of the tables, for a run among several.
        quiet: notes alone, neither progress nor results.
    """
    console = console or make_console(LastingStderr())  # type: ignore[arg-type]
    if quiet:
        return QuietListener(console)
    if plain is None:
        plain = not redraws(console)
    return RunListener(console, results or make_console(), live=not plain, brief=brief)


def redraws(console: Console) -> bool:
    """Whether `console` is a terminal that can redraw, with somebody before it: not under CI."""
    return not (_under_ci() or console.legacy_windows) and console.is_interactive and _is_a_tty(console)


def _is_a_tty(console: Console) -> bool:
    """Whether the file itself is a terminal: FORCE_COLOR makes rich take a pipe for one, and a redrawn view would flood
    it.
    """
    try:
        return console.file.isatty()
    except (AttributeError, ValueError):
        return False


def _under_ci() -> bool:
    """Some of them give a terminal to programs whose output goes to a file."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


class QuietListener:
    """Says what a reader must know and nothing else."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def note(self, message: str) -> None:
        """A line on stderr."""
        self._console.print(Text(f"note: {indented(message)}", style="yellow"), soft_wrap=True)

    def start(self, start: RunStart) -> None: ...

    def tick(self, step: int, phase: str, budget: int) -> None: ...

    def logged(self, log: StepLog) -> None: ...

    def event(self, step: int, phase: str, live: int, frozen: bool, ranks: Mapping[str, int]) -> None: ...

    def evaluating(self, split: str, done: int, total: int) -> None: ...

    def evaluated(self, log: EvalLog) -> None: ...

    def round_ended(self, record: Mapping[str, Any]) -> None: ...

    def finish(self, metrics: Mapping[str, Any], ranks: Mapping[str, Any], output: Path) -> None:
        if odd := baseline_note(metrics):
            self.note(odd)

    def close(self) -> None: ...


class RunListener:
    """Shows one run. See `dora_cli.training.listener.Listener` for what each method is told."""

    def __init__(self, console: Console, results: Console, *, live: bool, brief: bool = False) -> None:
        self._console = console
        self._results = results
        self._live = live
        self._brief = brief
        self._screen: Screen | None = None
        self._state: RunState | None = None
        self._primary: str | None = None
        self._seen_event = False

    def start(self, start: RunStart) -> None:
        """Says what the run is and shows the live view."""
        for index, line in enumerate(_start_lines(start)):
            self._say(line, "bold" if index == 0 else "")
        self._state = RunState(start)
        self._seen_event = any(step <= start.resumed_step for step in start.events[:1])
        if self._live:
            glyphs = UNICODE if self._console.encoding.startswith("utf") else ASCII
            colours = self._console.color_system is not None and not self._console.no_color
            view = LiveView(self._state, glyphs, colours=colours, shade=_shade(self._console))
            # what others print to stdout belongs above the view, but must not be taken out of a pipe
            self._screen = Screen(self._console, view.lines, stdout=self._results.is_terminal)
            self._screen.start()

    def tick(self, step: int, phase: str, budget: int) -> None:
        """Only remembers: the view is drawn a few times a second by its own thread."""
        if self._state is not None:
            self._state.tick(step, phase, budget)

    def logged(self, log: StepLog) -> None:
        """The latest loss and speed: in the view, or as a line."""
        if self._state is None:
            return
        self._state.logged(log)
        if not self._live:
            self._say(_step_line(self._state, log))

    def event(self, step: int, phase: str, live: int, frozen: bool, ranks: Mapping[str, int]) -> None:
        """Says the first event and the freeze; those between are hundreds, and in the view."""
        if self._state is not None:
            self._state.selected(step, live, ranks)
        if frozen:
            self._say(f"step {step}: ranks frozen, {plural(live, 'component')} live")
        elif not self._seen_event:
            schedule = {} if self._state is None else self._state.run.schedule
            part = schedule.get("link", "link")
            what = f"first {part} tied, the next begins" if schedule.get("links") else "first pruning event"
            self._say(f"step {step}: {what}, {plural(live, 'component')} live")
        self._seen_event = True

    def evaluating(self, split: str, done: int, total: int) -> None:
        """Shown in the view; as lines it would only be noise."""
        if self._state is not None:
            self._state.evaluating = (split, done, total)

    def evaluated(self, log: EvalLog) -> None:
        """One line per evaluation."""
        self._primary = log.primary
        epochs = ""
        if self._state is not None:
            self._state.evaluated(log)
            epochs = f"/{self._state.run.epochs}"
        self._say(_evaluation_line(log, epochs))

    def round_ended(self, record: Mapping[str, Any]) -> None:
        """One line per round of federated training."""
        self._say(round_line(record, None if self._state is None else self._state.run.epochs))

    def note(self, message: str) -> None:
        """A line on stderr."""
        self._say(f"note: {indented(message)}", "yellow")

    def finish(self, metrics: Mapping[str, Any], ranks: Mapping[str, Any], output: Path) -> None:
        """Takes the view away and prints the results."""
        self.close()
        if odd := baseline_note(metrics):
            self.note(odd)
        primary = self._primary
        if self._brief:
            name = primary if primary in metrics["metrics"] else next(iter(metrics["metrics"]))
            self._say(
                f"seed {metrics['seed']}: {name} {number(metrics['metrics'][name])}, last "
                f"{number(metrics['last'].get(name))}, in {output}"
            )
            return
        self._results.print()
        if ranks["layers"]:
            self._results.print(Text("Ranks", style="bold"))
            render(ranks, self._results, grid=grid_lines(ranks, self._results.width) <= GRID_LINES)
            self._results.print()
        if metrics.get("rounds"):
            print_rounds(self._results, metrics["rounds"], metrics.get("clients") or (), primary=primary)
            self._results.print()
        print_run(self._results, metrics, output, primary=primary)

    def close(self) -> None:
        """Gives the terminal back; a second call does nothing."""
        if self._screen is not None:
            screen, self._screen = self._screen, None
            screen.stop()

    def _say(self, line: str, style: str = "") -> None:
        if self._screen is not None:
            self._screen.print(Text(line, style=style))
        else:
            self._console.print(Text(line, style=style), soft_wrap=not self._live)  # a line in a file stays one line


def _shade(console: Console) -> Callable[[float], Style] | None:
    """Shades for terminals with 16 colours, which have no row of blues; None elsewhere."""
    if console.color_system not in ("standard", "windows"):
        return None
    levels = [console.get_style(style) for style in heat(console)[1:]]
    return lambda share: levels[min(max(int(share * len(levels) + 0.999) - 1, 0), len(levels) - 1)]


def _start_lines(start: RunStart) -> list[str]:
    threads = f", {plural(start.threads, 'thread')}" if start.threads is not None and start.device == "cpu" else ""
    real = "" if start.real_tokens is None else f", {start.real_tokens:.0%} of the computed tokens real"
    lines = [
        (
            f"{start.task}, {start.model}, {start.method}, seed {start.seed}, on {start.device}, "
            f"{start.precision}{threads}"
        ),
        (
            f"{plural(start.total_steps, 'step')}: {plural(start.epochs, 'epoch')} of {start.steps_per_epoch:,}, "
            f"global batch {start.global_batch}{real}"
            if start.clients is None
            else f"{plural(start.total_steps, 'step')} of a client: {plural(start.epochs, 'round')} of "
            f"{start.steps_per_epoch:,}, {plural(start.clients, 'client')}, batch {start.global_batch} of each"
        ),
    ]
    begin, final = start.schedule.get("start_components"), start.schedule.get("final_components")
    if begin:
        components = f"{begin:,} -> {final:,} components" if final not in (begin, None) else plural(begin, "component")
        adapted = f"{plural(start.projections, 'projection')}, {components}"
        freeze = start.schedule.get("freeze_step")
        lines.append(adapted + (f", ranks frozen after step {freeze:,}" if freeze else ""))
    lines.append(
        f"{plural(start.trainable_parameters, 'trainable parameter')}, {start.head_parameters:,} of them in the head"
    )
    if start.resumed_step:
        lines.append(f"going on after step {start.resumed_step:,}")
    return lines


def _step_line(state: RunState, log: StepLog) -> str:
    run = state.run
    parts = [f"step {log.step}/{run.total_steps}", f"epoch {log.epoch}/{run.epochs}", log.phase]
    # ranks that stay as they are would be the same words in every line
    start, final = run.schedule.get("start_components"), run.schedule.get("final_components")
    if final is None and start:
        parts.append(f"live {log.live_components}")
    elif start != final:
        parts.append(
            f"budget {log.budget}" + (f" live {log.live_components}" if log.live_components != log.budget else "")
        )
    parts.append(f"loss {number(log.loss)}")
    if log.regulariser is not None:
        parts.append(f"regulariser {number(log.regulariser)}")
    parts += [
        f"grad_norm {log.grad_norm:.3g}",
        f"lr {log.learning_rate:.3g}",
        f"{speed(log.steps_per_second)} steps/s",
        f"eta {duration(state.time_left)}",
    ]
    if log.memory_bytes is not None:
        parts.append(f"memory {size(log.memory_bytes)}")
    return " ".join(parts)


def _evaluation_line(log: EvalLog, epochs: str) -> str:
    names = sorted(log.metrics, key=lambda name: name != log.primary)
    values = " ".join(f"{name} {number(log.metrics[name])}" for name in names)
    return f"epoch {log.epoch}{epochs} step {log.step} {log.phase} train loss {number(log.train_loss)} {values}" + (
        " (best)" if log.best else ""
    )
