from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from dora_cli.atomic import write_json
from dora_cli.commands.ranks import ranks as command
from dora_cli.errors import CheckpointError, OptionError, OutputError
from dora_cli.runs.log import LogFile
from dora_cli.runs.run_folder import RunRecords
from tests.reports.examples import bert, metrics, ranks

app = typer.Typer()
app.command()(command)


def run(*arguments: str, width: int = 80) -> str:
    result = CliRunner(env={"COLUMNS": str(width)}).invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return str(result.stdout)


def refusal(*arguments: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    return str(caught.value)


def make_run(folder: Path, *, seed: int = 1, blocks: int = 2, at: int | None = None, finished: bool = True) -> Path:
    records = RunRecords(folder)
    write_json(records.ranks, ranks(bert(blocks), seed=seed))
    if finished:
        write_json(records.metrics, metrics(seed=seed))
    if at is not None:
        os.utime(records.ranks, (at, at))
    return folder


def test_a_run_folder(tmp_path: Path):
    text = run(str(make_run(tmp_path / "run")), width=200)
    assert text.splitlines()[:2] == [str(tmp_path / "run"), "glue/mrpc, FacebookAI/roberta-base, dora, seed 1"]
    assert re.search(r"^Live: 96 .* 96 \(rank 8 x 12 ", text, flags=re.MULTILINE)


def test_a_run_that_has_no_metrics_yet(tmp_path: Path):
    text = run(str(make_run(tmp_path / "run", finished=False)))
    assert "glue/mrpc" not in text
    assert "Live: 96 components" in text


def test_json_is_the_file_as_it_is(tmp_path: Path):
    folder = make_run(tmp_path / "run")
    path = folder / "ranks.json"
    record = {**json.loads(path.read_text()), "unit": "\u00e9"}
    path.write_text(json.dumps(record, indent=7, ensure_ascii=False), encoding="utf-8")
    assert run(str(folder), "--json") == path.read_text(encoding="utf-8")


def test_without_a_folder_the_newest_run_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs/old"), at=1_000)
    make_run(Path("runs/deep/er/newest"), at=3_000)
    make_run(Path("runs/older"), at=2_000)
    assert run(width=200).splitlines()[0] == str(Path("runs/deep/er/newest"))


def test_the_newest_run_may_be_one_of_several_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs/x/seed-1"), seed=1, at=1_000)
    make_run(Path("runs/x/seed-2"), seed=2, at=2_000)
    lines = run(width=200).splitlines()
    assert lines[0] == str(Path("runs/x/seed-2"))
    assert lines[2].endswith(f": dora ranks {Path('runs/x')}")


def test_several_seeds_are_averaged_and_unfinished_ones_named(tmp_path: Path):
    for seed in (1, 2, 10):
        make_run(tmp_path / f"seed-{seed}", seed=seed)
    (tmp_path / "seed-3").mkdir()
    text = run(str(tmp_path), width=300)
    lines = text.splitlines()
    assert re.match(rf"{re.escape(str(tmp_path))}: .* 3 ", lines[0])
    assert lines[1].endswith(" seed-1, seed-2, seed-10")
    assert lines[2].endswith(": seed-3")
    assert re.search(r"^Live: 96\.0 ", text, flags=re.MULTILINE)
    mean = json.loads(run(str(tmp_path), "--json"))
    single = [json.loads((tmp_path / f"seed-{seed}" / "ranks.json").read_text()) for seed in (1, 2, 10)]
    assert mean["runs"] == ["seed-1", "seed-2", "seed-10"]
    for index, layer in enumerate(mean["layers"]):
        assert layer["ranks"] == [record["layers"][index]["rank"] for record in single]
        assert layer["rank"] == pytest.approx(sum(layer["ranks"]) / 3)


def test_seeds_of_which_none_has_finished(tmp_path: Path):
    (tmp_path / "seed-1").mkdir()
    said = refusal(str(tmp_path))
    assert "seed-1" in said
    assert "ranks.json" in said


def test_a_folder_of_other_runs_names_the_newest(tmp_path: Path):
    make_run(tmp_path / "a", at=1_000)
    newest = make_run(tmp_path / "b", at=2_000)
    said = refusal(str(tmp_path))
    assert str(newest) in said
    assert str(newest.with_name("a")) not in said


def test_what_is_no_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert "no run with a ranks.json under runs/" in refusal()
    assert " absent" in refusal("absent")
    (tmp_path / "empty").mkdir()
    assert "no ranks.json in empty" in refusal("empty")
    (tmp_path / "plain.txt").write_text("")
    assert "plain.txt " in refusal("plain.txt")


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_a_damaged_file_is_refused_in_both_forms(tmp_path: Path, arguments: list[str]):
    path = make_run(tmp_path / "run") / "ranks.json"
    path.write_text(path.read_text()[:100])
    assert "is damaged: line" in refusal(str(tmp_path / "run"), *arguments)


# Views and pictures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--by", "block"], r"block 1 +6 "),
        (["--by", "projection"], r"attention\.output\.dense +2 "),
        (["--by", "group"], r"FFN +4 "),
        (["--scores"], r"\b96 .* live"),
        (["--history"], r"pruning  .*\b118\b.*\b390\b"),
    ],
)
def test_views(tmp_path: Path, options: list[str], says: str):
    folder = make_run(tmp_path / "run")
    text = run(str(folder), *options, width=120)
    assert text.splitlines()[0] == str(folder)
    assert re.search(says, text)
    assert "block      " not in text, "the table of ranks is another view"


