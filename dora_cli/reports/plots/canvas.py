"""What all plots share: getting matplotlib, one style, shaded phases, and files that are the same bytes every time."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dora_cli.errors import OutputError
from dora_cli.printable import escape
from dora_cli.reports import palette
from dora_cli.reports.curves import Phase
from dora_cli.runs.output_files import check_no_stdout, check_output_file, write_output

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

SUFFIXES = (".png", ".svg", ".pdf")
DPI = 160
ROUND = (1, 2, 2.5, 5, 10)
"""Steps between ticks, times a power of ten: matplotlib's own for whole numbers have 15, 30 and 40 too."""

STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans", "sans-serif"],  # matplotlib's own: the same everywhere
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": palette.FAINT,
    "axes.labelcolor": palette.INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": palette.INK,
    "xtick.color": palette.INK,
    "ytick.color": palette.INK,
    "grid.color": palette.GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.facecolor": palette.PAPER,
    "text.parse_math": False,  # a name with two dollar signs is no formula
    "svg.fonttype": "none",  # text stays text: it can be searched and read aloud
    "svg.hashsalt": "dora",  # ids that do not change from run to run
    "pdf.fonttype": 42,
    "hatch.linewidth": 0.6,
}


def check(path: Path, *, overwrite: bool = False) -> None:
    """Raises OutputError if `path` cannot be drawn: a file that is there already, an unknown format, or matplotlib is
    not installed.
    """
    check_no_stdout(path, "a picture's kind is the ending of its file", option="--plot")
    check_output_file(path, overwrite=overwrite, option="--plot", example="ranks.svg", endings=SUFFIXES)
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise OutputError("--plot needs matplotlib, which is not installed: pip install 'dora-cli[plots]'") from error


def style() -> Any:
    """A context in which figures are made and saved."""
    import matplotlib

    settings: Any = dict(matplotlib.rcParamsDefault)  # not the user's matplotlibrc: a picture looks the same everywhere
    settings.pop("backend")  # figures are made without one
    settings.update(STYLE)
    return matplotlib.rc_context(settings)


def figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(drawn: Figure, path: Path) -> None:
    """Writes a figure as its suffix says, whole or not at all, without a date. Raises OutputError."""
    from matplotlib.text import Text

    kind = path.suffix.lower().removeprefix(".")
    no_date: dict[str, Any] = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    content = io.BytesIO()
    for text in drawn.findobj(Text):
        _show_as_it_is(text)
    with style():
        drawn.savefig(content, format=kind, dpi=DPI, metadata=no_date, bbox_inches="tight", pad_inches=0.08)
    write_output(path, content.getvalue())


def _show_as_it_is(text: Text) -> None:
    """Keeps out what no SVG may hold, and formulas: a name in a record may be anything."""
    words = escape(text.get_text())
    # breaking lines looks for formulas whatever `text.parse_math` says, but knows a dollar that is none
    if text.get_wrap():
        text.set_parse_math(True)
        words = words.replace("$", r"\$")
    text.set_text(words)


def shade_phases(axes: Axes, phases: Sequence[Phase], *, names: bool = True) -> None:
    """Shades the steps of each phase; `names` writes them above the axes where there is room."""
    if not phases:
        return
    last = phases[-1][2]
    for name, first, end in phases:
        axes.axvspan(first - 1, end, facecolor=palette.phase_shade(name), linewidth=0, zorder=0)
        if end < last:
            axes.axvline(end, color=palette.FAINT, linewidth=0.6, linestyle=(0, (2, 2)), zorder=1)
        if names and (end - first + 1) / max(last, 1) > 0.011 * len(name):
            middle = (first - 1 + end) / 2
            axes.annotate(
                name, (middle, 1), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
                ha="center", va="bottom", fontsize=8, color=palette.FAINT,
            )  # fmt: skip
    axes.set_xlim(0, max(last, 1))


def whole_numbers(axes: Axes, which: str = "both") -> None:
    """Ticks at whole, round numbers with thousands separated."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for name in ("x", "y") if which == "both" else (which,):
        axis = getattr(axes, f"{name}axis")
        axis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1, steps=ROUND))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def not_below_zero(axes: Axes, values: Iterable[float | None]) -> None:
    """Ends the axis of values at 0 if none of them is negative: the margin below would suggest that they could be."""
    if axes.get_ylim()[0] < 0 <= min(value for value in values if value is not None):
        axes.set_ylim(bottom=0)
