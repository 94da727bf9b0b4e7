"""The colours of every picture: terminal map, plots and HTML report.

Ranks are shown by one ramp from light to dark blue whose lightness falls steadily (in OKLab, evenly), so that it reads
the same in grey and with any colour vision. Differences use orange for fewer and blue for more, which no common colour
blindness confuses, and the sign is always written too. Lines differ in dash and marker as well as in colour. All
colours are ``#rrggbb``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

RAMP = ("#eef9fb", "#c0e0e8", "#92c7d9", "#65accc", "#3890c0", "#1573b0", "#085599", "#11397a", "#142152")
"""Share of the start rank, from just above 0 to 1, at even distances."""
RAMP_IN_THE_DARK = ("#16264d", *RAMP[-2:0:-1])
FEWER = ("#fcf5f1", "#f9d6bf", "#f5ab77", "#dd7b2b", "#ac5801", "#773b01")
MORE = ("#f2f7fd", "#c6e1ff", "#91c3f6", "#5b9ddf", "#2a75ba", "#044f89")
"""Differences, from just beside 0 to the largest."""

EMPTY = "#ffffff"
"""Rank 0 and difference 0: nothing there."""
INK, PAPER = "#1a1a1a", "#ffffff"
FAINT = "#6b6b6b"
"""Secondary text and a written 0: 5.3 : 1 on white."""
GRID = "#d9d9d9"

BUDGET, LIVE, LOSS, METRIC = "#0072b2", "#d55e00", "#404040", "#0072b2"
"""Lines. No two of a picture are as light as each other."""
ALIVE, PRUNED = "#085599", "#f0b27f"
"""Scores of components that live and of those that were pruned."""

PHASES = {"warm-up": "#f4ead5", "pruning": "#d5dce8", "final": "#f6f7f9"}
"""Shades behind curves, by phase; `phase_shade` knows the others."""
SERIES = ("#0072b2", "#d55e00", "#00855f", "#8a4f7d", "#3a8fbf", "#8f6400", "#333333", "#c2478f")
"""Colours of runs beside each other."""
DASHES: tuple[tuple[int, ...], ...] = ((), (6, 3), (2, 3), (8, 3, 2, 3), (12, 4), (4, 2), (1, 3), (10, 3, 2, 3, 2, 3))
"""Dashes of runs beside each other: lengths of ink and gap."""


# The page -------------------------------------------------------------------------------------------------------------

LIGHT = {
    "page": "#f3f5f7", "paper": PAPER, "raised": "#f3f5f7", "ink": INK, "faint": "#5f6670", "grid": GRID,
    "edge": "#e1e5ea", "accent": "#0b5fa5", "warning": FEWER[0], "warned": FEWER[3], **PHASES,
    "loss": LOSS, "metric": METRIC, "budget": RAMP[2], "live": RAMP[7], "mean": INK, "each": "#8a929c",
    "margin": "#e6eef7", "warned-ink": "#9a4a00",
    **{f"s{index}": colour for index, colour in enumerate(SERIES)},
}  # fmt: skip
"""Colours of the HTML report by what they are for: `s0`, `s1`, ... are runs beside each other."""
DARK = {
    "page": "#0f1318", "paper": "#171c23", "raised": "#222932", "ink": "#e8eaed", "faint": "#a3abb6",
    "grid": "#3a424d", "edge": "#2a313b", "accent": "#7db8f0", "warning": "#33261a", "warned": "#dd7b2b",
    "warm-up": "#2f2a1c", "pruning": "#1f2c40", "final": "#1c2129", "loss": "#d5d9de", "metric": "#56b4e9",
    "budget": "#2f6f9c", "live": "#d6eef7", "mean": "#f4f5f7", "each": "#7e8793", "margin": "#1e3148",
    "warned-ink": "#ffab70",
    "s0": "#56b4e9", "s1": "#ff9057", "s2": "#3fcf9f", "s3": "#cfa0dc",
    "s4": "#a9dcff", "s5": "#e3c04f", "s6": "#e4e6e9", "s7": "#ff8fc4",
}  # fmt: skip
"""The same for a reader who prefers dark pages."""


def shade(share: float) -> str:
    """The colour of a rank that is `share` of its start rank; `EMPTY` for 0."""
    return EMPTY if share <= 0 else _along(RAMP, share)


def shade_in_the_dark(share: float) -> str:
    """The same for a dark page, where more is lighter."""
    return DARK["paper"] if share <= 0 else _along(RAMP_IN_THE_DARK, share)


def difference(share: float) -> str:
    """The colour of a difference that is `share` of the largest, -1 to 1; `EMPTY` for 0."""
    return EMPTY if share == 0 else _along(MORE if share > 0 else FEWER, abs(share))


def ink(background: str) -> str:
    """The text colour, `INK` or `PAPER`, that contrasts more with `background`."""
    light = luminance(background)
    return INK if (light + 0.05) / (luminance(INK) + 0.05) >= (luminance(PAPER) + 0.05) / (light + 0.05) else PAPER


def black_or_white(background: str) -> str:
    """Which of the two contrasts more with `background`: at least 4.5 to 1, whatever it is."""
    return max(("#000000", "#ffffff"), key=lambda colour: contrast(colour, background))


def contrast(one: str, other: str) -> float:
    """How much two colours differ in lightness, 1 to 21 (WCAG 2): text wants 4.5 on its background, a line 3."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def on(background: str) -> str:
    """A terminal style (rich's) of text on `background`."""
    return f"{ink(background)} on {background}"


def phase_shade(phase: str) -> str:
    """The shade behind the steps of a phase; that of the final phase for one we do not know."""
    return PHASES.get(phase, PHASES["final"])


def luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb``, 0 to 1: what is left of a colour in grey (WCAG 2)."""
    channels = [channel / 255 for channel in _rgb(colour)]
    red, green, blue = (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _along(ramp: Sequence[str], share: float) -> str:
    place = min(max(share, 0.0), 1.0) * (len(ramp) - 1)
    index = min(int(place), len(ramp) - 2)
    low, high = list(pairwise(ramp))[index]
    part = place - index
    return "#" + "".join(f"{round(a + (b - a) * part):02x}" for a, b in zip(_rgb(low), _rgb(high), strict=True))


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
