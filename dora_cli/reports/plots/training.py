"""Training loss and metric over steps, the phases shaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dora_cli.reports import palette
from dora_cli.reports.curves import Phase, Series
from dora_cli.reports.plots import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def training_figure(
    loss: Series, metric: Series, phases: Sequence[Phase], title: str, *, selected: int | None = None
) -> Figure:
    """One panel for each of the two that has values.

    Args:
        loss: training loss; faint as logged, strong as its running mean where there are many points.
        metric: after each epoch.
        phases: shaded behind both.
        title: of the figure.
        selected: the step whose weights were selected, marked in the lower panel.
    """
    panels = [series for series in (loss, metric) if series.known]
    with canvas.style():
        drawn = canvas.figure(7.2, 1.1 + 2.1 * len(panels))
        every = drawn.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for index, (axes, series) in enumerate(zip(every, panels, strict=True)):
            canvas.shade_phases(axes, phases, names=index == 0)
            _line(axes, series, palette.LOSS if series is loss else palette.METRIC, smooth=series is loss)
            if series is metric and selected in series.steps:
                _mark(axes, series, series.steps.index(selected))
            axes.set_ylabel(series.name if series is loss else f"evaluation: {series.name.replace('_', ' ')}")
            axes.grid(axis="y", zorder=0.5)
            axes.margins(y=0.16)
            canvas.not_below_zero(axes, series.values)
        every[-1].set_xlabel("optimiser step")
        canvas.whole_numbers(every[-1], "x")
        drawn.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
        drawn.align_ylabels(every)
    return drawn


MANY = 40


def _line(axes: Axes, series: Series, colour: str, *, smooth: bool) -> None:
    nan = float("nan")  # a gap in the line
    values = [nan if value is None else value for value in series.values]
    marker = "o" if len(values) <= MANY else None
    if not smooth or len(values) <= MANY:
        axes.plot(
            series.steps, values, color=colour, linewidth=1.4, marker=marker, markersize=3, clip_on=False, zorder=3
        )
        return
    axes.plot(series.steps, values, color=colour, linewidth=0.6, alpha=0.35, zorder=2, label="as logged")
    axes.plot(
        series.steps,
        running_mean(series.values, len(values) // 25),
        color=colour,
        linewidth=1.6,
        zorder=3,
        label="running mean",
    )
    axes.legend(loc="upper right", fontsize=8)


def running_mean(values: Sequence[float | None], reach: int) -> list[float]:
    """The mean of each value and of up to `reach` on either side, fewer at the ends so that it stays centred; None left
    out.
    """
    result = []
    for index in range(len(values)):
        near = min(reach, index, len(values) - 1 - index)
        known = [value for value in values[index - near : index + near + 1] if value is not None]
        result.append(sum(known) / len(known) if known else float("nan"))
    return result


def _mark(axes: Axes, series: Series, index: int) -> None:
    value = series.values[index]
    if value is None:
        return
    step, right = series.steps[index], series.steps[index] > 0.7 * series.steps[-1]
    known = [other for other in series.values if other is not None]
    above = 2 * value >= min(known) + max(known)  # where the line is not
    axes.scatter(
        [step], [value], s=60, facecolors="none", edgecolors=palette.LIVE, linewidths=1.6, clip_on=False, zorder=4
    )
    axes.annotate(
        f"selected: {value:.4f}", (step, value), xytext=(-6 if right else 6, 7 if above else -14),
        textcoords="offset points",
        ha="right" if right else "left", fontsize=8,
    )  # fmt: skip
