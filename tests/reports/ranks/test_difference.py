"""One run compared to another."""

from __future__ import annotations

import re

import pytest

from dora_cli.errors import CheckpointError
from dora_cli.reports.ranks.difference import difference_table, differences
from dora_cli.reports.ranks.table import mean_ranks
from tests.reports.examples import bert, llama, ranks
from tests.reports.shown import known, rows, text


def test_a_difference_map_by_hand():
    one, two = known({0: 4, 3: 0, 6: 1, 11: 3}), known({1: 3, 2: 1})
    shown = rows(text(difference_table(one, two, ("a", "b")), 120))
    start = next(index for index, row in enumerate(shown) if row[0] == "block")
    assert [row for row in shown[start:] if not row[0].startswith("\u2500")][:8] == [
        ["block", "0", "1", "sum"],
        ["query", "+2", "-1", "+1"],
        ["key", "-1", "0", "-1"],
        ["value", "+1", "0", "+1"],
        ["attention.output.dense", "-2", "0", "-2"],
        ["intermediate.dense", "0", "0", "0"],
        ["output.dense", "0", "+1", "+1"],
        ["sum", "0", "0", "0"],
    ]
    assert ["attention", "8", "15", "16", "-1"] in shown
    assert ["FFN", "4", "9", "8", "+1"] in shown
    assert ["all", "12", "24", "24", "0"] in shown
    assert "4 more and 4 fewer components; 6 of 12 projections alike.\n" in text(difference_table(one, two, ("a", "b")))


def test_runs_of_different_budgets_are_compared_and_it_is_said():
    shown = text(difference_table(known({0: 4}), known({}), ("a", "b")))
    assert "The runs differ in live components: 26 here, 24 there." in shown.replace("\n", " ").replace("  ", " ")


def test_a_difference_of_means_has_a_decimal_and_no_signed_zero():
    mean = mean_ranks({"seed-1": known({0: 3, 1: 1}), "seed-2": known({})})
    shown = rows(text(difference_table(mean, known({}), ("a", "b")), 120))
    assert [row for row in shown if row[0] in ("query", "key", "value")] == [
        ["query", "+0.5", "0", "+0.5"], ["key", "-0.5", "0", "-0.5"], ["value", "0", "0", "0"],
    ]  # fmt: skip


def test_a_run_compared_to_itself():
    shown = text(difference_table(known({}), known({}), ("a", "a")), force_terminal=True, color_system="256")
    assert "0 more and 0 fewer components; 12 of 12 projections alike." in shown
    assert "48;5" not in shown


def test_the_sign_has_a_colour_where_there_are_colours():
    shown = text(
        difference_table(known({0: 4, 1: 0}), known({}), ("a", "b")), force_terminal=True, color_system="truecolor"
    )
    changed = "".join(line for line in shown.splitlines() if line.startswith(("query", "key")))
    assert len(set(re.findall(r"48;2;[\d;]+", changed))) == 2
    assert "fewer" in shown
    assert (
        "fewer "
        not in text(difference_table(known({0: 4, 1: 0}), known({}), ("a", "b")))
        .split("components")[0]
        .splitlines()[-2]
    )
    plain = text(
        difference_table(known({0: 4, 1: 0}), known({}), ("a", "b")), force_terminal=True, color_system="standard"
    )
    assert re.search(r"\x1b\[30;46m", plain)
    assert re.search(r"\x1b\[30;43m", plain)


def test_compared_by_block():
    shown = rows(text(difference_table(known({0: 4, 6: 1, 11: 3}), known({}), ("a", "b"), by="block")))
    assert shown[:4] == [
        ["count", "sum", "sum", "there", "difference"],
        ["block", "0", "6", "14", "12", "+2"],
        ["block", "1", "6", "12", "12", "0"],
        ["all", "12", "26", "24", "+2"],
    ]


def test_runs_that_adapt_different_projections_are_not_compared():
    with pytest.raises(CheckpointError) as caught:
        differences(ranks(bert(1)), ranks(llama(1)), ("a", "b"))
    assert (
        "only a adapts bert.encoder.layer.0.attention.self.query, bert.encoder.layer.0.attention.self.key and 4 more"
    ) in str(caught.value)
    assert "only b adapts model.layers.0.self_attn.q_proj" in str(caught.value)
    small = [(projection, (8, 8)) for projection, _ in bert(1)]
    with pytest.raises(
        CheckpointError,
        match=r"query is 768 x 768 in a and 8 x 8 in b\. Compare runs of one base "
        r"model",
    ):
        differences(ranks(bert(1)), ranks(small), ("a", "b"))
