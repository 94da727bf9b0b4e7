"""Cells of a rank table in their sections."""

from __future__ import annotations

from dora_cli.reports.grid import Cell, full_rank, sections
from tests.reports.examples import bart


def test_sections_keep_model_order_within():
    found = sections(
        Cell(p.name, p.stack, p.block, p.attention, p.projection, p.group, shape, 3, 2, 3) for p, shape in bart(1)[::-1]
    )
    assert [title for title, _ in found] == ["Encoder", "Decoder, self attention and FFN", "Decoder, cross attention"]
    assert [cell.projection for cell in found[2][1]] == [f"encoder_attn.{name}_proj" for name in ("out", "q", "v", "k")]


def test_the_strongest_colour_is_of_the_start_rank_or_of_the_highest_where_ranks_grew() -> None:
    assert full_rank([(12, 3), (12, 12)]) == (12, "start rank")
    assert full_rank([(12, 3), (4, 4)]) == (12, "highest start rank")
    assert full_rank([(2, 6), (2, 2)]) == (6, "highest rank")
    assert full_rank([(2, 5.4), (2, 2.0)]) == (6, "highest rank"), (
        "of means over runs, a whole rank that holds them all"
    )
    assert full_rank([]) == (0, "highest start rank")
