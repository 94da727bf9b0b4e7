"""Colours of the page, in the light and in the dark: text can be read, lines and ranks can be told apart."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from dora_cli.reports import palette
from dora_cli.reports.html.style import LEVELS, NEVER, STYLE, room_for, style, wide_from

THEMES = {"light": palette.LIGHT, "dark": palette.DARK}


@pytest.mark.parametrize("theme", THEMES)
def test_text_contrasts_with_what_it_stands_on(theme: str) -> None:
    """WCAG AA: 4.5 to 1."""
    colours = THEMES[theme]
    for ink, grounds in {
        "ink": ("page", "paper", "raised", "warning"),
        "faint": ("page", "paper", "raised"),
        "accent": ("page", "paper"),
        "warned-ink": ("page", "paper"),
        "paper": ("s0",),
    }.items():
        for ground in grounds:
            assert palette.contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)


@pytest.mark.parametrize("theme", THEMES)
def test_lines_contrast_with_what_is_behind_them(theme: str) -> None:
    """WCAG for graphics: 3 to 1, on paper and, for those that are drawn there, on the shades of the phases."""
    colours = THEMES[theme]
    for index in range(len(palette.SERIES)):
        assert palette.contrast(colours[f"s{index}"], colours["paper"]) >= 3
    for name in ("loss", "metric", "live", "mean"):
        for ground in ("paper", "margin", *palette.PHASES):
            assert palette.contrast(colours[name], colours[ground]) >= 3, (name, ground)


def test_both_themes_name_the_same_colours_and_differ_in_all_that_is_seen() -> None:
    assert set(palette.LIGHT) == set(palette.DARK)
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for theme in THEMES.values() for colour in theme.values())
    assert palette.luminance(palette.DARK["paper"]) < 0.02
    assert len(palette.SERIES) == len(set(palette.SERIES)) == len(set(palette.DASHES)), (
        "lines differ in dash too: any colour vision will do"
    )


@pytest.mark.parametrize("shade", [palette.shade, palette.shade_in_the_dark])
def test_ranks_can_be_read_and_told_apart(shade) -> None:  # type: ignore[no-untyped-def]
    levels = [shade(level / LEVELS) for level in range(LEVELS + 1)]
    assert all(palette.contrast(palette.black_or_white(colour), colour) >= 4.5 for colour in levels)
    greys = [palette.luminance(colour) for colour in levels]
    assert greys == sorted(greys, reverse=shade is palette.shade), (
        "steadily darker on a light page, lighter on a dark one"
    )
    assert all(one != two for one, two in pairwise(greys))


def test_the_dark_is_for_screens_alone() -> None:
    """So paper is light whatever the reader prefers."""
    assert STYLE.count("prefers-color-scheme") == STYLE.count("@media screen and (prefers-color-scheme: dark)") == 1
    variables = set(re.findall(r"var\(--([\w-]+)\)", STYLE)) - set(palette.LIGHT)
    assert variables == {"left", "label", "sum", "medium", "wide"}, "all but sizes are colours of the themes"


def test_rules_for_widths_are_those_that_are_asked_for() -> None:
    assert [room_for(need) for need in (0, 161, 180, 1220, 1221)] == [160, 180, 180, 1220, NEVER]
    made = style(f'<table class="numbers {wide_from(333)}">')
    assert re.findall(r"max-width: (\d+)px", made).count("339") == 1
    assert style("").count("table.from-") == 0
