"""Budget and live components over steps, with the pruning events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dora_cli.reports import palette
from dora_cli.reports.curves import BudgetCurve
from dora_cli.reports.plots import canvas
from dora_cli.wording import plural

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def budget_figure(curve: BudgetCurve, title: str, unit: str = "component") -> Figure:
    """Stairs from the start components to the budget; live components on it; events as ticks; the freeze named."""
    at = dict(zip(curve.steps, curve.live, strict=True))
    with canvas.style():
        drawn = canvas.figure(7.2, 3.4)
        axes = drawn.subplots()
        canvas.shade_phases(axes, curve.phases)
        top = max(*curve.budget, *curve.live)
        # broad and light below, thin and dark above: both are seen where they are one, as they are in every run of DoRA
        if curve.planned:
            axes.step(
                curve.steps, curve.budget, where="post", color=palette.RAMP[2], linewidth=5, label="budget", zorder=2.5
            )
        axes.step(curve.steps, curve.live, where="post", color=palette.RAMP[7], linewidth=1.2, label="live", zorder=3)
        if curve.events:
            axes.vlines(
                curve.events,
                0,
                0.035 * top,
                color=palette.LIVE,
                linewidth=1 if len(curve.events) < 60 else 0.4,
                label=plural(len(curve.events), "event"),
                zorder=3,
            )
        axes.set_ylim(0, top * 1.08)
        if curve.freeze is not None:
            axes.annotate(
                f"freeze after step {curve.freeze:,}: {at[curve.freeze]:,} "
                "live", (curve.freeze, at[curve.freeze]), xytext=(8, 10),
                textcoords="offset points", fontsize=8, ha="left" if curve.freeze < 0.65 * curve.steps[-1] else "right",
            )  # fmt: skip
        axes.set_xlabel("optimiser step")
        axes.set_ylabel(f"{unit}s")
        canvas.whole_numbers(axes)
        axes.grid(axis="y", zorder=0.5)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 0.06), fontsize=8)
        drawn.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return drawn
