"""Tables for papers: the record's numbers in their cells, a caption that says what they rest on, nothing obeyed."""

from __future__ import annotations

import copy
import re
from statistics import mean, stdev
from typing import Any

import pytest

from dora_cli.reports.compare.markdown import escaped, markdown
from dora_cli.reports.compare.results import Results
from dora_cli.reports.compare.verdicts import (
    each_place,
    estimand,
    inference,
    p_value,
    tuning,
    typeset,
    unfinished,
    verdict,
)
from tests.reports.compare.examples import experiment, pooled


def made(record: dict[str, Any]) -> str:
    return markdown(Results.of(record))


def tables(text: str) -> list[list[list[str]]]:
    """The cells of each table, its head first, as a renderer reads them."""
    blocks = [block for block in text.split("\n\n") if block.startswith("| ")]
    return [
        [
            [re.sub(r"\\(.)", r"\1", cell.strip()) for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for index, line in enumerate(block.splitlines())
            if index != 1
        ]
        for block in blocks
    ]


@pytest.mark.parametrize(("tasks", "methods", "seeds"), [(1, 1, 1), (1, 2, 2), (2, 3, 10), (5, 10, 30)])
def test_every_cell_is_the_records(tasks: int, methods: int, seeds: int) -> None:
    record = experiment(tasks, methods, seeds)
    main, *others = tables(made(record))
    head, *rows = main
    assert [len(row) for row in rows] == [len(head)] * methods
    assert head[1 : tasks + 1] == [f"{task['name']} ({task['metric'].replace('_', ' ')})" for task in record["tasks"]]
    for row, method in zip(rows, record["methods"], strict=True):
        assert row[0] == method["name"]
        for cell, task in zip(row[1:], record["tasks"], strict=False):
            (found,) = [
                one for one in record["cells"] if (one["task"], one["method"]) == (task["name"], method["name"])
            ]
            scores = [run["score"] for run in found["runs"]]
            assert cell == f"{mean(scores):.4f}" + (f" \u00b1 {stdev(scores):.4f}" if seeds > 1 else "")
        stored = [
            run["stored_parameters"]
            for one in record["cells"]
            if one["method"] == method["name"]
            for run in one["runs"]
        ]
        assert row[tasks + 1] == f"{mean(stored):,.0f}"
    for row, found in zip(rows[1:], record["comparisons"], strict=True):
        signs = f"{found['mean']:+.4f}".replace("-", "\u2212")
        assert row[tasks + 2] == signs
        assert row[tasks + 4] == p_value(found["p_holm"]).replace("-", "\u2013")
        assert row[-1] == found["verdict"]
        assert escaped(typeset(verdict(Results.of(record).rows[rows.index(row)].comparison))) in made(record)
    if tasks > 1:
        (each,) = others
        assert len(each) == 1 + tasks * (methods - 1)
        apart = [one for found in record["comparisons"] for one in found["by_task"]]
        for row, one in zip(each[1:], apart, strict=True):
            assert row[2:5] == [one["task"], f"{seeds}", f"{one['mean']:+.4f}".replace("-", "\u2212")]
            assert row[6] == p_value(one["p_holm"])
    else:
        assert not others


@pytest.mark.parametrize("tasks", [1, 2])
def test_what_is_pooled_has_a_table_of_its_own(tasks: int) -> None:
    record = pooled(tasks, (1, 2, 8))
    text = made(record)
    main, compared, parts = tables(text)
    assert main[0] == ["method", *main[0][1 : tasks + 1], "parameters"]
    assert [row[0] for row in main[1:]] == [method["name"] for method in record["methods"]]
    (found,) = record["comparisons"]
    assert compared[0] == ["method", "baseline", "seeds", "difference", "95 % interval", "adjusted p",
                           "adjusted p (equivalence)", "verdict"]  # fmt: skip
    signs = typeset(f"{found['mean']:+.4f}")
    assert compared[1:] == [
        ["dora", "lora", "10", signs, typeset(f"{found['low']:+.4f} to {found['high']:+.4f}"), p_value(found["p_holm"]),
         p_value(found["p_equivalent"]), "undecided"]
    ]  # fmt: skip
    places = [f"{task}, rank={rank}" for task in ("rte", "cola")[:tasks] for rank in (1, 2, 8)]
    assert [row[2] for row in parts[1:]] == places
    for row, one in zip(parts[1:], found["by_task"], strict=True):
        assert (row[4], row[6]) == (typeset(f"{one['mean']:+.4f}"), p_value(one["p_holm"]))
    checked = Results.of(record).record
    captions = [line for line in text.splitlines() if line.startswith("**Table")]
    assert [caption[:12] for caption in captions] == ["**Table 1.**", "**Table 2.**", "**Table 3.**"]
    assert [escaped(estimand(checked)) in caption for caption in captions] == [False, True, False]
    assert each_place(checked) in captions[2]


def test_a_record_from_before_anything_could_be_pooled_makes_the_same_tables() -> None:
    old = experiment(2, 3, 10)
    assert "pool" not in old, "the examples are as older versions wrote them"
    record = copy.deepcopy(old) | {"pool": []}
    for found in record["comparisons"]:
        found["pairs"] = [{"method": found["method"], "baseline": found["baseline"]}]
        for one in found["by_task"]:
            one["pooled"] = {}
    assert made(old) == made(record)
    assert "**Table 3" not in made(record)


def test_the_caption_says_what_the_numbers_rest_on() -> None:
    record = experiment(2, 3, 10, complete=False)
    caption = made(record).splitlines()[0]
    checked = Results.of(record).record
    for sentence in (estimand(checked), inference(checked), tuning(checked), unfinished(checked)):
        assert escaped(typeset(sentence)) in caption
    assert "10 seeds (11-20)" in caption
    assert escaped(record["notes"][0]) in made(record)
    assert "0.5271" in caption, "the majority class"


def test_marks_and_what_they_mean() -> None:
    record = experiment(1, 2, 3)
    record["cells"][0]["runs"][0] |= {"outcome": "missing", "score": None}
    record["tasks"][0]["majority"] = record["cells"][1]["runs"][0]["score"] + 1
    text = made(record)
    (main,) = tables(text)
    assert [re.sub(r"[^\u2020\u2021]", "", row[1]) for row in main[1:]] == ["\u2020\u2021", "\u2021"]
    notes = [line for line in text.splitlines() if line.startswith(("\u2020", "\u2021"))]
    assert "lora on rte: 2 of 3 runs" in notes[0]
    assert len(notes) == 2


def test_what_is_unknown_is_a_dash() -> None:
    record = experiment(2, 3, 1)
    record["cells"] = record["cells"][:1]
    (main, _) = tables(made(record))
    assert main[3][1:4] == ["\u2013", "\u2013", "\u2013"]
    assert main[2][6] == "\u2013", "no interval of one seed"
    record["comparisons"] = []
    (main,) = tables(made(record))
    assert main[0][-1] == "parameters"


def test_hostile_names_are_text() -> None:
    names = ["a|b", "<img src=x onerror=alert(1)>", "[x](javascript:y)", "*_`~#$&"]
    record = experiment(1, 4, 2, names=names)
    text = made(record)
    (main,) = tables(text)
    assert [row[0] for row in main[1:]] == names
    assert re.search(r"(?<!\\)[<>\[\]`]", text) is None
    assert len(re.findall(r"(?<!\\)\*", text)) == 4, "the caption's own title"
