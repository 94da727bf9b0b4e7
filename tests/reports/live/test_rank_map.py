"""Colours of the map, and its smallest parts."""

from __future__ import annotations

import pytest
from rich.segment import Segment

from dora_cli.reports import palette
from dora_cli.reports.curves import rank_maps
from dora_cli.reports.live.marks import ASCII, UNICODE, bar, cut, trend
from dora_cli.reports.live.rank_map import rank_lines
from dora_cli.reports.live.view import shade_of
from tests.reports.examples import bert, ranks


def record(values: list[int]) -> dict:
    """One projection of so many blocks with these ranks."""
    layers = [layer for layer in ranks(bert(len(values)))["layers"] if layer["projection"].endswith("query")]
    return {"layers": [{**layer, "rank": value} for layer, value in zip(layers, values, strict=True)]}


def test_a_cell_has_the_colour_of_its_share_and_a_number_that_contrasts() -> None:
    lines = rank_lines(rank_maps(record([0, 6, 12])), 79, 5, shade=shade_of, glyphs=UNICODE)
    cells = {segment.text.strip(): segment.style for segment in lines[1] if segment.text.strip().isdigit()}
    assert cells["0"].bgcolor is None, "nothing is there"
    for number, share in (("6", 0.5), ("12", 1.0)):
        assert cells[number].bgcolor.name == palette.shade(share)
        assert cells[number].color.name == palette.ink(palette.shade(share))


def test_a_bar_says_what_the_number_would() -> None:
    lines = rank_lines(rank_maps(record([0, 1, 6, 12] * 3)), 18, 5, shade=shade_of, glyphs=UNICODE, colours=False)
    assert "".join(segment.text for segment in lines[1]) == "query " + " \u2582\u2585\u2588" * 3


def test_a_block_without_the_projection() -> None:
    made = ranks(bert(2))
    made["layers"] = [
        layer for layer in made["layers"] if (layer["block"], layer["projection"]) != (1, "attention.self.query")
    ]
    (line,) = [
        line
        for line in rank_lines(rank_maps(made), 40, 9, shade=shade_of, glyphs=ASCII, colours=False)
        if "query" in line[0].text
    ]
    assert "".join(segment.text for segment in line).endswith("  -")


def test_long_names_lose_their_beginning_where_that_makes_room() -> None:
    lines = rank_lines(rank_maps(ranks(bert(12))), 52, 9, shade=shade_of, glyphs=UNICODE, colours=False)
    assert [line[0].text for line in lines[4:]] == ["\u2026.output.dense ", "\u2026mediate.dense ", "output.dense   "]


@pytest.mark.parametrize(("share", "full"), [(0.0, 0), (0.5, 5), (1.0, 10), (2.0, 10), (-1.0, 0)])
def test_a_bar(share: float, full: int) -> None:
    done, rest = bar(10, share, ASCII)
    assert (done.text, rest.text) == ("#" * full, "-" * (10 - full))


def test_a_mark_is_seen_on_either_side() -> None:
    done, rest = bar(10, 0.5, ASCII, marks=[0.2, 0.8, 0.0, 1.0])
    assert done.text + rest.text == "##|##---|-"


def test_a_trend_goes_from_the_lowest_to_the_highest() -> None:
    assert trend([1.0, 2.0, None, float("nan"), 3.0], 10, UNICODE) == "\u2581\u2585  \u2588"
    assert trend([5.0, 5.0], 10, UNICODE) == "\u2584\u2584"
    assert trend([9.0, 1.0, 2.0], 2, UNICODE) == "\u2581\u2588"
    assert trend([1.0], 10, UNICODE) == trend([1.0, 2.0], 0, UNICODE) == trend([1.0, 2.0], 10, ASCII) == ""


def test_a_line_is_cut_by_cells_not_by_characters() -> None:
    line = [Segment("ab"), Segment("\u6a21\u578b\u6a21\u578b")]  # two cells each
    assert cut(line, 10, UNICODE) == line
    assert "".join(segment.text for segment in cut(line, 6, UNICODE)) == "ab\u6a21 \u2026"
