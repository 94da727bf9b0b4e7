"""The page of an experiment: every number of the record is on it, whatever there is of it, and nothing else is."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from dora_cli.errors import CheckpointError
from dora_cli.reports.compare.results import Results
from dora_cli.reports.compare.verdicts import (
    estimand,
    foreseen,
    inference,
    listed,
    p_value,
    remarks,
    scoring,
    signed,
    sizing,
    tuning,
    typeset,
    unfinished,
    verdict,
    warnings,
)
from dora_cli.reports.html.axes import short
from dora_cli.reports.html.compare.page import experiment_page
from dora_cli.reports.html.elements import text as escaped
from tests.reports.compare.examples import MAJORITY, experiment, pooled, write_experiment

EMPTY = {"br", "col", "link", "meta", "rect", "wbr", "path"}
HOSTILE = "<script>window.hurt = 1</script><img src=x onerror='window.hurt = 1'>\"&"


class Balance(HTMLParser):
    """The words of a page, and whether its elements are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in EMPTY or tag == "path":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open and "script" not in self.open:
            self.words.append(data)


def read(page: str) -> Balance:
    found = Balance()
    found.feed(page)
    assert found.open == []
    return found


def made(record: dict[str, Any], folder: Path = Path("nowhere")) -> str:
    return experiment_page(Results.of(record), folder)


def shown(record: dict[str, Any], folder: Path = Path("nowhere")) -> str:
    return "\n".join(read(made(record, folder)).words)


def four(value: float) -> str:
    return f"{value:.4f}"


@pytest.mark.parametrize(("tasks", "methods", "seeds"), [(1, 1, 1), (1, 2, 3), (2, 4, 10), (5, 10, 12)])
def test_every_number_of_the_record_is_on_the_page(tasks: int, methods: int, seeds: int) -> None:
    record = experiment(tasks, methods, seeds)
    text = shown(record)
    wanted = []
    for cell in record["cells"]:
        scores = [run["score"] for run in cell["runs"]]
        wanted.append(four(mean(scores)) + (f" \u00b1 {four(stdev(scores))}" if seeds > 1 else ""))
        for run in cell["runs"]:
            wanted += [four(run["score"]), four(run["best_on_dev"]), f"{run['stored_parameters']:,}"]
            wanted += [f"{run['most_trained']:,}", f"\n{run['seed']}\n", run["folder"].rpartition("/")[2]]
            wanted += [f"{run['seconds']:.0f}s"]
        tuned = cell["tuned"]
        wanted += [four(tuned["expected_best"][index]) for index in (0, 1, 3, 4)]
        wanted.append(f"{100 * tuned['collapsed']:.0f} %")
        wanted += [
            f"{short(tuned['band'][0])} to {short(tuned['band'][1])}",
            f"{tuned['band'][1] / tuned['band'][0]:.2f} \u00d7",
        ]
        for one in tuned["tried"]:
            wanted += [short(one["value"]), ", ".join(map(four, one["scores"])), four(mean(one["scores"]))]
            wanted += [listed(one["seeds"])]
    for found in record["comparisons"]:
        wanted += [typeset(signed(value)) for value in found["differences"]]
        wanted += [f"{found['size_ratio']:.3f} \u00d7", four(found["detectable"]), four(found["margin"])]
        wanted.append(f"{100 * found['power_equivalent']:.0f} %")
        for key in ("p", "p_holm", "p_equivalent", "p_non_inferior"):
            wanted.append(p_value(found[key]).replace("-", "\u2013"))
        for one in (found, *found["by_task"]):
            wanted.append(typeset(signed(one["mean"])))
            if one["low"] is not None:
                wanted += [typeset(f"{signed(one['low'])} to {signed(one['high'])}"), four(one["sd"])]
                wanted += [p_value(one["p"]), p_value(one["p_holm"])]
        if found["bootstrap"] is not None:
            wanted.append(typeset(" to ".join(map(signed, found["bootstrap"]))))
    wanted += [task["recipe"] for task in record["tasks"]] + [method["name"] for method in record["methods"]]
    assert [one for one in wanted if one not in text] == []


