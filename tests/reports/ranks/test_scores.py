"""Tables and histograms of scores."""

from __future__ import annotations

import re
from typing import Any

import pytest

from dora_cli.reports.curves import Scores, budget_curve
from dora_cli.reports.ranks.difference import difference_table
from dora_cli.reports.ranks.history import history
from dora_cli.reports.ranks.scores import Bin, histogram, score_tables
from dora_cli.reports.ranks.shares import shares_table
from tests.reports.examples import bart, bert, llama, ranks
from tests.reports.shown import ascii_text, known, text


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


def test_edges_of_small_scores_differ():
    record = known({0: 4, 1: 0})
    for layer in record["layers"]:
        layer["scores"] = [value * 1e-9 for value in layer["scores"]]
    shown = text(score_tables(record))
    edges = re.findall(r"^ *(\S+) to +(\S+) ", shown, re.MULTILINE)
    assert len(edges) > 3
    assert all(low != high for low, high in edges)


def test_scores_by_hand():
    shown = text(score_tables(known({0: 4, 1: 0})))
    assert (
        "24 components live, the lowest with a score of 0.1000; 24 were pruned, the highest with 0.4000."
    ) in " ".join(shown.split())
    assert re.search(r"^ +0  query +4 +0\.4000 +0\.1000  \u2588\u2586\u2585\u2583\| *$", shown, re.MULTILINE)
    assert re.search(r"^ +0  key +0 +0\.4000 +-  \|\u2588\u2586\u2585\u2583 *$", shown, re.MULTILINE)
    assert re.search(r"^ +1  output\.dense +2 +0\.4000 +0\.3000  \u2588\u2586\|\u2585\u2583 *$", shown, re.MULTILINE)


@pytest.mark.parametrize("projections", [bert(6), llama(30), bart(6)], ids=["bert", "llama", "bart"])
def test_scores_fit_80_columns(projections: list[Any]):
    shown = text(score_tables(ranks(projections)))
    assert max(map(len, shown.splitlines())) <= 80
    assert "\u2026" not in shown
    assert len(re.findall(r"^ *\d+  .*\|", shown, re.MULTILINE)) == len(projections)


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
    assert "All 48 components live, " in text(score_tables(record))
    record = known(dict.fromkeys(range(12), 0))
    assert "No component lives; the highest score is 0.4000." in text(score_tables(record))


def test_the_score_is_named_where_the_record_does():
    record = ranks(bert(1))
    assert "Score of a component" not in text(score_tables(record))
    assert "\nScore of a component: its cube\n" in text(score_tables({**record, "score": "its cube"}))


def test_no_scores():
    record = known({})
    for layer in record["layers"]:
        layer["scores"] = None
    assert score_tables(record) is None
