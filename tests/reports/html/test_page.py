"""The page: what it says, and that nothing foreign becomes a part of it."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from statistics import mean, stdev

import pytest
from rich.console import Console
from rich.style import Style

from dora_cli.atomic import write_json, write_jsonl
from dora_cli.errors import CheckpointError
from dora_cli.reports.curves import rank_maps
from dora_cli.reports.html.groups import find_groups
from dora_cli.reports.html.page import page
from dora_cli.reports.html.script import SCRIPT
from dora_cli.reports.live.marks import ASCII
from dora_cli.reports.live.rank_map import rank_lines
from dora_cli.reports.ranks.table import render
from dora_cli.runs.run_folder import RunRecords
from tests.reports import examples
from tests.reports.html.folders import HEAD, write_run


class Reader(HTMLParser):
    """Texts and tags of a page, tables as rows of cells; refuses one whose tags do not close."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.rows: list[list[str]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if "tr" in self._open and self._open[-1] != "tr":
            self.rows[-1][-1] += data

    def row(self, head: str) -> list[str]:
        """The cells after that head of a row."""
        return next(row[1:] for row in self.rows if row and row[0] == head)


def read(*folders: Path) -> Reader:
    return Reader(page(find_groups(folders)))


def test_one_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    record, ranks = RunRecords(run).read_metrics(), RunRecords(run).read_ranks()
    reader = read(run)
    text = " ".join(reader.texts)
    assert reader.row("accuracy") == [f"{record[kind]['accuracy']:.4f}" for kind in ("metrics", "last")]
    assert [
        row[:3] for row in reader.rows if row[0].removesuffix(" (selected)").isdigit() and row[2:3] == ["final"]
    ] == [
        [f"{epoch}" + (" (selected)" if epoch == record["best_epoch"] else ""), f"{20 * epoch}", "final"]
        for epoch in (5, 6, 7, 8)
    ]
    by_block = [[layer["rank"] for layer in ranks["layers"] if layer["block"] == block] for block in (0, 1)]
    assert ["block", "0", "1", "sum"] in reader.rows
    names = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense")
    for name, one, two in zip(names, *by_block, strict=True):
        assert reader.row(name) == [str(one), str(two), str(one + two)]
    assert reader.row("full fine-tuning") == ["–", "124,647,170", "475.5 MiB", "100.00 %"]
    assert [f"{record['budget']['trainable_parameters_final']:,}"] in [row[2:3] for row in reader.rows]
    assert reader.row("model.parameters") == ["124,647,170"]
    assert "task: glue/mrpc" in text
    assert "144 → 96" in text
    assert "after step 80" in text
    assert reader.tags["figure"] == 1 + 4  # the map; loss, accuracy, f1 and budget
    assert "Side by side" not in text


