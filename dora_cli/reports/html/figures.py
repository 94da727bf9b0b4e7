"""The charts of a report: loss, metrics and budget of a group of runs, and of groups beside each other."""

from __future__ import annotations

from collections.abc import Sequence

from dora_cli.reports import palette
from dora_cli.reports.curves import Series, budget_curve
from dora_cli.reports.html.chart import Line, chart
from dora_cli.reports.html.elements import Markup
from dora_cli.reports.html.groups import Group, Run
from dora_cli.reports.summary import spread
from dora_cli.wording import plural

METRICS = 6
"""Charts of metrics a group gets at most, the one that selects first; the table of epochs has all."""
APART = len(palette.SERIES)
"""Lines that can be told apart."""


def group_charts(group: Group) -> list[Markup]:
    """Loss, metrics and budget of the runs of one recipe, over their steps."""
    phases = max((run.phases for run in group.runs), key=lambda found: found[-1][2] if found else 0)
    charts = [chart("Training loss", _lines(group.runs, [run.loss for run in group.runs], colour=palette.LOSS), phases=phases)]
    for name in group.metric_names[:METRICS]:
        series = [run.metric(name) for run in group.runs]
        lines = _lines(group.runs, series, colour=palette.METRIC, evaluations=True)
        circles = sum(line.selected is not None for line in lines)
        note = "" if not circles else "The circle is the selected epoch." if circles == 1 else "Circles are the selected epochs."
        charts.append(chart(f"Evaluation: {readable(name)}", lines, phases=phases, note=note))
    charts.append(_budget(group))
    return [one for one in charts if one is not None]


def _lines(runs: Sequence[Run], series: Sequence[Series], *, colour: str, evaluations: bool = False) -> list[Line]:
    """One line for a run alone; of several each thin, and their mean."""
    if len(runs) == 1:
        selected = runs[0].selected_step if evaluations else None
        return [Line("", series[0].steps, series[0].values, colour, points=evaluations, selected=selected)]
    lines = []
    for index, (run, one) in enumerate(zip(runs, series, strict=True)):
        style = _style(index) if len(runs) <= APART else (palette.FAINT, ())
        name = f"seed {run.seed}" if len(runs) <= APART else "" if index else "each seed"
        selected = run.selected_step if evaluations else None
        lines.append(Line(name, one.steps, one.values, *style, width=1.1, opacity=0.8, points=evaluations, selected=selected))
    done = [one for run, one in zip(runs, series, strict=True) if run.finished]
    mean = _mean(done or series)
    name = "mean" if len(done) in (0, len(runs)) else "mean of finished"
    return lines if len(done) == 1 else [*lines, Line(name, mean.steps, mean.values, palette.INK, width=2.2)]


def _style(index: int) -> tuple[str, tuple[int, ...]]:
    return palette.SERIES[index % APART], palette.DASHES[index % APART]


def mean_series(series: Sequence[Series]) -> Series:
    """The mean at every step that all of them have; undefined where one of them is."""
    if not series:
        return Series("", (), ())
    found = [dict(zip(one.steps, one.values, strict=True)) for one in series]
    steps = [step for step in series[0].steps if all(step in one for one in found)]
    return Series(series[0].name, tuple(steps), tuple(spread([one[step] for one in found])["mean"] for step in steps))


def _budget(group: Group) -> Markup | None:
    run = (*group.finished, *sorted(group.runs, key=lambda run: -run.steps))[0]  # runs of one recipe share their schedule
    curve = budget_curve(run.curves.ranks, run.metrics, run.curves.log)
    if curve is None:
        return None
    unit = str((run.curves.ranks or {}).get("unit", "component"))
    note = f"{curve.live[0]:,} to {curve.live[-1]:,} {unit}s"
    if curve.events:
        note += f" in {plural(len(curve.events), 'event')}"
    if curve.freeze is not None:
        note += f"; the ranks are frozen after step {curve.freeze:,}"
    lines = [
        # broad and light below, thin and dark above: both are seen where they are one, as they are in every run of DoRA
        Line("budget", curve.steps, curve.budget, palette.RAMP[2], width=5, stairs=True),
        Line("live", curve.steps, curve.live, palette.RAMP[7], width=1.4, stairs=True),
    ]
    return chart(f"Budget and live {unit}s", lines, phases=curve.phases, from_zero=True, note=note + ".")


def comparison_charts(groups: Sequence[Group]) -> list[Markup]:
    """Means of groups beside each other: loss, the metric that selects, live components. None of more groups than can be told apart."""
    if len(groups) > APART:
        return []
    styles = {group.name: _style(index) for index, group in enumerate(groups)}

    def lines(members: Sequence[Group], series: Sequence[Series], *, stairs: bool = False, points: bool = False) -> list[Line]:
        return [
            Line(group.name, one.steps, one.values, *styles[group.name], width=1.8, stairs=stairs, points=points)
            for group, one in zip(members, series, strict=True)
        ]

    charts = []
    for task in dict.fromkeys(group.task for group in groups):
        same = [group for group in groups if group.task == task]
        where = f" ({task})" if len(same) < len(groups) else ""
        if len(same) < 2:
            continue
        charts.append(chart(f"Training loss{where}", lines(same, [_mean([run.loss for run in _counted(group)]) for group in same])))
        name = next((group.metric_names[0] for group in same if group.metric_names), None)
        if name is not None:
            charts.append(
                chart(
                    f"Evaluation: {readable(name)}{where}",
                    lines(same, [_mean([run.metric(name) for run in _counted(group)]) for group in same], points=True),
                )
            )
    live = [_live(group) for group in groups]
    if any(series.known for series in live):
        charts.append(chart("Live components", lines(groups, live, stairs=True), from_zero=True))
    return [one for one in charts if one is not None]


def _counted(group: Group) -> Sequence[Run]:
    return group.finished or group.runs


def _mean(series: Sequence[Series]) -> Series:
    return mean_series([one for one in series if one.known])


def _live(group: Group) -> Series:
    run = _counted(group)[0]
    curve = budget_curve(run.curves.ranks, run.metrics, run.curves.log)
    return Series("live", (), ()) if curve is None else Series("live", curve.steps, tuple(curve.live))


def readable(name: str) -> str:
    return name.replace("_", " ")
