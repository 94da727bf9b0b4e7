from __future__ import annotations

from itertools import pairwise

import pytest

from dora_cli.reports import palette


def contrast(one: str, other: str) -> float:
    light, dark = sorted((palette.luminance(one), palette.luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_luminance_of_known_colours():
    assert palette.luminance("#000000") == 0
    assert palette.luminance("#ffffff") == pytest.approx(1)
    assert palette.luminance("#ff0000") == pytest.approx(0.2126)
    assert palette.luminance("#808080") == pytest.approx(0.2159, abs=1e-4)


@pytest.mark.parametrize("start", [2, 6, 12, 24, 96])
def test_a_higher_rank_is_darker_in_grey_too(start: int):
    greys = [palette.luminance(palette.shade(rank / start)) for rank in range(start + 1)]
    assert greys == sorted(greys, reverse=True)
    assert len(set(greys)) == start + 1
    assert greys[0] == pytest.approx(1)  # rank 0: paper


def test_neighbours_of_six_levels_differ_in_grey():
    greys = [palette.luminance(palette.shade(level / 6)) for level in range(1, 7)]
    assert all((one + 0.05) / (two + 0.05) > 1.3 for one, two in pairwise(greys))


def test_the_ends_of_the_ramp_are_as_listed_and_what_is_between_is_interpolated():
    assert palette.shade(1) == palette.shade(7) == palette.RAMP[-1]
    assert palette.shade(0.5) == palette.RAMP[4]
    assert palette.shade(1e-9) == palette.RAMP[0]
    assert palette.shade(-1) == palette.shade(0) == palette.EMPTY
    # half way between #eef9fb and #c0e0e8
    assert palette.shade(1 / 16) == "#d7ecf2"


def test_a_difference_has_a_colour_of_its_own_for_each_sign():
    for size in (0.1, 0.5, 1.0):
        more, fewer = palette.difference(size), palette.difference(-size)
        assert int(more[5:7], 16) > int(more[1:3], 16), "more is blue"
        assert int(fewer[1:3], 16) > int(fewer[5:7], 16), "fewer is orange"
    assert palette.difference(0) == palette.EMPTY
    for sign in (1, -1):
        greys = [palette.luminance(palette.difference(sign * step / 10)) for step in range(11)]
        assert greys == sorted(greys, reverse=True)


def test_text_can_be_read_on_every_shade():
    backgrounds = [palette.shade(step / 100) for step in range(101)] + [
        palette.difference(step / 100) for step in range(-100, 101)
    ]
    assert min(contrast(palette.ink(colour), colour) for colour in backgrounds) >= 4.0
    assert contrast(palette.FAINT, palette.PAPER) >= 4.5
    assert palette.on(palette.RAMP[-1]) == f"{palette.PAPER} on {palette.RAMP[-1]}"


def test_phases_differ_in_grey_and_an_unknown_one_has_a_shade():
    greys = sorted(palette.luminance(colour) for colour in palette.PHASES.values())
    assert greys[1] - greys[0] > 0.05
    assert greys[2] - greys[1] > 0.05
    assert palette.phase_shade("training") == palette.PHASES["final"]
    assert palette.phase_shade("pruning") == palette.PHASES["pruning"]


def test_pruned_and_live_differ_in_grey():
    assert contrast(palette.ALIVE, palette.PRUNED) > 3