@pytest.mark.parametrize("tasks", [1, 2])
def test_what_is_pooled_is_on_the_page_with_all_its_parts(tasks: int) -> None:
    record = pooled(tasks, (1, 4))
    for cell in record["cells"]:
        for run in cell["runs"]:
            run["stored_parameters"] = {"dora rank=1": 100, "lora rank=1": 80, "dora rank=4": 300}.get(
                cell["method"], 400
            )
    text = shown(record)
    (found,) = record["comparisons"]
    wanted = [
        typeset(verdict(Results.of(record).record.comparisons[0])),
        "1.012 \u00d7",
        "1.250 \u00d7",
        "0.750 \u00d7",
    ]
    wanted += [typeset(signed(value)) for value in found["differences"]]
    for one in (found, *found["by_task"]):
        wanted += [typeset(signed(one["mean"])), typeset(f"{signed(one['low'])} to {signed(one['high'])}")]
        wanted += [four(one["sd"]), p_value(one["p"]), p_value(one["p_holm"])]
    places = [f"{task}, rank={rank}" for task in ("rte", "cola")[:tasks] for rank in (1, 4)]
    assert [one for one in wanted if one not in text] == []
    assert [text.count(f"\n{place}\n") for place in places] == [2] * len(places), "in the plot and in the table"


def test_every_sentence_is_on_the_page() -> None:
    record = experiment(2, 4, 10, complete=False)
    record["comparisons"][0] |= {"verdict": "withheld", "seeds_needed": 14, "dropped": [12], "notes": ["Mind this."]}
    record["comparisons"][1] |= {"verdict": "undecided", "seeds_needed": 31}
    record["measured_share"] = 0.125
    text = shown(record)
    checked = Results.of(record).record
    assert "12.5 %" in scoring(checked)
    sentences = [estimand(checked), inference(checked), foreseen(checked), tuning(checked), scoring(checked)]
    sentences += [sizing(checked), unfinished(checked), *record["notes"]]
    for found in checked.comparisons:
        sentences += [verdict(found), *warnings(found)]
    sentences += [*remarks(checked.comparisons[0]), *remarks(checked.comparisons[1])]
    assert [one for one in sentences if typeset(one or "") not in text] == []
    assert "dora compare experiments/glue.yaml" in text


def test_a_mean_that_is_no_better_than_the_majority_is_marked() -> None:
    record = experiment(1, 2, 3)
    clean = shown(record)
    for run in record["cells"][0]["runs"]:
        run |= {"score": MAJORITY, "collapsed": True}
    marked = shown(record)
    assert "\u2021" not in clean
    assert marked.count("\u2021 No better than") == 2, "below both tables that have the mean"
    assert "3 of 3" in marked
    assert marked.count("finished, collapsed") == 3
    record["tasks"][0]["lower_is_better"] = True
    assert "\u2021" in shown(record), "equal is no better either way"
    record["tasks"][0]["majority"] = None
    assert "\u2021" not in shown(record)


@pytest.mark.parametrize("part", ["tuned", "runs", "cells", "comparisons", "numbers", "everything"])
def test_whatever_is_missing_the_page_is_whole(part: str) -> None:
    record = experiment(2, 3, 4)
    if part in ("tuned", "everything"):
        record["tuning"] = None
        for cell in record["cells"]:
            cell["tuned"] = None
    if part == "runs":
        for cell in record["cells"]:
            cell["runs"] = []
    if part in ("numbers", "everything"):
        keep = ("seed", "outcome", "collapsed", "metrics")
        for cell in record["cells"]:
            for run in cell["runs"]:
                run |= {key: None for key in run if key not in keep} | {"outcome": "missing", "metrics": {"loss": None}}
            if cell["tuned"]:
                cell["tuned"] |= {"band": None, "expected_best": [None], "interior": False}
                for one in cell["tuned"]["tried"]:
                    one |= {"scores": [None for _ in one["scores"]], "runs": []}
        keep_of = (
            "method",
            "baseline",
            "seeds",
            "verdict",
            "by_task",
            "notes",
            "differences",
            "of_seeds",
            "dropped",
            "task",
        )
        for found in record["comparisons"]:
            for one in (found, *found["by_task"]):
                one |= {key: None for key in one if key not in keep_of}
            found |= {"seeds": 0, "verdict": "withheld", "differences": [], "of_seeds": []}
        record |= {"margin": None, "margin_source": "none"}
        record["power"]["detectable"] = None
    if part in ("cells", "everything"):
        record["cells"] = []
    if part == "comparisons":
        record["comparisons"] = []
    page = made(record)
    read(page)
    for odd in ("None", "nan", "inf%", "inf "):
        assert odd not in shown(record)


