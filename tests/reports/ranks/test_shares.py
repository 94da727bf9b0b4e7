"""Ranks by group, block or projection, and their bars."""

from __future__ import annotations

import re

import pytest

from dora_cli.reports.ranks.shares import bar, shares_table
from dora_cli.reports.ranks.table import mean_ranks
from tests.reports.examples import bart, bert, llama, ranks, stack
from tests.reports.shown import known, rows, text

ARCHITECTURES = {
    "bert": bert(6),
    "roberta": bert(12),
    "llama": llama(30),
    "bart": bart(6),
    "48": stack("x", [("attention.q", (8, 8)), ("up", (8, 8))], 48),
}


def test_by_group_by_hand():
    # attention: 4 2 2 0 and 1 2 2 2: 15 of 24; FFN: 2 2 and 2 3: 9
    shown = rows(text(shares_table(known({0: 4, 3: 0, 6: 1, 11: 3}), "group")))
    assert shown[0] == ["count", "mean", "rank", "range", "sum", "share", "0", "to", "4"]
    assert [row[:6] for row in shown[1:]] == [
        ["attention", "8", "1.88", "0-4", "15", "62.5%"],
        ["FFN", "4", "2.25", "2-3", "9", "37.5%"],
        ["all", "12", "2.00", "0-4", "24", "100.0%"],
    ]


def test_by_block_and_by_projection_by_hand():
    record = known({0: 4, 3: 0, 6: 1, 11: 3})
    assert [row[:7] for row in rows(text(shares_table(record, "block")))[1:3]] == [
        ["block", "0", "6", "2.00", "0-4", "12", "50.0%"],
        ["block", "1", "6", "2.00", "1-3", "12", "50.0%"],
    ]
    shown = rows(text(shares_table(record, "projection")))
    assert shown[1][:6] == ["query", "2", "2.50", "1-4", "5", "20.8%"]
    assert shown[6][:6] == ["output.dense", "2", "2.50", "2-3", "5", "20.8%"]
    assert len(shown) == 8


@pytest.mark.parametrize("by", ["projection", "block", "group"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_by_fits_80_columns_and_adds_up(name: str, by: str):
    record = ranks(ARCHITECTURES[name])
    shown = text(shares_table(record, by))
    assert max(map(len, shown.splitlines())) <= 80
    assert "\u2026" not in shown
    sums = [int(match.group(1).replace(",", "")) for match in re.finditer(r" ([\d,]+) +[\d.]+%", shown)]
    assert sum(sums[:-1]) == sums[-1] == record["live_components"]


def test_by_group_of_an_encoder_decoder():
    shown = text(shares_table(ranks(bart(2)), "group"))
    labels = re.findall(r"^([a-zA-Z][a-zA-Z ]*?)  +\d", shown, re.MULTILINE)
    assert labels == [
        "encoder self attention", "encoder FFN", "decoder self attention", "decoder cross attention", "decoder FFN",
        "all",
    ]  # fmt: skip
    blocks = text(shares_table(ranks(bart(2)), "block"))
    assert [title.group() for title in re.finditer(r"^[ED]\w+(, \w+)?", blocks, re.MULTILINE)] == [
        "Encoder", "Decoder, self", "Decoder, cross",
    ]  # fmt: skip


def test_by_of_a_mean_and_of_rank_zero_everywhere():
    mean = mean_ranks({"seed-1": known({0: 3, 1: 1}), "seed-2": known({})})
    assert "1.5-2.5" in text(shares_table(mean, "group"))
    assert "-" in rows(text(shares_table(known(dict.fromkeys(range(12), 0)), "group")))[1]


@pytest.mark.parametrize(
    ("share", "shown", "plain"),
    [
        (0, "", ""),
        (1e-6, "\u258f", "#"),
        (0.5, "\u2588\u2588", "##"),
        (0.53125, "\u2588\u2588\u258f", "##"),
        (1, "\u2588" * 4, "####"),
        (7, "\u2588" * 4, "####"),
    ],
)
def test_bars(share: float, shown: str, plain: str):
    assert bar(share, 4, ascii_only=False) == shown
    assert bar(share, 4, ascii_only=True) == plain
