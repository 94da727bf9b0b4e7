"""The live view as lines: what a run is at, in as many lines and columns as there are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from rich.color import Color
from rich.segment import Segment
from rich.style import Style

from dora_cli.reports import palette
from dora_cli.reports.curves import RankMap, rank_maps
from dora_cli.reports.live.marks import BOLD, DIM, PLAIN, Glyphs, Line, bar, cut, length, trend
from dora_cli.reports.live.rank_map import rank_lines
from dora_cli.reports.live.state import RunState
from dora_cli.reports.units import duration, number, size, speed
from dora_cli.wording import plural

LABEL = 7
MIN_BAR, MAX_BAR = 10, 100
WIDE = 100
"""Columns from which bars leave room for all that can be said after them."""
TREND = 32
"""Values a trend shows at most."""
LOOK_BACK = 5
"""Logged losses between the two whose difference is said."""

_RUN, _LIVE = Style(color=palette.BUDGET), Style(color=palette.LIVE)


@dataclass(frozen=True)
class _Row:
    """A line of the view: a label, perhaps a bar, and a text.

    Attributes:
        rank: which rows go first where there is little room; 0 stays longest.
        long: added to the text where the line has room for it.
    """

    rank: int
    label: str
    text: str
    long: str = ""
    bar: Callable[[int], Line] | None = None
    trend: Sequence[float | None] = ()


class LiveView:
    """Draws `state`.

    Args:
        colours: whether the terminal shows any.
        shade: the style of a rank by its share of the start rank; by default of a terminal with many colours.
    """

    def __init__(
        self, state: RunState, glyphs: Glyphs, *, colours: bool = True, shade: Callable[[float], Style] | None = None
    ) -> None:
        self.state = state
        self._glyphs = glyphs
        self._colours = colours
        self._shade = shade or shade_of
        self._after_bars = (0, 0)  # cells, for a width
        self._shown: Mapping[str, int] | None = None
        self._maps: tuple[RankMap, ...] = ()
        self._map: tuple[tuple[object, int, int], list[Line]] = ((None, 0, 0), [])

    def lines(self, width: int, height: int) -> list[Line]:
        """At most `height` lines of at most `width` cells."""
        glyphs, rows = self._glyphs, self._rows()
        if height < len(rows) + 1:
            kept = sorted(rows, key=lambda row: row.rank)[: max(height, 1)]
            return self._drawn([row for row in rows if row in kept], width)
        lines = [self._title(width), *self._drawn(rows, width)]
        room = height - len(lines) - 1  # the map's own title
        found = self._map_lines(width, room)
        if found:
            event = self.state.event
            when = f"after the event at step {event:,}" if event is not None else "before the first event"
            if event is None and self.state.run.resumed_step:
                when = "as the run went on"
            if self.state.next_event is None and self.state.step and not self._emerges:
                when = "frozen"
            full = f"{self._maps[0].full_name} {self._maps[0].full}"
            said = "fixed" if self._fixed else f"{when}, {full}"
            lines.append(
                cut(
                    [Segment("ranks".ljust(LABEL + 1), DIM), Segment(said, PLAIN)],
                    width,
                    glyphs,
                )
            )
            lines += found
        return lines

    def _map_lines(self, width: int, height: int) -> list[Line]:
        """Made anew only after an event or a change of size: it is most of the work."""
        ranks = self.state.ranks
        key = (ranks, width, height)
        if self._map[0][0] is not ranks or self._map[0][1:] != (width, height):
            if self._shown is not ranks:
                layers = [{**layer, "rank": ranks.get(layer["name"], layer["rank"])} for layer in self.state.run.layers]
                self._maps, self._shown = rank_maps({"layers": layers}), ranks
            self._map = (
                key,
                rank_lines(self._maps, width, height, shade=self._shade, glyphs=self._glyphs, colours=self._colours),
            )
        return self._map[1]

    # -- lines ---------------------------------------------------------------------------------------------------------

    def _title(self, width: int) -> Line:
        run, rule = self.state.run, self._glyphs.rule
        line: Line = [
            Segment(rule * 2 + " ", DIM),
            Segment(run.task, BOLD),
            Segment(f"  {run.model}  {run.method}, seed {run.seed}  {run.device}, {run.precision} ", PLAIN),
        ]
        return cut([*line, Segment(rule * max(width - length(line), 0), DIM)], width, self._glyphs)

    def _drawn(self, rows: Sequence[_Row], width: int) -> list[Line]:
        """Rows with bars have them end in one place, if there is room for bars at all."""
        glyphs = self._glyphs
        wide = width >= WIDE
        texts = max(
            (len(row.text) + (2 + len(row.long) if wide and row.long else 0) for row in rows if row.bar is not None),
            default=0,
        )
        before, former = self._after_bars  # bars do not change their length with every digit
        self._after_bars = (max(texts, before) if width == former else texts, width)
        room = min(width - LABEL - 1 - 2 - self._after_bars[0], MAX_BAR)
        lines = []
        for row in rows:
            line: Line = [Segment(row.label.ljust(LABEL + 1), DIM)]
            if row.bar is not None and room >= MIN_BAR:
                line += [*row.bar(room), Segment("  ")]
            line.append(Segment(row.text, PLAIN))
            space = width - length(line) - len(row.long) - 4
            values = trend(row.trend, min(TREND, space), glyphs) if space > 2 else ""
            if values:
                line += [Segment("  "), Segment(values, _RUN)]
            if row.long and length(line) + 2 + len(row.long) <= width:
                line.append(Segment(("  " if values or row.bar else ", ") + row.long, PLAIN))
            lines.append(cut(line, width, glyphs))
        return lines

    def _rows(self) -> list[_Row]:
        rows = [
            self._run_row(),
            self._epoch_row(),
            self._phase_row(),
            self._live_row(),
            self._loss_row(),
            self._metric_row(),
        ]
        return [row for row in (*rows, self._speed_row()) if row is not None]

    def _run_row(self) -> _Row:
        state, run = self.state, self.state.run
        marks = [first / run.total_steps for _, first, _ in run.phases[1:]]
        left = state.time_left
        text = f"{state.step:,}/{run.total_steps:,}" + (f"  {duration(left)} left" if left is not None else "")
        return _Row(
            0,
            "run",
            text,
            bar=lambda width: bar(width, state.step / run.total_steps, self._glyphs, marks=marks, style=_RUN),
        )

    def _epoch_row(self) -> _Row:
        state, run = self.state, self.state.run
        first = (state.epoch - 1) * run.steps_per_epoch
        steps = min(run.steps_per_epoch, run.total_steps - first)
        done = max(state.step - first, 0)
        text, share = f"{state.epoch}/{run.epochs}  step {done:,}/{steps:,}", done / steps
        if state.evaluating is not None:
            split, done, total = state.evaluating
            text, share = f"{state.epoch}/{run.epochs}  {split} {done:,}/{total:,}", done / max(total, 1)
        unit = "epoch" if run.clients is None else "round"
        return _Row(
            4,
            unit if state.evaluating is None else "eval",
            text,
            bar=lambda width: bar(width, share, self._glyphs, style=_RUN),
        )

    def _phase_row(self) -> _Row:
        state = self.state
        phase, event = state.phase or "starting", state.next_event
        if self._emerges:
            text = phase if event is None else f"{phase}, ranks counted in {plural(event - state.step, 'step')}"
            return _Row(2, "phase", text)
        if event is None:
            frozen = bool(state.run.events) and state.step > 0
            return _Row(2, "phase", phase, f"ranks frozen since step {state.run.events[-1]:,}" if frozen else "")
        last = state.run.events[-1]
        if event == last:
            return _Row(2, "phase", f"{phase}, freeze in {plural(last - state.step, 'step')}")
        which = "first" if event == state.run.events[0] else "next"
        text = f"{phase}, {which} event in {plural(event - state.step, 'step')}"
        return _Row(2, "phase", text, f"freeze in {last - state.step:,}")

    @property
    def _fixed(self) -> bool:
        """Whether as many components live at the end as at the start."""
        schedule = self.state.run.schedule
        return bool(schedule.get("start_components")) and (schedule["start_components"] == schedule["final_components"])

    @property
    def _emerges(self) -> bool:
        """Whether how many components live at the end is not planned: there is no budget, and no freeze."""
        schedule = self.state.run.schedule
        return bool(schedule.get("start_components")) and schedule.get("final_components") is None

    def _live_row(self) -> _Row | None:
        state = self.state
        start, final = state.run.schedule.get("start_components"), state.run.schedule.get("final_components")
        if not start or state.live is None:
            return None
        live = state.live
        if self._fixed:
            return _Row(3, "live", plural(live, "component"), "")
        if self._emerges:
            return _Row(
                3,
                "live",
                plural(live, "component"),
                f"from {start:,}",
                bar=lambda width: bar(width, live / start, self._glyphs, style=_LIVE),
            )
        most = max(start, final)  # of ranks that grow the end
        return _Row(
            3,
            "live",
            f"{live:,}, budget {state.budget:,}",
            f"from {start:,} to {final:,}",
            bar=lambda width: bar(width, live / most, self._glyphs, marks=[min(start, final) / most], style=_LIVE),
        )

    def _loss_row(self) -> _Row | None:
        losses = self.state.losses
        if not losses:
            return None
        step, loss = losses[-1]
        long = ""
        if len(losses) > 1:
            before, earlier = losses[-min(len(losses), LOOK_BACK + 1)]
            if math.isfinite(loss - earlier):
                long = f"{loss - earlier:+.4f} in {plural(step - before, 'step')}"
        return _Row(1, "loss", number(loss), long, trend=[value for _, value in losses])

    def _metric_row(self) -> _Row | None:
        state = self.state
        if not state.metrics:
            return None
        name = state.metrics[-1].primary
        values = [log.metrics.get(name) for log in state.metrics]
        long = []
        if len(values) > 1 and values[-1] is not None and values[-2] is not None:
            long.append(f"{values[-1] - values[-2]:+.4f}")
        if state.best is not None:
            long.append(f"best {number(state.best.metrics.get(name))} in epoch {state.best.epoch}")
        return _Row(1, "metric", f"{name} {number(values[-1])}", ", ".join(long), trend=values)

    def _speed_row(self) -> _Row | None:
        log = self.state.log
        if log is None:
            return None
        text = f"{speed(log.steps_per_second)} steps/s, peak memory {size(log.memory_bytes)}"
        return _Row(
            5, "speed", text, f"{speed(log.samples_per_second)} samples/s, {duration(self.state.elapsed)} so far"
        )


@lru_cache(maxsize=256)
def shade_of(share: float) -> Style:
    """The style of a rank that is `share` of its start rank, in a terminal with many colours."""
    background = palette.shade(share)
    return Style(color=Color.parse(palette.ink(background)), bgcolor=Color.parse(background))
