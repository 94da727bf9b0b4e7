"""How the scores of components are distributed at the freeze, and where the selection cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dora_cli.reports import palette
from dora_cli.reports.curves import Scores
from dora_cli.reports.plots import canvas
from dora_cli.reports.ranks.scores import histogram

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 40


def scores_figure(found: Scores, title: str, unit: str = "component") -> Figure:
    """A histogram: live components dark, pruned ones light and hatched; the cut between them as a line."""
    cut = min(found.live) if found.live and found.pruned else None
    bins = histogram(found, BINS, cut)  # an edge at the cut: no bar holds both
    width = bins[0].high - bins[0].low or 1e-3
    places, live, pruned = [one.low for one in bins], [one.live for one in bins], [one.pruned for one in bins]
    with canvas.style():
        drawn = canvas.figure(7.2, 3.4)
        axes = drawn.subplots()
        axes.bar(
            places, pruned, width, align="edge", facecolor=palette.PRUNED, edgecolor="white", linewidth=0.4,
            hatch="////",
            label=f"pruned ({len(found.pruned):,})",
        )  # fmt: skip
        axes.bar(
            places, live, width, bottom=pruned, align="edge", facecolor=palette.ALIVE, edgecolor="white", linewidth=0.4,
            label=f"live ({len(found.live):,})",
        )  # fmt: skip
        if cut is not None:
            axes.axvline(cut, color=palette.INK, linewidth=1, linestyle=(0, (4, 2)))
            axes.annotate(
                f"lowest live: {cut:.4g}", (cut, 1), xycoords=("data", "axes fraction"), xytext=(0, 3),
                textcoords="offset points",
                ha="center", va="bottom", fontsize=8,
            )  # fmt: skip
        axes.set_xlim(max(places[0], 0.0), places[-1] + width)  # no score is below 0
        axes.set_ylim(0, 1.08 * max(one.live + one.pruned for one in bins))
        axes.set_xlabel("score")
        axes.set_ylabel(f"{unit}s")
        canvas.whole_numbers(axes, "y")
        axes.grid(axis="y", zorder=0.5)
        axes.legend(loc="upper right", fontsize=8)
        drawn.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return drawn
