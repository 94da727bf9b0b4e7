"""Heat maps with the numbers in their cells: ranks, and the difference of two runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean
from typing import TYPE_CHECKING, Any

from dora_cli.reports import palette
from dora_cli.reports.curves import RankMap
from dora_cli.reports.plots import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELL = 0.33
"""Inches; a number of two digits at 8 points fills two thirds of it."""
NARROWEST = 4.2
"""Inches that the title needs."""
MANY = 8
"""The highest rank of the strongest colour of which every rank has its patch in the legend."""
Show = Callable[[float], str]


def rank_figure(maps: Sequence[RankMap], title: str) -> Figure:
    """Projections down, blocks across; encoder, decoder, and cross-attention below each other; means at the right and
    below.
    """
    fractional = any(isinstance(value, float) for found in maps for row in found.cells for value in row)
    show: Show = (lambda value: f"{value:.1f}") if fractional else (lambda value: f"{value:,.0f}")
    full, words = maps[0].full, maps[0].full_name
    heading = f"rank, of {'the ' if words.startswith('highest') else ''}{words} {full}"
    known = range(full + 1) if full <= MANY else sorted({round(full * part / 4) for part in range(5)})
    legend = [(palette.shade(rank / max(full, 1)), f"{rank:,}") for rank in known]
    return _figure(
        maps,
        title,
        colour=lambda found, row, column: palette.shade(found.share(row, column) or 0.0),
        show=show,
        average=lambda value: f"{value:.1f}",
        legend=(heading, legend),
    )


def difference_figure(maps: Sequence[RankMap], title: str) -> Figure:
    """Like `rank_figure`, of the maps of `dora_cli.reports.ranks.difference.differences`: signed numbers, orange for
    fewer, blue for more.
    """
    values = [value for found in maps for row in found.cells for value in row if value is not None]
    largest = max(map(abs, values), default=0)
    fractional = any(isinstance(value, float) for value in values)

    def show(value: float) -> str:
        return "0" if not round(value, 1) else f"{value:+.1f}" if fractional else f"{value:+,.0f}"

    def colour(found: RankMap, row: int, column: int) -> str:
        value = found.cells[row][column]
        return palette.difference(value / largest) if value else palette.EMPTY

    legend = [(palette.difference(share), show(share * largest)) for share in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    return _figure(
        maps, title, colour=colour, show=show, average=lambda value: f"{value:+.1f}", legend=("difference", legend)
    )


def _figure(
    maps: Sequence[RankMap],
    title: str,
    *,
    colour: Callable[[RankMap, int, int], str],
    show: Show,
    average: Show,
    legend: tuple[str, list[tuple[str, str]]],
) -> Figure:
    texts = [show(value) for found in maps for row in found.cells for value in row if value is not None]
    cell = max(CELL, 0.085 * max(map(len, texts), default=1) + 0.12)
    columns = float(max(len(found.blocks) for found in maps))
    label = 0.075 * max(len(heading) for found in maps for heading in found.headings) + 0.3
    width = max(label + (columns + 2) * cell, NARROWEST)
    # in a figure of the least width cells stay as they are, and paper stays free beside them
    columns = (width - label) / cell - 2
    rows = [len(found.projections) for found in maps]
    heights = [count * CELL + 0.55 for count in rows]
    with canvas.style():
        drawn = canvas.figure(width, sum(heights) + 0.7)
        panels = drawn.subplots(len(maps), 1, height_ratios=heights, squeeze=False)[:, 0]
        for found, axes in zip(maps, panels, strict=True):
            _draw(axes, found, columns, colour, show, average)
            if len(maps) > 1:
                axes.set_title(found.title, fontsize=9, pad=5)
        drawn.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold", wrap=True)
        _legend(drawn, *legend)
    return drawn


def _draw(
    axes: Axes, found: RankMap, columns: float, colour: Callable[[RankMap, int, int], str], show: Show, average: Show
) -> None:
    from matplotlib.patches import Rectangle

    height, width = len(found.projections), len(found.blocks)
    for row, values in enumerate(found.cells):
        for column, value in enumerate(values):
            if value is None:
                axes.text(column, row, "\u2013", ha="center", va="center", fontsize=8, color=palette.FAINT)
                continue
            background = colour(found, row, column)
            axes.add_patch(
                Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=background, edgecolor=palette.GRID, linewidth=0.5)
            )
            text = palette.FAINT if background == palette.EMPTY else palette.ink(background)
            axes.text(column, row, show(value), ha="center", va="center", fontsize=8, color=text)
    margin: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7.5, "color": palette.FAINT}
    for row, values in enumerate(found.cells):
        axes.text(width + 0.15, row, average(mean(value for value in values if value is not None)), **margin)
    for column in range(width):
        members = [values[column] for values in found.cells if values[column] is not None]
        axes.text(column, height + 0.05, average(mean(value for value in members if value is not None)), **margin)
    axes.text(width + 0.15, height + 0.05, "mean", **{**margin, "fontstyle": "italic"})
    change = next((row for row in range(1, height) if found.groups[row] != found.groups[row - 1]), None)
    if change is not None:
        axes.plot([-0.5, width - 0.5], [change - 0.5] * 2, color=palette.INK, linewidth=1.2)
    axes.set_xlim(-0.5, columns + 0.7)
    axes.set_ylim(height + 0.5, -0.5)
    axes.set_aspect("auto")
    axes.set_xticks(range(width), [str(block) for block in found.blocks], fontsize=8)
    axes.set_yticks(range(height), list(found.headings), fontsize=8)
    axes.tick_params(length=0, top=False)
    axes.xaxis.set_ticks_position("top")
    axes.annotate(
        "block", (0, 1), xycoords="axes fraction", xytext=(-4, 4), textcoords="offset points", ha="right", va="bottom",
        fontsize=8,
        fontstyle="italic", color=palette.FAINT,
    )  # fmt: skip
    for spine in axes.spines.values():
        spine.set_visible(False)


def _legend(drawn: Figure, title: str, steps: list[tuple[str, str]]) -> None:
    """What the colours mean, as patches with numbers below the maps."""
    from matplotlib.patches import Patch

    patches = [Patch(facecolor=colour, edgecolor=palette.FAINT, linewidth=0.5, label=text) for colour, text in steps]
    legend = drawn.legend(
        handles=patches, title=title, loc="outside lower left", ncols=len(steps), fontsize=8, title_fontsize=8,
        handlelength=1.2, handleheight=1.1, columnspacing=1.0, handletextpad=0.4, alignment="left",
    )  # fmt: skip
    legend.get_title().set_color(palette.FAINT)