def test_hostile_names_are_text(tmp_path: Path) -> None:
    record = experiment(2, 3, 3, names=[HOSTILE, "a\u00e9 'b'", "]]>"], task_names=[HOSTILE + "t", "]]>&amp;"])
    record["notes"] = [HOSTILE]
    record["experiment"] = "/home/me/secret/<b>.yaml"
    record["comparisons"][0]["notes"] = [HOSTILE]
    for cell in record["cells"]:
        for run in cell["runs"]:
            run |= {"folder": HOSTILE, "metrics": {HOSTILE: 0.5}}
    page = made(record, tmp_path)
    found = read(page)
    assert found.seen.count("script") == 1
    assert "img" not in found.seen
    assert "secret" not in page, "of absolute paths the last part alone"
    assert escaped(HOSTILE) in page


def test_the_same_records_give_the_same_page_that_asks_for_nothing() -> None:
    record = experiment(2, 3, 4)
    page = made(record)
    assert page == made(json.loads(json.dumps(record)))
    for asks in ("http:", "https:", "@import", "url(", "src="):
        assert asks not in page
    assert len(read(page).ids) == len(set(read(page).ids))


# Runs -----------------------------------------------------------------------------------------------------------------


def test_rank_maps_stand_side_by_side(tmp_path: Path) -> None:
    record = experiment(1, 4, 3)
    folder = write_experiment(tmp_path, record, with_ranks=["dora", "sora"])
    page = made(record, folder)
    assert page.count('class="ranks"') == 2
    text = shown(record, folder)
    assert "dora, seed 11" in text
    assert "sora, seed 11" in text
    # the first seed has no finished run any more: the next one's map is shown, where there is one
    record["cells"][1]["runs"][0]["outcome"] = "diverged"
    assert made(record, folder).count('class="ranks"') == 1


def test_ranks_that_are_the_same_everywhere_are_said(tmp_path: Path) -> None:
    record = experiment(1, 2, 2)
    folder = write_experiment(tmp_path, record, with_ranks=["lora"])
    path = folder / record["cells"][0]["runs"][0]["folder"] / "ranks.json"
    ranks = json.loads(path.read_text())
    for layer in ranks["layers"]:
        layer["rank"] = 3
    ranks["live_components"] = 3 * len(ranks["layers"])
    path.write_text(json.dumps(ranks))
    assert "lora: rank 3 everywhere" in shown(record, folder)
    assert 'class="ranks"' not in made(record, folder)
    path.write_text("{")
    with pytest.raises(CheckpointError, match=r"ranks\.json"):
        made(record, folder)


def test_only_runs_of_the_experiment_are_read(tmp_path: Path) -> None:
    record = experiment(1, 2, 2)
    write_experiment(tmp_path / "other", record, with_ranks=["dora"])
    for cell in record["cells"]:
        for run in cell["runs"]:
            run["folder"] = f"../other/{run['folder']}"
    assert 'class="ranks"' not in made(record, tmp_path / "own")
    record["cells"][1]["runs"][0]["folder"] = str(tmp_path / "other" / "runs" / "rte" / "dora" / "seed-11")
    assert 'class="ranks"' not in made(record, tmp_path / "own")


def test_the_file_that_says_what_was_compared_is_on_the_page(tmp_path: Path) -> None:
    record = experiment(1, 2, 2)
    folder = write_experiment(tmp_path, record)
    assert "Experiment file" not in shown(record, folder)
    (folder / "experiment.yaml").write_text("tasks: [/home/me/secret/rte.yaml]  # <b>\n")
    assert "tasks: [\u2026/rte.yaml]  # <b>" in shown(record, folder).replace('"', "")
    assert "secret" not in made(record, folder)


def test_the_environment_is_that_of_the_first_run(tmp_path: Path) -> None:
    record = experiment(1, 2, 2)
    folder = write_experiment(tmp_path, record, with_ranks=["dora"])
    assert "2.11.0" in shown(record, folder)
    assert "2.11.0" not in shown(record, tmp_path / "elsewhere")
