"""Cells of a rank table in their sections."""

from __future__ import annotations

from dora_cli.reports.grid import Cell, sections
from tests.reports.examples import bart


def test_sections_keep_model_order_within():
    found = sections(
        Cell(p.name, p.stack, p.block, p.attention, p.projection, p.group, shape, 3, 2, 3) for p, shape in bart(1)[::-1]
    )
    assert [title for title, _ in found] == ["Encoder", "Decoder, self attention and FFN", "Decoder, cross attention"]
    assert [cell.projection for cell in found[2][1]] == [f"encoder_attn.{name}_proj" for name in ("out", "q", "v", "k")]
