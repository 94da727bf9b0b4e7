"""The charts of a report: loss, metrics and budget of a group of runs, and of groups beside each other."""

from __future__ import annotations

from collections.abc import Sequence

from dora_cli.reports import palette
from dora_cli.reports.curves import Series, budget_curve
from dora_cli.reports.html.chart import Line, chart
from dora_cli.reports.html.elements import Markup
from dora_cli.reports.html.groups import Group, Run
from dora_cli.runs.records.summary import spread
from dora_cli.wording import plural

METRICS = 6
"""Charts of metrics a group gets at most, the one that selects first; the table of epochs has all."""
APART = len(palette.SERIES)
"""Lines that can be told apart."""
NAMED = 4
"""Seeds of one recipe that each have a colour of their own; of more, what counts is their spread and their mean."""
SHORT = 3
"""A run this many times shorter than another would be a stub beside it on an axis of steps."""
FLAT = 4
"""Components this many times fewer than another's would be a flat line beside it on a linear axis."""


def group_charts(group: Group) -> list[Markup]:
    """Loss, metrics and budget of the runs of one recipe. A metric that was measured once has no curve."""
    phases = max((run.phases for run in group.runs), key=lambda found: found[-1][2] if found else 0)
    charts = [chart("Training loss", _lines(group.runs, [run.loss for run in group.runs], look="loss"), phases=phases)]
    for name in group.metric_names[:METRICS]:
        series = [run.metric(name) for run in group.runs]
        lines = _lines(group.runs, series, look="metric", evaluations=True)
        circles = sum(line.selected is not None for line in lines)
        note = (
            ""
            if not circles
            else ("The circle is the selected epoch.")
            if circles == 1
            else "Circles are the selected epochs."
        )
        charts.append(chart(f"Evaluation: {readable(name)}", lines, phases=phases, note=note))
    charts.append(_budget(group))
    return [one for one in charts if one is not None]


def measured_once(group: Group) -> bool:
    """Whether there are metrics, but no curve of any: every run was evaluated once."""
    return bool(group.metric_names) and all(len(run.evaluations) < 2 for run in group.runs)


def _lines(runs: Sequence[Run], series: Sequence[Series], *, look: str, evaluations: bool = False) -> list[Line]:
    """One line for a run alone; of several each thin, and their mean."""
    if len(runs) == 1:
        selected = runs[0].selected_step if evaluations else None
        return [Line("", series[0].steps, series[0].values, look, points=evaluations, selected=selected)]
    lines = []
    for index, (run, one) in enumerate(zip(runs, series, strict=True)):
        style = _style(index) if len(runs) <= NAMED else ("each", ())
        name = f"seed {run.seed}" if len(runs) <= NAMED else "" if index else "each seed"
        selected = run.selected_step if evaluations else None
        lines.append(Line(name, one.steps, one.values, *style, width=1.2, points=evaluations, selected=selected))
    done = [one for run, one in zip(runs, series, strict=True) if run.finished]
    mean = _mean(done or series)
    name = "mean" if len(done) in (0, len(runs)) else "mean of finished"
    return lines if len(done) == 1 else [*lines, Line(name, mean.steps, mean.values, "mean", width=2.2)]


def _style(index: int) -> tuple[str, tuple[int, ...]]:
    return f"s{index % APART}", palette.DASHES[index % APART]


def mean_series(series: Sequence[Series]) -> Series:
    """The mean at every step that all of them have; undefined where one of them is."""
    if not series:
        return Series("", (), ())
    found = [dict(zip(one.steps, one.values, strict=True)) for one in series]
    steps = [step for step in series[0].steps if all(step in one for one in found)]
    return Series(series[0].name, tuple(steps), tuple(spread([one[step] for one in found])["mean"] for step in steps))


def _budget(group: Group) -> Markup | None:
    # runs of one recipe share their schedule
    run = (*group.finished, *sorted(group.runs, key=lambda run: -run.steps))[0]
    curve = budget_curve(run.curves.ranks, run.metrics, run.curves.log)
    if curve is None or (curve.constant and run.finished):  # a level line says nothing that the tables do not
        return None
    unit = str((run.curves.ranks or {}).get("unit", "component"))
    note = f"{curve.live[0]:,} to {curve.live[-1]:,} {unit}s"
    if curve.events:
        note += f" in {plural(len(curve.events), 'event')}"
    if curve.freeze is not None:
        note += f"; the ranks are frozen after step {curve.freeze:,}"
    # broad and light below, thin and dark above: both are seen where they are one, as they are in every run of DoRA
    budget = [Line("budget", curve.steps, curve.budget, "budget", width=5, stairs=True)] if curve.planned else []
    lines = [*budget, Line("live", curve.steps, curve.live, "live", width=1.5, stairs=True)]
    return chart(
        f"Budget and live {unit}s" if budget else f"Live {unit}s",
        lines,
        phases=curve.phases,
        from_zero=True,
        note=note + ".",
    )


def comparison_charts(groups: Sequence[Group]) -> list[Markup]:
    """Means of groups of one task beside each other: loss, the metric that selects, live components.

    None of more groups than can be told apart. Where runs are of very different lengths the axis shows the share of
    each one's steps, and where they have very different numbers of components these are on a logarithmic axis.
    """
    if not 1 < len(groups) <= APART:
        return []
    lengths = [max(run.steps for run in _counted(group)) for group in groups]
    shares = max(lengths) >= SHORT * max(min(lengths), 1)

    def lines(series: Sequence[Series], *, stairs: bool = False, points: bool = False) -> list[Line]:
        made = []
        for index, (group, one, length) in enumerate(zip(groups, series, lengths, strict=True)):
            name = (
                group.name
                if not shares
                else (f"{group.name}, {plural(length, 'step')}{'' if group.finished else ' so far'}")
            )
            made.append(
                Line(
                    name, one.steps, one.values, *_style(index), width=1.8, stairs=stairs, points=points, length=length
                )
            )
        return made

    charts = [
        chart("Training loss", lines([_mean([run.loss for run in _counted(group)]) for group in groups]), shares=shares)
    ]
    metric = next((group.metric_names[0] for group in groups if group.metric_names), None)
    if metric is not None:
        found = [_mean([run.metric(metric) for run in _counted(group)]) for group in groups]
        charts.append(chart(f"Evaluation: {readable(metric)}", lines(found, points=True), shares=shares))
    live = [_live(group) for group in groups]
    known = [value for series in live for value in series.values if value]
    log = bool(known) and max(known) >= FLAT * min(known)
    title = "Live components" + (", logarithmic axis" if log else "")
    charts.append(chart(title, lines(live, stairs=True), from_zero=True, log=log, shares=shares))
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
