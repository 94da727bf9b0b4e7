"""The tables and charts of `dora ranks` beside the rank table itself."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dora_cli.errors import CheckpointError
from dora_cli.reports.curves import BudgetCurve, Scores, budget_curve
from dora_cli.reports.ranks.difference import difference_table, differences
from dora_cli.reports.ranks.history import history
from dora_cli.reports.ranks.scores import Bin, histogram, score_tables
from dora_cli.reports.ranks.shares import bar, shares_table
from dora_cli.reports.ranks.table import mean_ranks
from dora_cli.reports.ranks.views import View, show
from tests.reports.examples import FakeAllocation, bart, bert, exact, llama, ranks, stack


def text(parts: Sequence[Any] | None, width: int = 80, **options: Any) -> str:
    assert parts is not None
    file = io.StringIO()
    console = Console(file=file, width=width, **{"highlight": False, **options})
    for part in parts:
        console.print(part)
    return file.getvalue()


def ascii_text(parts: Sequence[Any]) -> str:
    buffer = io.BytesIO()
    console = Console(file=io.TextIOWrapper(buffer, encoding="ascii", write_through=True), width=80)
    for part in parts:
        console.print(part)
    return buffer.getvalue().decode("ascii")


def rows(shown: str) -> list[list[str]]:
    return [line.split() for line in shown.splitlines() if line and not set(line.strip()) <= {"\u2500", " "}]


def known(change: dict[int, int], rank: int = 2) -> dict[str, Any]:
    """Two blocks of BERT, rank 2 everywhere but where `change` says so (by position), start rank 4."""
    projections = bert(2)
    allocations = [
        FakeAllocation(p.name, shape, 4, change.get(i, 2), tuple(0.1 * (j + 1) for j in range(4)))
        for i, (p, shape) in enumerate(projections)
    ]
    return exact(projections, allocations, rank=rank, start_rank=4)


ARCHITECTURES = {
    "bert": bert(6),
    "roberta": bert(12),
    "llama": llama(30),
    "bart": bart(6),
    "48": stack("x", [("attention.q", (8, 8)), ("up", (8, 8))], 48),
}


# --by -----------------------------------------------------------------------------------------------------------------


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
    assert [line for line in text(shares_table(ranks(bart(2)), "block")).splitlines() if re.match("[ED]", line)] == [
        "Encoder", "Decoder, self attention and FFN", "Decoder, cross attention",
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


# --compare ------------------------------------------------------------------------------------------------------------


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


# --history ------------------------------------------------------------------------------------------------------------


CURVE = BudgetCurve(
    steps=(0, 10, 20, 30, 40),
    budget=(100, 100, 75, 50, 50),
    live=(100, 100, 75, 50, 50),
    events=(10, 20, 30),
    freeze=30,
    phases=(("warm-up", 1, 10), ("pruning", 11, 30), ("final", 31, 40)),
)


def test_the_chart_of_a_budget_in_ascii():
    assert ascii_text(history(CURVE)).splitlines() == [
        "Live components over steps",
        "100 |" + "#" * 37,
        *["    |" + "#" * 37] * 1,
        *["    |" + "#" * 55] * 3,
        " 50 |" + "#" * 75,
        *["    |" + "#" * 75] * 3,
        "  0 |" + "#" * 75,
        "    +" + "-" * 75,
        "     0                10                                    30                40",
        "           warm-up     |               pruning               |      final",
        "",
        "warm-up  steps 1 to 10, 1 event",
        "pruning  steps 11 to 30, 2 events, freeze after step 30",
        "final    steps 31 to 40",
        "100 -> 50 components in 40 steps",
    ]


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_the_chart_fits(width: int):
    lines = text(history(CURVE), width).splitlines()
    assert max(map(len, lines[:14])) <= min(width, 110)
    assert lines[1].startswith("100 \u2502\u2588")
    assert [line[4] for line in lines[1:12]] == ["\u2502"] * 10 + ["\u2514"]


def test_the_budget_is_drawn_where_it_is_not_what_lives():
    curve = BudgetCurve((0, 10), (100, 80), (100, 40), (), None, (("training", 1, 10),))
    shown = text(history(curve))
    assert "\u2500" in shown.splitlines()[3]
    assert "100 -> 40 components in 10 steps; the budget is 80" in shown


def test_a_curve_of_one_point_is_drawn():
    curve = BudgetCurve((5,), (7,), (7,), (), None, (("warm-up", 1, 5),))
    assert "7 components through 5 steps" in text(history(curve))


# --scores -------------------------------------------------------------------------------------------------------------


def test_bins_are_round_and_hold_every_score():
    found = Scores(live=(0.31, 0.42, 0.55, 0.9), pruned=(0.05, 0.11, 0.3))
    bins = histogram(found, 12)
    assert [(round(one.low, 9), one.live, one.pruned) for one in bins] == [
        (0.0, 0, 1), (0.1, 0, 1), (0.2, 0, 0), (0.3, 1, 1), (0.4, 1, 0), (0.5, 1, 0), (0.6, 0, 0), (0.7, 0, 0),
        (0.8, 0, 0), (0.9, 1, 0),
    ]  # fmt: skip
    for edge in (None, 0.31):
        bins = histogram(found, 40, edge)
        assert len(bins) <= 41
        assert sum(one.live for one in bins) == 4
        assert sum(one.pruned for one in bins) == 3
    assert not any(one.live and one.pruned for one in bins), "no bin holds both where the cut is an edge"


def test_bins_at_a_cut_begin_at_zero():
    # wide 0.31 / 3, not 0.1: no score is below 0
    bins = histogram(Scores(live=(0.31, 0.9), pruned=(0.0, 0.01, 0.3)), 12, 0.31)
    assert [(round(one.low, 3), one.live, one.pruned) for one in bins if one.live or one.pruned] == [
        (0.0, 0, 2), (0.207, 0, 1), (0.31, 1, 0), (0.827, 1, 0),
    ]  # fmt: skip


@pytest.mark.parametrize("values", [(0.5,) * 4, (0.0,) * 3, (1.0, 1.0 + 1e-16)])
def test_equal_scores_are_one_bin(values: tuple[float, ...]):
    assert histogram(Scores(values, ())) == [Bin(min(values), max(values), len(values), 0)]


def test_scores_by_hand():
    shown = text(score_tables(known({0: 4, 1: 0})))
    assert (
        "24 components live, the lowest with a score of 0.1000; 24 were pruned, the highest with 0.4000."
    ) in " ".join(shown.split())
    assert re.search(r"^ +0  query +4 +0\.4000 +0\.1000  \u2588\u2586\u2585\u2583\| *$", shown, re.MULTILINE)
    assert re.search(r"^ +0  key +0 +0\.4000 +-  \|\u2588\u2586\u2585\u2583 *$", shown, re.MULTILINE)
    assert re.search(r"^ +1  output\.dense +2 +0\.4000 +0\.3000  \u2588\u2586\|\u2585\u2583 *$", shown, re.MULTILINE)


@pytest.mark.parametrize("name", ["bert", "llama", "bart"])
def test_scores_fit_80_columns(name: str):
    shown = text(score_tables(ranks(ARCHITECTURES[name])))
    assert max(map(len, shown.splitlines())) <= 80
    assert "\u2026" not in shown
    assert len(re.findall(r"^ *\d+  .*\|", shown, re.MULTILINE)) == len(ARCHITECTURES[name])


def test_an_ascii_terminal_gets_ascii():
    record = ranks(bart(1))
    curve = budget_curve(record)
    assert curve is not None
    shown = ascii_text(
        [*(score_tables(record) or ()), *shares_table(record, "block"), *difference_table(record, record, ("a", "a"))]
    )
    assert "#" in shown + ascii_text(history(curve))


def test_all_or_none_live():
    record = known(dict.fromkeys(range(12), 4))
    assert "All 48 components live, the lowest with a score of 0.1000." in text(score_tables(record))
    record = known(dict.fromkeys(range(12), 0))
    assert "No component lives; the highest score is 0.4000." in text(score_tables(record))


def test_no_scores():
    record = known({})
    for layer in record["layers"]:
        layer["scores"] = None
    assert score_tables(record) is None


def test_nothing_is_printed_of_a_view_that_fails(tmp_path: Path):
    file = io.StringIO()
    with pytest.raises(CheckpointError):
        show(View(tmp_path / "absent"), Console(file=file))
    assert file.getvalue() == ""
