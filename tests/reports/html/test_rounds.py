"""Rounds and clients on the page."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, stdev

from dora_cli.atomic import write_json
from dora_cli.reports.html.groups import find_groups
from dora_cli.reports.html.page import page
from dora_cli.runs.run_folder import RunRecords
from tests.reports.html.folders import write_run
from tests.reports.html.test_page import Reader


def read(*folders: Path) -> Reader:
    return Reader(page(find_groups(folders)))


def table(reader: Reader, head: str) -> list[list[str]]:
    """The rows of the first table whose first column has that head, its own included."""
    start = next(index for index, row in enumerate(reader.rows) if row[:1] == [head])
    end = next((i for i, row in enumerate(reader.rows) if i > start and not row[0].isdigit()), len(reader.rows))
    return reader.rows[start:end]


def test_one_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", clients=4)
    metrics = RunRecords(run).read_metrics()
    reader = read(run)
    head, first, second, *others = table(reader, "round")
    assert head == [
        "round", "step", "accuracy", "loss of the clients", "correction", "distance", "up", "down", "clients",
        "failed or left out",
    ]  # fmt: skip
    accuracy = metrics["epochs"][1]["metrics"]["accuracy"]
    assert first[-2:] == ["3 of 4", "left out 2"]
    # a loss of 0.45 and a hundredth for each client's number, of 100, 200 and 400 examples
    assert second == [
        "2", "40", f"{accuracy:.4f}", f"{0.45 + (1 + 2 * 2 + 4 * 4) / 700:.4f}", "0.00625", "1.7 %", "3.8 MiB",
        "5.1 MiB", "3 of 4", "failed 3",
    ]  # fmt: skip
    assert len(others) == 6
    assert all(row[-2:] == ["4 of 4", "–"] for row in others)
    clients = table(reader, "client")
    assert clients[0] == ["client", "examples", "no", "yes", "last loss", "trained", "left out", "failed"]
    assert clients[3] == ["3", "300", "70 %", "30 %", "0.1425", "7", "0", "1"]
    assert len(clients) == 1 + 4


def test_several_seeds_have_their_mean_and_each_its_clients(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        run = write_run(tmp_path / "runs" / f"seed-{seed}", seed=seed, clients=4)
        if seed == 2:
            records = RunRecords(run)
            metrics = records.read_metrics()
            metrics["rounds"][3]["correction"] *= 4
            metrics["rounds"][3]["clients"][0] |= {"state": "failed", "loss": None}
            write_json(records.metrics, metrics)
    reader = read(tmp_path / "runs")
    head, _, _, _, fourth, *_ = table(reader, "round")
    assert (head[2], head[-1]) == ("runs", "failed")
    corrections = [0.0125 / 4, 0.0125, 0.0125 / 4]
    assert fourth[5] == f"{mean(corrections):.3g} ± {stdev(corrections):.3g}"
    assert fourth[-2:] == ["3–4 of 4", "seed 2: 1"]
    assert [text for text in reader.texts if text.startswith("Clients, seed")] == [
        f"Clients, seed {seed}" for seed in (1, 2, 3)
    ]


def test_a_run_that_goes_on_shows_the_rounds_that_are_over(tmp_path: Path) -> None:
    reader = read(write_run(tmp_path / "run", clients=4, stop=60))
    assert [row[0] for row in table(reader, "round")] == ["round", "1", "2", "3"]
    assert table(reader, "client")[0] == ["client", "examples", "last loss", "trained", "left out", "failed"]


def test_no_correction_where_the_server_does_not_correct(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", clients=4)
    records = RunRecords(run)
    metrics = records.read_metrics()
    for one in metrics["rounds"]:
        one |= {"aggregation": "average", "correction": 0.0}
    write_json(records.metrics, metrics)
    reader = read(run)
    assert "correction" not in table(reader, "round")[0]
    assert not any("Correction" in text for text in reader.texts)


def test_many_rounds_are_folded(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", clients=4)
    text = page(find_groups([run]))
    assert "Rounds and clients" not in text
    records = RunRecords(run)
    metrics = json.loads(json.dumps(records.read_metrics()))
    last = metrics["rounds"][-1]
    metrics["rounds"] += [{**last, "round": number, "step": 20 * number} for number in range(9, 14)]
    write_json(records.metrics, metrics)
    assert "<details><summary>Rounds and clients</summary>" in page(find_groups([run]))


def test_no_such_section_of_any_other_run(tmp_path: Path) -> None:
    reader = read(write_run(tmp_path / "run"))
    assert not any(row[:1] in (["round"], ["client"]) for row in reader.rows)


def test_the_name_of_a_class_is_no_part_of_the_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", clients=4)
    records = RunRecords(run)
    metrics = records.read_metrics()
    metrics["clients"][0]["labels"] = {"<img src=x>": 90, "yes": 10}
    write_json(records.metrics, metrics)
    reader = read(run)
    assert reader.tags["img"] == 0
    assert "<img src=x>" in table(reader, "client")[0]