@pytest.mark.parametrize("options", [["--compare", "b"], ["--compare", "b", "--by", "block"]])
def test_two_runs_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]):
    monkeypatch.chdir(tmp_path)
    make_run(Path("a"), seed=1)
    make_run(Path("b"), seed=2)
    text = run("a", *options, width=120)
    assert text.splitlines()[0] == "a minus b"
    assert ("block      " in text) == ("--by" not in options)
    assert re.search(r"all +12 +96 +96 +0\n", text)


def test_runs_of_other_projections_are_not_compared(tmp_path: Path):
    one, two = make_run(tmp_path / "a", blocks=1), make_run(tmp_path / "b", blocks=2)
    said = refusal(str(one), "--compare", str(two))
    assert all(str(folder) in said for folder in (one, two))
    assert " nowhere" in refusal(str(one), "--compare", "nowhere")


@pytest.mark.parametrize(
    ("options", "what", "writes"),
    [
        ([], "map", "query"),
        (["--json"], "map", "query"),
        (["--by", "block"], "map", "query"),
        (["--scores"], "scores", "lowest live"),
        (["--history"], "budget", "390"),
        (["--what", "training"], "training", "evaluation: accuracy"),
        (["--scores", "--what", "budget"], "budget", "390"),
        (["--compare", "other"], "difference", "minus"),
    ],
)
def test_a_picture_shows_what_is_shown_or_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], what: str, writes: str
):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    make_run(Path("run"))
    make_run(Path("other"), seed=2)
    result = CliRunner().invoke(app, ["run", *options, "--plot", "new/a.svg"], catch_exceptions=False)
    assert result.exit_code == 0
    assert f"{what}: {Path('new/a.svg')}\n" in result.stderr
    assert result.stdout == run(
        "run", *[option for option in options if option not in ("--what", "training", "budget")]
    )
    assert writes in Path("new/a.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--by", "block", "--scores"], "--by and --scores do not go together"),
        (["--json", "--history"], "--history and --json "),
        (["--compare", "x", "--scores"], "--scores and --compare "),
        (["--what", "map"], "there is no --plot"),
        (["--what", "map", "--plot", "a.svg", "--compare", "x"], "--what map and --compare do not go together"),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, options: list[str], says: str):
    with pytest.raises(OptionError, match=says):
        CliRunner().invoke(app, [str(make_run(tmp_path / "run")), *options], catch_exceptions=False)


def test_a_picture_that_cannot_be_drawn_prints_nothing(tmp_path: Path):
    folder = make_run(tmp_path / "run")
    with pytest.raises(OutputError, match=r"a\.gif .*\.svg"):
        CliRunner().invoke(app, [str(folder), "--plot", str(tmp_path / "a.gif")], catch_exceptions=False)
    (tmp_path / "file").write_text("")
    pytest.importorskip("matplotlib")
    with pytest.raises(OutputError, match=r"file.a\.svg "):
        CliRunner().invoke(app, [str(folder), "--plot", str(tmp_path / "file" / "a.svg")], catch_exceptions=False)


def test_a_run_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with LogFile(Path("run/log.jsonl")) as log:
        for step, live in ((50, 144), (100, 140)):
            log.write({"type": "train", "step": step, "phase": "pruning", "budget": live, "live": live, "loss": 0.5})
    assert "ranks.json" in refusal("run")
    assert "dora ranks run --history" in refusal("run", "--scores")
    text = run("run", "--history")
    assert "not finished" in text
    assert "144 -> 140 components in 100 steps" in text
    Path("run/log.jsonl").write_text("")
    assert " logged " in refusal("run", "--history")


def test_importing_the_command_is_cheap():
    code = (
        "import sys, dora_cli.commands.ranks\n"
        "heavy = {'torch', 'transformers', 'pydantic', 'numpy', 'datasets', 'sklearn', 'matplotlib'} & "
        "set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_a_picture_replaces_a_file_only_if_asked(tmp_path: Path):
    pytest.importorskip("matplotlib")
    folder, picture = make_run(tmp_path / "run"), tmp_path / "a.svg"
    picture.write_text("mine")
    with pytest.raises(OutputError, match=r"--plot .*a\.svg .* --overwrite"):
        CliRunner().invoke(app, [str(folder), "--plot", str(picture)], catch_exceptions=False)
    assert picture.read_text() == "mine"
    CliRunner().invoke(app, [str(folder), "--plot", str(picture), "--overwrite"], catch_exceptions=False)
    assert "<svg" in picture.read_text(encoding="utf-8")
    with pytest.raises(OutputError, match="--plot - is stdout"):
        CliRunner().invoke(app, [str(folder), "--plot", "-"], catch_exceptions=False)
    with pytest.raises(OptionError, match="--overwrite needs"):
        CliRunner().invoke(app, [str(folder), "--overwrite"], catch_exceptions=False)


def test_ranks_for_another_tool(tmp_path: Path):
    folder = make_run(tmp_path / "run")
    RunRecords(folder).recipe.write_text("task: glue/mrpc\nmodel: {name: FacebookAI/roberta-base}\n")
    found = json.loads(run(str(folder), "--as", "rank-pattern"))
    assert list(found) == ["r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules"]
    live = {layer["name"]: layer["rank"] for layer in ranks(bert(2), seed=1)["layers"] if layer["rank"]}
    assert found["r"] == max(live.values())
    assert found["target_modules"] == list(live)
    assert found["rank_pattern"] == {re.escape(name): rank for name, rank in live.items() if rank != found["r"]}
    with pytest.raises(OptionError, match="--json and --as "):
        CliRunner().invoke(app, [str(folder), "--json", "--as", "rank-pattern"], catch_exceptions=False)
