"""Budget and live components over steps as a chart of characters: ``dora ranks --history``."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from dora_cli.reports import palette
from dora_cli.reports.curves import BudgetCurve, Phase
from dora_cli.wording import plural

HEIGHT = 10
WIDEST = 100
LOWER = " \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"


def history(curve: BudgetCurve, unit: str = "component") -> list[RenderableType]:
    """The chart and the phases below it, from top to bottom."""
    last = curve.steps[-1]
    parts: list[RenderableType] = [Text(f"Live {unit}s over steps"), HistoryChart(curve), Text("")]
    width = max((len(name) for name, _, _ in curve.phases), default=0)
    for name, first, end in curve.phases:
        line = f"{name:<{width}}  steps {first:,} to {end:,}"
        inside = [step for step in curve.events if first <= step <= end]
        if inside:
            line += f", {plural(len(inside), 'event')}"
        if curve.freeze is not None and first <= curve.freeze <= end:
            line += f", freeze after step {curve.freeze:,}"
        parts.append(Text(line))
    parts += [Text(f"step {step:,}: {remark}") for step, remark in curve.remarks.items()]
    numbers = f"{curve.live[0]:,} -> {curve.live[-1]:,} {unit}s in {plural(last, 'step')}"
    if curve.constant:
        numbers = f"{curve.live[0]:,} {unit}s through {plural(last, 'step')}"
    if curve.live[-1] != curve.budget[-1]:
        numbers += f"; the budget is {curve.budget[-1]:,}"
    return [*parts, Text(numbers)]


class HistoryChart:
    """Live components as an area from 0 up, the budget as a line where it is another number."""

    def __init__(self, curve: BudgetCurve) -> None:
        self.curve = curve

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        curve, ascii_only = self.curve, options.ascii_only
        top = max(*curve.budget, *curve.live)
        labels = {HEIGHT - 1: f"{top:,}", 0: "0"}
        final = min(round(curve.live[-1] / top * HEIGHT), HEIGHT) - 1
        if 0 < final < HEIGHT - 1:
            labels[final] = f"{curve.live[-1]:,}"
        label_width = max(map(len, labels.values()))
        width = max(min(options.max_width, WIDEST) - label_width - 2, 8)
        steps = [round(column / (width - 1) * curve.steps[-1]) for column in range(width)]
        places = [max(bisect_right(curve.steps, step) - 1, 0) for step in steps]
        side, corner, rule = ("|", "+", "-") if ascii_only else ("\u2502", "\u2514", "\u2500")
        for row in reversed(range(HEIGHT)):
            line = Text(no_wrap=True).append(f"{labels.get(row, ''):>{label_width}} {side}", "dim")
            for place in places:
                filled = curve.live[place] / top * HEIGHT - row
                budget = (
                    curve.budget[place] != curve.live[place]
                    and 0 <= curve.budget[place] / top * HEIGHT - row - 1e-9 < 1
                )
                if budget and filled < 1:
                    line.append(rule, palette.LIVE)
                else:
                    line.append(_block(filled, ascii_only), palette.RAMP[4])
            line.rstrip()
            yield line
        yield Text(" " * (label_width + 1) + corner + rule * width, style="dim", no_wrap=True)
        yield self._ticks(label_width + 2, width)
        names = self._names(label_width + 2, width, side)
        if names is not None:
            yield names

    def _ticks(self, indent: int, width: int) -> Text:
        """Step 0, the ends of the phases and the last step, as far as there is room; the outer two first."""
        last = self.curve.steps[-1]
        line = [" "] * (indent + width)
        taken: list[tuple[int, int]] = []
        for step in [0, last, *(end for _, _, end in self.curve.phases)]:
            text = f"{step:,}"
            start = min(max(indent + _column(step, last, width) - len(text) // 2, indent), indent + width - len(text))
            if all(start + len(text) + 1 <= left or start >= right + 1 for left, right in taken):
                line[start : start + len(text)] = text
                taken.append((start, start + len(text)))
        return Text("".join(line).rstrip(), style="dim", no_wrap=True)

    def _names(self, indent: int, width: int, side: str) -> Text | None:
        """The names of the phases below their steps, if at least one has the room."""
        line, any_name = [" "] * (indent + width), False
        for name, start, end in _spans(self.curve.phases, self.curve.steps[-1], width):
            if start:
                line[indent + start] = side
            room = end - start - 1
            if len(name) <= room:
                any_name = True
                begin = indent + start + 1 + (room - len(name)) // 2
                line[begin : begin + len(name)] = name
        return Text("".join(line).rstrip(), style="dim", no_wrap=True) if any_name else None


def _block(filled: float, ascii_only: bool) -> str:
    if ascii_only:
        return "#" if filled >= 0.5 else " "
    return LOWER[min(max(round(filled * 8), 0), 8)]


def _column(step: int, last: int, width: int) -> int:
    return round(step / last * (width - 1)) if last else 0


def _spans(phases: Sequence[Phase], last: int, width: int) -> list[tuple[str, int, int]]:
    return [(name, _column(first - 1, last, width), _column(end, last, width)) for name, first, end in phases]