def test_every_cell_of_the_map_says_what_it_is(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", examples.bert(6))
    layers = RunRecords(run).read_ranks()["layers"]
    titles = [value for tag, name, value in read(run).attributes if (tag, name) == ("td", "title")]
    assert len(titles) == len(layers) == 36
    by_row = sorted(layers, key=lambda layer: [one["projection"] for one in layers].index(layer["projection"]))
    for title, layer in zip(titles, by_row, strict=True):
        name, rank, shape, scores = title.split("\n")
        rows, columns = layer["shape"]
        assert name == layer["name"]
        assert rank.startswith(f"rank {layer['rank']} of 12 ")
        assert shape == f"{rows:,} x {columns:,}, {layer['rank'] * (rows + columns):,} parameters"
        assert scores.startswith("scores: ")


def test_several_seeds(tmp_path: Path) -> None:
    records = [RunRecords(write_run(tmp_path / "mrpc" / f"seed-{seed}", seed=seed)) for seed in (1, 2, 3)]
    best = [run.read_metrics()["metrics"]["accuracy"] for run in records]
    last = [run.read_metrics()["last"]["accuracy"] for run in records]
    reader = read(tmp_path / "mrpc")

    def both(values: list[float]) -> str:
        return f"{mean(values):.4f} ± {stdev(values):.4f}"

    assert reader.row("accuracy") == [both(best), both(last), *(f"{value:.4f}" for value in best)]
    epoch = [run.read_metrics()["epochs"][2]["metrics"]["accuracy"] for run in records]
    assert next(row for row in reader.rows if row[0] == "3" and row[2] == "pruning")[3:6:2] == ["3", both(epoch)]
    ranks = [run.read_ranks()["layers"][0]["rank"] for run in records]
    title = next(value for tag, name, value in reader.attributes if (tag, name) == ("td", "title"))
    assert f"rank {mean(ranks):.2f} ± {stdev(ranks):.2f} (seeds: {', '.join(map(str, ranks))}) of 12" in title
    assert "Of seed 1; the runs differ in train.seed." in reader.texts
    assert [row[:2] for row in reader.rows if row[0].endswith("seed-2")] == [["mrpc/seed-2", "2"]]


def test_groups_side_by_side(tmp_path: Path) -> None:
    for rank, name in ((8, "large"), (2, "small")):
        for seed in (1, 2):
            write_run(tmp_path / name / f"seed-{seed}", seed=seed, rank=rank)
    reader = read(tmp_path / "large", tmp_path / "small")
    assert ["", "large", "small"] in reader.rows
    assert reader.row("method.rank") == ["8", "2"]
    assert reader.row("live components") == ["96", "24"]
    assert reader.row("finished runs") == ["2 of 2"] * 2
    assert all(re.fullmatch(r"0\.\d{4} ± 0\.\d{4}", cell) for cell in reader.row("accuracy, selected and last"))
    heads = [row[0] for row in reader.rows]
    assert "train.seed" not in heads
    assert "task" not in heads  # the same in both
    assert {("a", "href", "#group-1"), ("section", "id", "group-1"), ("section", "id", "group-2")} <= set(
        reader.attributes
    )
    assert reader.tags["figure"] == 3 + 2 * 5


def test_an_encoder_decoder_has_its_maps_apart(tmp_path: Path) -> None:
    text = read(write_run(tmp_path / "run", examples.bart(3))).texts
    titles = ("Encoder", "Decoder, self attention and FFN", "Decoder, cross attention")
    assert set(titles) <= {heading.partition(": ")[2] for heading in text}


def test_an_unfinished_run_shows_what_there_is(tmp_path: Path) -> None:
    reader = read(write_run(tmp_path / "run", stop=60))  # the event at 56 has pruned floor(48 (32 / 56)^3) = 8 of 144
    text = " ".join(reader.texts)
    assert "This run has not finished" in text
    (row,) = (row for row in reader.rows if row[:2] == ["run", "1"])
    assert row[2].endswith(": step 60, pruning")
    assert row[3:] == ["–", "136", "–", "–", "–"]
    assert "The rank map is written at the end of a run." in text
    assert [row[0] for row in reader.rows if row[-1:] and re.fullmatch(r"0\.\d{4}", row[-1])] == ["1", "2", "3"]
    assert reader.tags["figure"] == 4
    nothing = write_run(tmp_path / "nothing", stop=0)
    assert "not finished: " in " ".join(read(nothing).texts)
    beside = read(tmp_path / "run", write_run(tmp_path / "done", rank=4))
    assert "-" not in beside.texts, "what is unknown is one dash everywhere"
    assert beside.row("peak memory")[0] == "–"


def test_finished_and_unfinished_seeds(tmp_path: Path) -> None:
    for seed, stop in ((1, None), (2, None), (3, 60)):
        write_run(tmp_path / "mrpc" / f"seed-{seed}", seed=seed, stop=stop)
    reader = read(tmp_path / "mrpc")
    assert "3 runs; 1 run not finished: the page shows what there is so far" in reader.texts
    assert len(reader.row("accuracy")) == 2 + 2
    assert any(text.startswith("mean of ") for text in reader.texts)


def test_records_of_older_versions_and_missing_ones(tmp_path: Path) -> None:
    old = write_run(tmp_path / "old", parameters=None)
    reader = read(old)
    assert reader.row("full fine-tuning") == ["–", "not recorded", "–"]
    assert f"{8 * 2 * (4 * 1536 + 2 * 3840) + HEAD:,}" in reader.row("LoRA, rank 8 everywhere")
    for name in ("recipe.yaml", "environment.json", "log.jsonl"):
        (old / name).unlink()
    reader = read(old)
    assert reader.texts.count("not recorded") == 3  # size, recipe, environment
    assert reader.tags["figure"] == 1 + 3  # no loss


def test_a_method_without_adapters(tmp_path: Path) -> None:
    run = RunRecords(write_run(tmp_path / "run"))
    metrics = run.read_metrics()
    metrics["method"] = "head"
    metrics["budget"] = dict.fromkeys(metrics["budget"], 0) | {
        "trainable_parameters_start": HEAD,
        "trainable_parameters_final": HEAD,
    }
    ranks = {
        "schema_version": 1,
        "unit": "component",
        "start_rank": None,
        "target_rank": None,
        "live_components": 0,
        "layers": [],
        "history": [],
    }
    write_json(run.metrics, metrics)
    write_json(run.ranks, ranks)
    reader = read(run.folder)
    assert "No projection is adapted, so there is no rank map." in reader.texts
    assert reader.row("this run")[1] == f"{HEAD:,}"


def test_a_method_whose_ranks_stay(tmp_path: Path) -> None:
    run = RunRecords(write_run(tmp_path / "run"))
    metrics, ranks = run.read_metrics(), run.read_ranks()
    ends = [index % 4 for index in range(len(ranks["layers"]))]
    layers = [
        {**layer, "rank": end, "start_rank": end, "scores": None}
        for layer, end in zip(ranks["layers"], ends, strict=True)
    ]
    size = sum(layer["rank"] * sum(layer["shape"]) for layer in layers)
    metrics["method"] = "lora"
    metrics["budget"] = {
        "start_components": sum(ends),
        "final_components": sum(ends),
        "live_components": sum(ends),
        "trainable_parameters_start": size + HEAD,
        "trainable_parameters_final": size + HEAD,
        "adapter_parameters_final": size,
    }
    phases = [{"name": "training", "first": 1, "last": 160}]
    ranks |= {"layers": layers, "start_rank": None, "target_rank": None, "live_components": sum(ends), "history": []}
    write_json(run.metrics, metrics)
    write_json(run.ranks, {**ranks, "phases": phases})
    log = [json.loads(line) for line in run.log.read_text().splitlines()]
    lines = [{**line, "budget": sum(ends), "live": sum(ends)} if line["type"] == "train" else line for line in log]
    write_jsonl(run.log, lines)
    reader = read(run.folder)
    assert "components" in reader.texts
    assert "live components" not in reader.texts[: reader.texts.index("Results")]
    assert "Where the ranks are" in reader.texts
    assert reader.row("this run")[1] == f"{size + HEAD:,}"
    assert not any("Budget" in text for text in reader.texts)
    assert any("highest " in text for text in reader.texts)
    assert reader.tags["figure"] == 1 + 3, "the map; loss, accuracy and f1"


HOSTILE = "</script><script>alert(1)</script>\"'><img src=http://x.invalid/a.png onerror=alert(2)> & <!-- &amp;"


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    """In the recipe, the records, the log and the path: everything a stranger's run folder can hold."""
    tame = Reader(page(find_groups([write_run(tmp_path / "tame")])))
    folder = tmp_path / "<b>\"'&"
    write_run(folder, model=HOSTILE)
    for name in ("ranks.json", "metrics.json", "log.jsonl", "environment.json"):
        text = (folder / name).read_text(encoding="utf-8")
        escaped = HOSTILE.replace('"', '\\"')
        for word in (
            "bert.encoder.layer",
            "self.query",
            'component"',
            "accuracy",
            "best-after-freeze",
            "glue/mrpc",
            "pruning",
            'cpu",',
        ):
            text = text.replace(word, f"{escaped}{word}")
        (folder / name).write_text(text, encoding="utf-8")
    reader = read(folder)
    for one in (reader, tame):
        del one.tags["wbr"]  # a long name may be broken at more places
    assert reader.tags == tame.tags
    assert {(tag, name) for tag, name, _ in reader.attributes} <= {(tag, name) for tag, name, _ in tame.attributes}
    assert any(HOSTILE in text for text in reader.texts)
    assert sum(value.startswith(HOSTILE) for _, name, value in reader.attributes if name == "title") == 12


def make_e2e(folder: Path) -> RunRecords:
    """A run of data to text: loss and greedy scores between epochs, scores of the final outputs at the end."""
    run = RunRecords(write_run(folder, extra="decode: {split: test, beams: 10}\n"))
    metrics = run.read_metrics()
    for number, entry in enumerate(metrics["epochs"]):
        entry["metrics"] = {"loss": 0.9 - number / 20, "greedy_bleu": 0.4 + number / 50}
    chosen = next(entry for entry in metrics["epochs"] if entry["epoch"] == metrics["best_epoch"])
    final = {"loss": chosen["metrics"]["loss"], "bleu": 0.7, "meteor": None}
    metrics |= {"task": "e2e", "metrics": final, "last": metrics["epochs"][-1]["metrics"]}
    write_json(run.metrics, metrics)
    text = run.recipe.read_text(encoding="utf-8").replace("glue/mrpc", "e2e")
    run.recipe.write_text(text, encoding="utf-8")
    return run


def test_final_outputs_and_evaluations_between_epochs_are_tables_of_their_own(tmp_path: Path) -> None:
    """Neither has a dash because the other has the metric; a dash is a score that could not be computed."""
    run = make_e2e(tmp_path / "e2e")
    epochs, best = run.read_metrics()["epochs"], run.read_metrics()["best_epoch"]
    reader = read(run.folder)
    assert {"Final outputs: test split, 10 beams", "Between epochs"} <= set(reader.texts)
    assert reader.row("bleu") == ["0.7000"]
    assert reader.row("meteor") == ["\u2013"]
    for name in ("loss", "greedy_bleu"):
        selected, last = (entry["metrics"][name] for entry in (epochs[best - 1], epochs[-1]))
        assert reader.row(name.replace("_", " ")) == [f"{selected:.4f}", f"{last:.4f}"]


def test_tasks_are_compared_apart(tmp_path: Path) -> None:
    """A score of one task stands beside no run of another."""
    runs = [make_e2e(tmp_path / "e2e").folder, write_run(tmp_path / "one"), write_run(tmp_path / "two", rank=4)]
    reader = read(*runs)
    assert reader.row("bleu, final outputs") == ["0.7000"]
    (accuracy,) = [row for row in reader.rows if row[0].startswith("accuracy, ")]
    assert len(accuracy) == 1 + 2
    assert "The only recipe of this task." in reader.texts


def test_keys_of_one_method_alone_do_not_fill_the_comparison(tmp_path: Path) -> None:
    dora, head = write_run(tmp_path / "dora"), write_run(tmp_path / "head")
    recipe = (head / "recipe.yaml").read_text(encoding="utf-8").replace("{name: dora, rank: 8}", "{name: head}")
    (head / "recipe.yaml").write_text(recipe.replace("epochs: 8", "epochs: 9, log_every: 7"), encoding="utf-8")
    heads = [row[0] for row in read(dora, head).rows]
    assert "train.epochs" in heads
    assert not {"method.rank", "train.log_every"} & set(heads)


def test_a_metric_that_was_measured_once_has_no_chart(tmp_path: Path) -> None:
    run = RunRecords(write_run(tmp_path / "run"))
    metrics = run.read_metrics()
    metrics |= {"epochs": metrics["epochs"][-1:], "best_epoch": metrics["epochs"][-1]["epoch"]}
    write_json(run.metrics, metrics)
    reader = read(run.folder)
    assert reader.tags["figure"] == 1 + 2  # the map; loss and budget
    assert any("measured once" in text for text in reader.texts)


def test_short_runs_and_small_budgets_are_seen_beside_long_and_large_ones(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "long"), write_run(tmp_path / "short", rank=2, stop=40)]
    text = " ".join(read(*runs).texts)
    assert "share of each run\u2019s steps" in text
    assert "short, 40 steps so far" in text
    assert "Live components, logarithmic axis" in text
    alike = " ".join(read(runs[0], write_run(tmp_path / "other", rank=6)).texts)
    assert "share of" not in alike
    assert "logarithmic" not in alike


