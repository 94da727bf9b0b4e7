"""`dora report`: one page of a run that was really made, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands.conftest import Refuse, Trained, dora, forked
from tests.reports.compare.examples import experiment, write_experiment
from tests.reports.html.folders import write_run


def test_a_real_run(trained: Trained, tmp_path: Path) -> None:
    output = tmp_path / "report.html"
    done = forked("report", trained.folder, "--output", output, cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-1] == f"report: {output}"
    assert "dora, 1 of 1 run finished" in done.out.splitlines()[0]
    html = output.read_text(encoding="utf-8")
    environment = json.loads((trained.folder / "environment.json").read_text())
    metrics = json.loads((trained.folder / "metrics.json").read_text())
    model, budget = environment["model"], metrics["budget"]
    assert f"{model['parameters']:,}" in html
    assert model["bytes"] == 4 * model["parameters"]
    # what trained at the start is the adapters' factors, one gate a component, and the head
    layers = json.loads((trained.folder / "ranks.json").read_text())["layers"]
    factors = sum(layer["start_rank"] * sum(layer["shape"]) for layer in layers)
    assert model["head_parameters"] == budget["trainable_parameters_start"] - factors - budget["start_components"]
    assert f"{metrics['metrics']['accuracy']:.4f}" in html
    assert all(f"{layer['name']}\n" in html for layer in layers)
    again = dora("report", trained.folder, "-o", output, "--overwrite")
    assert again.code == 0
    assert output.read_text(encoding="utf-8") == html


def test_several_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2):
        write_run(Path("runs/large") / f"seed-{seed}", seed=seed)
    write_run(Path("runs/small"), rank=2, stop=60)
    done = dora("report", "runs/large", "runs/small", "--output", "new/report.HTM")
    assert done.out.splitlines() == [
        "large: glue/mrpc, FacebookAI/roberta-base, dora, 2 of 2 runs finished",
        "small: glue/mrpc, FacebookAI/roberta-base, dora, 0 of 1 run finished",
        "report: new/report.HTM",
    ]
    page = Path("new/report.HTM").read_text(encoding="utf-8")
    assert all(f">{name}" in page for name in ("large", "small"))


def test_what_it_refuses(refuses: Refuse, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (tmp_path / "old.html").write_text("mine")
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "file").write_text("x")
    new = tmp_path / "new.html"
    refuses("report", tmp_path / "none", "-o", new, says=["folder", "none", "dora train"])
    refuses("report", tmp_path / "folder.html", "-o", new, says=["no ranks.json"])
    refuses("report", run, run, "-o", new, says=["named twice"])
    refuses("report", run, "-o", tmp_path / "old.html", says=["exists already", "--overwrite"])
    refuses("report", run, "-o", tmp_path / "report.pdf", says=["ends in .pdf", ".html"])
    refuses("report", run, "-o", tmp_path / "report", says=["no ending", ".html"])
    refuses("report", run, "-o", tmp_path / "folder.html", says=["folder.html ", "report.html"])
    refuses("report", run, "-o", tmp_path / "file" / "a.html", says=["file/a.html "])
    (run / "ranks.json").write_text("{")
    refuses("report", run, "-o", new, says=["ranks.json ", "damaged"])


def test_a_dash_is_stdout(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    done = dora("report", run, "-o", "-")
    assert done.code == 0, done.err
    assert done.out.startswith("<!doctype html>")
    assert done.out.endswith("</html>\n")
    assert done.err.endswith("report: stdout\n")


def test_an_experiment_is_a_page_or_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    record = experiment(2, 3, 4)
    write_experiment(Path("many"), record, with_ranks=["dora"])
    page = dora("report", "many", "-o", "page.html")
    assert page.code == 0, page.err
    lines = page.out.splitlines()
    assert len(lines) == len(record["comparisons"]) + 3, "a sentence for each comparison, and two lost runs"
    assert lines[-1] == "report: page.html"
    assert Path("page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    for name in ("table.md", "table.MARKDOWN"):
        assert dora("report", "many", "-o", name).code == 0
    assert "| method |" in Path("table.md").read_text(encoding="utf-8")
    assert Path("table.md").read_bytes() == Path("table.MARKDOWN").read_bytes()
    out = dora("report", "many", "-o", "-")
    assert out.out == Path("page.html").read_text(encoding="utf-8")
    assert out.err.splitlines() == [*lines[:-1], "report: stdout"]


@pytest.mark.parametrize("ending", ["html", "md"])
@pytest.mark.parametrize("cells", [False, True])
def test_an_experiment_without_a_result_is_refused_by_what_it_is(
    refuses: Refuse, tmp_path: Path, ending: str, cells: bool
) -> None:
    """Whatever the file is called; the command that is named goes on with it."""
    many = write_experiment(tmp_path / "many", experiment(1, 2, 2))
    (many / "comparison.json").unlink()
    if cells:
        write_experiment(many, {**experiment(1, 2, 2), "cells": [], "comparisons": []})
    (many / "experiment.yaml").write_text("tasks: []")
    said = ["many is an experiment", "no result yet", f"--output {many} --resume", f"{many / 'experiment.yaml'}"]
    refuses("report", many, "-o", tmp_path / f"new.{ending}", says=said)
    if not cells:
        refuses("report", write_run(tmp_path / "run"), many, "-o", tmp_path / "new.html", says=said)


def test_what_it_refuses_of_experiments(refuses: Refuse, tmp_path: Path) -> None:
    many = write_experiment(tmp_path / "many", experiment(1, 2, 2))
    run = write_run(tmp_path / "run")
    new = tmp_path / "new.html"
    refuses("report", many, run, "-o", new, says=["many is an experiment", "alone"])
    refuses("report", many, many, "-o", new, says=["many is an experiment", "alone"])
    refuses("report", many, "-o", tmp_path / "table.tex", says=["ends in .tex", ".md"])
    refuses("report", run, "-o", tmp_path / "table.md", says=["ends in .md", ".html"])
    (tmp_path / "old.md").write_text("mine")
    refuses("report", many, "-o", tmp_path / "old.md", says=["exists already", "--overwrite"])
    (many / "comparison.json").write_text("{}")
    refuses("report", many, "-o", new, says=["comparison.json ", "damaged"])
