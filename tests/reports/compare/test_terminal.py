"""What an experiment ends with in a terminal: every score and every verdict, at any width."""

from __future__ import annotations

import io
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from rich.console import Console

from dora_cli.errors import CheckpointError
from dora_cli.reports.compare.markdown import markdown
from dora_cli.reports.compare.results import Results
from dora_cli.reports.compare.terminal import next_commands, print_comparison
from dora_cli.reports.compare.verdicts import p_value, unfinished, verdict, warnings
from dora_cli.reports.console import make_console
from tests.reports.compare.examples import MAJORITY, experiment, pooled


def shown(record: dict[str, Any], width: int = 200, *, encoding: str = "utf-8", terminal: bool = True) -> str:
    buffer = io.BytesIO()
    file = io.TextIOWrapper(buffer, encoding=encoding, write_through=True)
    print_comparison(Console(file=file, width=width, force_terminal=terminal, no_color=True), record)
    return buffer.getvalue().decode(encoding).replace("\x1b[1m", "").replace("\x1b[2m", "").replace("\x1b[0m", "")


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize(("tasks", "methods", "seeds"), [(1, 1, 1), (1, 2, 3), (2, 4, 10), (5, 10, 30)])
def test_every_number_is_there_at_any_width(tasks: int, methods: int, seeds: int, width: int) -> None:
    record = experiment(tasks, methods, seeds)
    text = shown(record, width)
    assert all(len(line) <= width for line in text.splitlines())
    for cell in record["cells"]:
        scores = [run["score"] for run in cell["runs"]]
        said = f"{mean(scores):.4f}" + (f" \u00b1 {stdev(scores):.4f}" if seeds > 1 else "")
        assert said in text
    for found in Results.of(record).record.comparisons:
        assert verdict(found) in words(text)
        if found.low is not None:
            assert f"{found.low:+.4f} to {found.high:+.4f}" in text
    assert all(method["name"] in text for method in record["methods"])


def test_the_row_of_a_method_has_its_numbers() -> None:
    record = experiment(1, 2, 3)
    lora, dora = (
        line.split() for line in shown(record).splitlines() if line.startswith(("lora ", "dora ")) and "\u00b1" in line
    )
    found = record["comparisons"][0]
    assert lora[-1] == "baseline"
    seconds = round(mean(run["seconds"] for run in record["cells"][1]["runs"]))
    assert dora[4:6] == ["37,376", f"{seconds}s"]
    assert dora[6] == f"{found['mean']:+.4f}"
    assert dora[-1] == found["verdict"]


@pytest.mark.parametrize("width", [80, 240])
def test_each_comparison_of_a_method_has_a_row(width: int) -> None:
    """The head alone, say, is compared with LoRA of every rank."""
    record = experiment(1, 3, 3)
    first, other = record["comparisons"][0], record["methods"][2]["name"]
    record["comparisons"].append({**first, "baseline": other, "mean": 0.2468})
    name = first["method"]
    text, table = shown(record, width), markdown(Results.of(record))
    for baseline, mean_of in ((first["baseline"], first["mean"]), (other, 0.2468)):
        row = next(line for line in text.splitlines() if line.startswith(f"{name} beside {baseline} "))
        assert f"{mean_of:+.4f}" in row
        row = next(line for line in table.splitlines() if line.startswith(f"| {name} beside {baseline} |"))
        assert f"{abs(mean_of):.4f}" in row


@pytest.mark.parametrize("width", [40, 80, 240])
def test_what_is_pooled_has_rows_of_its_own(width: int) -> None:
    record = pooled(2, (1, 2))
    text = shown(record, width)
    (found,) = record["comparisons"]
    assert all(len(line) <= width for line in text.splitlines())
    assert all(method["name"] in text for method in record["methods"])
    if width > 40:
        (row,) = (line.split() for line in text.splitlines() if line.startswith("dora  "))
        assert row == ["dora", f"{found['mean']:+.4f}", f"{found['low']:+.4f}", "to", f"{found['high']:+.4f}",
                       *p_value(found["p_holm"]).split(), found["verdict"]]  # fmt: skip
    assert f"{found['low']:+.4f} to {found['high']:+.4f}" in text
    assert verdict(Results.of(record).record.comparisons[0]) in words(text)


def test_a_terminal_without_signs_and_a_file() -> None:
    record = experiment(1, 2, 3)
    assert " +/- " in shown(record, encoding="ascii")
    long = verdict(Results.of(record).record.comparisons[0])
    assert long in shown(record, 60, terminal=False).splitlines(), "a line in a file stays one line"


def test_what_must_be_known_is_said() -> None:
    record = experiment(2, 2, 3, complete=False)
    runs = record["cells"][0]["runs"]
    runs[1] |= {"outcome": "missing", "score": None, "folder": None, "stored_parameters": None, "seconds": None}
    record["cells"][2]["runs"] = [{**run, "score": MAJORITY} for run in runs]
    record["tasks"][1]["majority"] = 0.99
    record["comparisons"][0]["dropped"] = [12]
    text = words(shown(record))
    results = Results.of(record)
    assert unfinished(results.record) in text
    assert warnings(results.record.comparisons[0])[0] in text
    assert record["notes"][0] in text
    assert f"{mean(runs[index]['score'] for index in (0, 2)):.4f} " in text, "over those that have one"
    assert "lora on rte: 2 of 3 runs" in text
    assert "cola 0.9900" in text


def test_nothing_is_known() -> None:
    record = experiment(2, 3, 2)
    record["cells"] = []
    unknown = dict.fromkeys(("mean", "sd", "low", "high", "p", "p_holm", "p_equivalent", "p_non_inferior", "margin",
                             "detectable", "power_equivalent", "bootstrap", "size_ratio"))  # fmt: skip
    record["comparisons"] = [{**found, **unknown, "seeds": 0, "verdict": "withheld", "by_task": []}
                             for found in record["comparisons"]]  # fmt: skip
    text = shown(record)
    assert text.count("withheld") == 2
    record["comparisons"] = []
    assert "difference" not in shown(record)


@pytest.mark.parametrize("place", ["method", "part"])
def test_hostile_pooled_values_are_refused(place: str) -> None:
    """They stand in sentences that a terminal shows."""
    record = pooled(2, (1, 2))
    holder = record["methods"][0]["swept"] if place == "method" else record["comparisons"][0]["by_task"][0]["pooled"]
    holder["method.rank"] = "\x1b[2J"
    with pytest.raises(CheckpointError):
        shown(record)


def test_hostile_names_are_shown_and_not_obeyed() -> None:
    record = experiment(1, 2, 3, names=["[red]x[/red]", "<b>"])
    assert "[red]x[/red]" in shown(record)
    record["methods"][0]["name"] = "\x1b[2J"
    file = io.StringIO()
    with pytest.raises(CheckpointError, match=r"methods\[0\]\.name"):
        print_comparison(make_console(file), record)
    assert file.getvalue() == ""


def test_commands_that_go_on_from_here() -> None:
    assert next_commands(Path("my runs")) == [
        "dora report 'my runs' --output 'my runs/report.html'",
        "dora report 'my runs' --output 'my runs/table.md'",
    ]