def test_of_many_recipes_each_is_folded(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"r{rank}", rank=rank) for rank in range(1, 10)]
    few, many = read(*runs[:3]), read(*runs)
    folded = [value for tag, name, value in many.attributes if (tag, name) == ("details", "id")]
    assert folded == [f"group-{index}" for index in range(1, 10)]
    assert not [value for tag, name, value in few.attributes if (tag, name) == ("details", "id")]
    assert "Charts show at most 8 recipes" in " ".join(many.texts)
    assert read(*runs[:8]).tags["figure"] == 3 + 8 * 5


def test_the_map_is_turned_as_in_the_terminal_and_in_plots(tmp_path: Path) -> None:
    """Projections down, blocks across, everywhere."""
    run = write_run(tmp_path / "run", examples.bert(3))
    record = RunRecords(run).read_ranks()
    rows = [row for row in read(run).rows if row[0] in ("query", "key", "value")]
    file = io.StringIO()
    render(record, Console(file=file, width=120))
    terminal = [line.split() for line in file.getvalue().splitlines()]
    assert all(row in terminal for row in rows)
    lines = rank_lines(rank_maps(record), 80, 20, shade=lambda share: Style(), glyphs=ASCII, colours=False)
    live = ["".join(segment.text for segment in line).split() for line in lines]
    assert all(row[:-1] in live for row in rows)
    (found,) = rank_maps(record)
    plotted = [[name, *map(str, cells)] for name, cells in zip(found.headings, found.cells, strict=True)]
    assert plotted[:3] == [row[:-1] for row in rows]


def test_nothing_comes_from_elsewhere(tmp_path: Path) -> None:
    html = page(find_groups([write_run(tmp_path / "run")]))
    links = {
        (tag, name): value
        for tag, name, value in Reader(html).attributes
        if name in ("src", "href", "action", "data", "srcset")
    }
    assert links == {("link", "href"): "data:,"}
    assert html.count("<script>") == html.count(SCRIPT) == 1
    assert "url(" not in html
    assert "@import" not in html


def test_the_same_runs_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("here", "there"):
        for seed in (1, 2):
            write_run(tmp_path / place / "runs" / f"seed-{seed}", seed=seed)
    pages = []
    for place in ("here", "there"):
        monkeypatch.chdir(tmp_path / place)
        pages.append(page(find_groups([Path("runs")])))
    assert pages[0] == pages[1]


def test_damaged_records_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "environment.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"environment\.json is damaged"):
        find_groups([run])
    shutil.rmtree(run)
    write_run(run)
    (run / "metrics.json").write_text('{"schema_version": 1}', encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"metrics\.json is damaged"):
        find_groups([run])
