"""``dora predict`` for classes and numbers; texts are in tests/training/test_generation.py."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from dora_cli import parse_recipe, predict, train
from dora_cli.commands import inputs
from dora_cli.data.builtin import generate
from dora_cli.library.prediction import write_predictions
from tests.commands.conftest import Refuse, Trained, contents, dora, environment
from tests.processes import end_of, start

ALL = ("--set", "data.max_eval_samples=null")


@pytest.fixture
def run(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained.folder, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return Path("run")


def records(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_the_test_split_goes_to_a_folder_as_the_benchmark_takes_it(run: Path) -> None:
    before = contents(run)
    done = dora("predict", "-c", run, "-o", "made/new/", *ALL)
    assert done.code == 0, done.err
    test = generate("glue/sst2", "test")
    assert done.out == f"{len(test):,} predictions written to made/new/SST-2.tsv\n"
    assert all(word in done.err.split() for word in ("made/new/SST-2.tsv", f"{len(test):,}", "1,821"))
    assert contents(Path("made")).keys() == {"new", "new/SST-2.tsv"}
    raw = Path("made/new/SST-2.tsv").read_bytes()
    assert raw.endswith(b"\n")
    assert b"\r" not in raw
    rows = [line.split("\t") for line in raw.decode().splitlines()]
    assert rows[0] == ["index", "prediction"]
    assert [row[0] for row in rows[1:]] == [str(index) for index in range(len(test))]
    assert {row[1] for row in rows[1:]} <= {"0", "1"}
    assert contents(run) == before

    assert dora("predict", "-c", run, "-o", "all.jsonl", *ALL).code == 0
    words = {"0": "negative", "1": "positive"}
    assert [record["prediction"] for record in records("all.jsonl")] == [words[row[1]] for row in rows[1:]]
    assert [record["sentence"] for record in records("all.jsonl")] == test.texts[0]


def test_predictions_are_those_of_an_evaluation(run: Path) -> None:
    done = dora("predict", "--checkpoint", run, "--split", "validation", "--output", "dev.jsonl")
    assert (done.code, done.out) == (0, "40 predictions written to dev.jsonl\n")
    found = records("dev.jsonl")
    assert [list(record) for record in found] == [["sentence", "prediction", "probabilities", "label"]] * 40
    recorded = json.loads((run / "metrics.json").read_text())["metrics"]["accuracy"]
    assert sum(record["prediction"] == record["label"] for record in found) / 40 == recorded
    for record in found:
        shares = record["probabilities"]
        assert list(shares) == ["negative", "positive"]
        assert sum(shares.values()) == pytest.approx(1)
        assert max(shares, key=shares.__getitem__) == record["prediction"]
    assert predict(run, split="validation") == found


def test_examples_of_ones_own(run: Path) -> None:
    split = generate("glue/sst2", "validation").texts[0][:3]
    Path("own.csv").write_text("id,label,sentence\n" + "".join(f"{i},never,{text}\n" for i, text in enumerate(split)))
    Path("own.txt").write_text("\n".join(split) + "\n")
    Path("own.jsonl").write_text("".join(json.dumps({"sentence": text}) + "\n" for text in split))
    found = {}
    for name in ("csv", "txt", "jsonl"):
        done = dora("predict", "-c", run, "--input", f"own.{name}", "-o", f"{name}.jsonl")
        assert (done.code, done.err) == (0, "")
        found[name] = records(f"{name}.jsonl")
    assert found["csv"] == found["txt"] == found["jsonl"]
    assert [record["sentence"] for record in found["csv"]] == split
    assert all("label" not in record for record in found["csv"])
    Path("sub").mkdir()
    for output in ("sub", "one.tsv"):
        assert dora("predict", "-c", run, "--input", "own.csv", "-o", output).code == 0
    lines = Path("one.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction"
    assert len(lines) == 4
    assert Path("sub/SST-2.tsv").read_text() == Path("one.tsv").read_text()


def test_a_table_keeps_its_columns(run: Path) -> None:
    Path("own.csv").write_text('id,note,sentence\n7,"a, b",a fine film\n9,,a bad film\n')
    assert dora("predict", "-c", run, "--input", "own.csv", "-o", "out.csv").code == 0
    assert dora("predict", "-c", run, "--input", "own.csv", "-o", "out.jsonl").code == 0
    with Path("out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["note"], row["sentence"]) for row in rows] == [
        ("7", "a, b", "a fine film"),
        ("9", "", "a bad film"),
    ]
    for row, record in zip(rows, records("out.jsonl"), strict=True):
        assert row["prediction"] == record["prediction"]
        assert {name: float(row[f"probability_{name}"]) for name in record["probabilities"]} == record["probabilities"]
    done = dora("predict", "-c", run, "--split", "validation", "-o", "dev.csv")
    assert done.code == 0
    with Path("dev.csv").open(newline="") as file:
        assert list(next(csv.DictReader(file)))[:3] == ["sentence", "label", "prediction"]


def test_texts_of_the_command_line(run: Path, refuses: Refuse) -> None:
    done = dora("predict", "-c", run, "--text", "a fine film", "--text", "a bad film")
    assert done.code == 0, done.err
    found = [json.loads(line) for line in done.out.splitlines()]
    assert [record["sentence"] for record in found] == ["a fine film", "a bad film"]
    assert found == predict(run, texts=(["a fine film", "a bad film"],))
    one = ("predict", "-c", run)
    refuses(*one, "--text", "a", "--text-pair", "b", says=["--text-pair", "glue/sst2"])
    refuses(*one, "--text-pair", "b", says=["--text-pair", "--text"])
    refuses(*one, "--text", "a", "--split", "test", says=["--split test and --text"])
    refuses(*one, says=["--output"])


def test_a_column_of_a_predictions_name(run: Path) -> None:
    Path("own.csv").write_text("prediction,sentence\nold,a fine film\n")
    done = dora("predict", "-c", run, "--input", "own.csv", "-o", "out.csv")
    assert done.code == 2
    assert "'prediction'" in done.err
    assert not Path("out.csv").exists()


def test_what_does_not_fit_is_said_before_anything_is_loaded(run: Path, refuses: Refuse) -> None:
    (run / "adapter" / "adapter.safetensors").touch()
    predict = ("predict", "-c", run)
    refuses(*predict, "-o", "sub/", says=["data.max_eval_samples", "40", "--set data.max_eval_samples=null"])
    refuses(*predict, "-o", "out.txt", says=["--output out.txt", ".jsonl", ".tsv", "folder"])
    refuses(*predict, "-o", "out", says=["--output out:", ".jsonl"])
    refuses(
        *predict,
        "-o",
        "sub/",
        "--split",
        "validation",
        says=["--output sub/ ", "validation"],
    )
    refuses(*predict, "-o", "a.jsonl", "--split", "dev", says=["--split dev: ", "glue/sst2"])
    refuses(
        *predict,
        "-o",
        "a.jsonl",
        "--split",
        "test",
        "-i",
        "x.csv",
        says=["--split test", "--input x.csv"],
    )
    Path("mine.jsonl").write_text('{"sentence": "a fine film"}\n')
    refuses(
        *predict,
        "-i",
        "mine.jsonl",
        "-o",
        Path("mine.jsonl").resolve(),
        says=["--output ", "--input mine.jsonl"],
    )
    refuses(*predict, "-o", "a.jsonl", "-i", "x.csv", says=["x.csv: "])
    refuses(*predict, "-o", "run/metrics.json/a.jsonl", says=["--output ", "metrics.json"])
    Path("x.csv").write_text("text\na film\n")
    refuses(*predict, "-o", "a.jsonl", "-i", "x.csv", says=["x.csv: ", "'sentence'", "'text'"])


@pytest.fixture(scope="module")
def several(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A short run of a task with two test sets, of one with a number, and of one with the user's own label names."""
    runs = {}
    for name in ("mnli", "stsb"):
        recipe = parse_recipe(f"""
            task: glue/{name}
            model: {{name: "{tiny_model}"}}
            data: {{source: builtin, max_train_samples: 94}}
            method: {{name: dora, rank: 2, prune_interval: 3}}
            train: {{max_steps: 6, batch_size: 16, device: cpu, log_every: 5}}
        """)
        runs[name] = tmp_path_factory.mktemp(name) / "run"
        train(recipe, runs[name])
    return runs


def test_mnli_has_two_files(several: dict[str, Path], tmp_path: Path) -> None:
    run, folder = several["mnli"], tmp_path / "sub"
    written = write_predictions(run, f"{folder}/")
    test = {name: generate("glue/mnli", f"test_{name}") for name in ("matched", "mismatched")}
    assert [(file.path.name, file.predictions) for file in written] == [
        ("MNLI-m.tsv", len(test["matched"])), ("MNLI-mm.tsv", len(test["mismatched"])),
    ]  # fmt: skip
    found = predict(run)
    assert [record["split"] for record in found] == ["test_matched"] * len(test["matched"]) + ["test_mismatched"] * len(
        test["mismatched"]
    )
    assert predict(run, split="test") == found
    words = [line.split("\t")[1] for file in written for line in file.path.read_text().splitlines()[1:]]
    assert words == [record["prediction"] for record in found]
    assert set(words) <= {"entailment", "neutral", "contradiction"}
    write_predictions(run, str(tmp_path / "one.tsv"), split="test_mismatched")
    assert (tmp_path / "one.tsv").read_text() == (folder / "MNLI-mm.tsv").read_text()


def test_mnli_does_not_fit_in_one_file(several: dict[str, Path], refuses: Refuse, tmp_path: Path) -> None:
    run = several["mnli"]
    refuses("predict", "-c", run, "-o", "a.tsv", says=["one file", "test_matched, test_mismatched", "a/", "--split"])
    refuses(
        "predict",
        "-c",
        run,
        "-o",
        "a/",
        "-i",
        "x.csv",
        says=["--output a/ ", "MNLI-m.tsv, MNLI-mm.tsv"],
    )
    refuses(
        "predict",
        "-c",
        run,
        "-o",
        "a.jsonl",
        "-i",
        run / "recipe.yaml",
        says=["pairs of texts", "'premise', 'hypothesis'"],
    )


def test_numbers_are_clipped_in_the_benchmarks_file_alone(several: dict[str, Path], tmp_path: Path) -> None:
    run = several["stsb"]
    found = predict(run, split="validation")
    assert all(list(record) == ["sentence1", "sentence2", "prediction", "label"] for record in found)
    write_predictions(run, str(tmp_path / "a.tsv"), split="validation")
    numbers = [float(line.split("\t")[1]) for line in (tmp_path / "a.tsv").read_text().splitlines()[1:]]
    assert numbers == pytest.approx([min(max(record["prediction"], 0), 5) for record in found], abs=1e-6)


def test_ones_own_label_names(run: Path) -> None:
    Path("own").mkdir()
    Path("own/test.csv").write_text("sentence\na fine film .\n")
    files = ("--set", "data.source=files", "--set", "data.path=own", "--set", "data.labels=[bad, good]", *ALL)
    assert dora("predict", "-c", run, "-o", "a.jsonl", *files).code == 0
    (record,) = records("a.jsonl")
    assert set(record["probabilities"]) == {"bad", "good"}
    assert record["prediction"] in ("bad", "good")


def test_columns_and_labels_of_ones_own_file_need_no_other_key(run: Path, refuses: Refuse) -> None:
    """Whatever the run's own data came from: the words of the message are typed as they stand."""
    Path("own.csv").write_text("text,label\na fine film .,1\n")
    predict = ("predict", "-c", run, "-i", "own.csv", "-o", "a.jsonl")
    fix = "--set 'data.columns={sentence: text}'"
    refuses(*predict, says=["own.csv: ", "'sentence'", "'text', 'label'", fix])
    done = dora(*predict, *shlex.split(fix))
    assert (done.code, done.out) == (0, "1 prediction written to a.jsonl\n"), done.err
    (plain,) = records("a.jsonl")
    assert plain["sentence"] == "a fine film ."
    assert dora(*predict, *shlex.split(fix), "--set", "data.labels=[bad, good]", "--overwrite").code == 0
    (named,) = records("a.jsonl")
    assert list(named["probabilities"].values()) == list(plain["probabilities"].values())
    assert list(named["probabilities"]) == ["bad", "good"]
    refuses(
        *predict,
        *shlex.split(fix),
        "--set",
        "data.source=hub",
        says=["data.columns: ", "data.source hub"],
    )


def test_a_file_that_is_there_is_replaced_only_if_asked(run: Path, refuses: Refuse) -> None:
    Path("sub").mkdir()
    for name in ("mine.jsonl", "mine.tsv", "sub/SST-2.tsv"):
        Path(name).write_text("precious")
    predict = ("predict", "-c", run, *ALL)
    for output in ("mine.jsonl", "mine.tsv", "sub"):
        refuses(*predict, "-o", output, says=["exists already", "--overwrite"])
    Path("link.jsonl").symlink_to("nowhere")
    refuses(*predict, "-o", "link.jsonl", says=["exists already"])
    refuses(*predict, "-o", run / "predictions.jsonl", "--overwrite", says=["predictions.jsonl", "record"])
    Path("one.csv").write_text("sentence\na fine film .\n")
    assert dora(*predict, "-i", "one.csv", "-o", "sub", "--overwrite").code == 0
    assert Path("sub/SST-2.tsv").read_text().startswith("index\tprediction\n0\t")


def test_through_pipes(run: Path, tmp_path: Path) -> None:
    """``-`` for both ends; stdout holds the predictions and nothing else."""
    texts = ["a fine film .", "no good caf\u00e9 ."]
    Path("own.txt").write_text("\n".join(texts), encoding="utf-8")
    assert dora("predict", "-c", run, "-i", "own.txt", "-o", "file.jsonl").code == 0
    plain = "\n".join(texts).encode()
    as_json = b"\xef\xbb\xbf\n" + b"".join(json.dumps({"sentence": text}).encode() + b"\n" for text in texts)
    for place, given in (("-", plain), ("/dev/stdin", as_json)):
        reader, writer = os.pipe()
        os.write(writer, given)
        os.close(writer)
        with open("out", "wb") as out, open("err", "wb") as err:
            process = start(
                "predict", "-c", run, "-i", place, "-o", "-", cwd=tmp_path, environment=environment(),
                stdin=reader, stdout=out.fileno(), stderr=err.fileno(),
            )  # fmt: skip
        os.close(reader)
        assert end_of(process) == 0, Path("err").read_text()
        assert Path("out").read_bytes() == Path("file.jsonl").read_bytes()
        assert Path("err").read_bytes() == b"2 predictions written to stdout\n"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (b"", ["standard input: ", "empty"]),
        (b"a film\n\na play", ["standard input, line 2: ", "blank"]),
        (b'{"text": "a film"}', ["standard input: ", "'sentence'"]),
        (b"caf\xe9", ["standard input", "UTF-8"]),
        (b"id,text\n1,a film", ["standard input: ", "'sentence'", "'id', 'text'", "--format text"]),
        (b"sentence,id\na film", ["standard input, line 2: "]),
        (b"sentence\n", ["standard input: ", "no examples"]),
        (b"x" * 100, ["standard input: ", "64 bytes"]),
    ],
)
def test_what_is_wrong_with_a_stream(
    run: Path, given: bytes, says: list[str], refuses: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "LIMIT", 64)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
    refuses("predict", "-c", run, "-i", "-", "-o", "-", says=says)


def test_a_table_through_pipes(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a csv tool writes goes in, and what one reads comes out."""
    table = '\ufeffid;sentence\r\n7;"a fine\nfilm; good"\r\n9;\r\n'

    def through(*arguments: str) -> str:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(table.encode())))
        done = dora("predict", "-c", run, "-i", "-", *arguments)
        assert done.code == 0, done.err
        assert "note: standard input: 1 of 2 rows has an empty text" in done.err
        return done.out

    rows = list(csv.DictReader(io.StringIO(through("-o", "-"), newline=""), delimiter=";"))
    assert list(rows[0]) == ["id", "sentence", "prediction", "probability_negative", "probability_positive"]
    assert [(row["id"], row["sentence"]) for row in rows] == [("7", "a fine\nfilm; good"), ("9", "")]
    found = [json.loads(line) for line in through("--json").splitlines()]
    assert [record["prediction"] for record in found] == [row["prediction"] for row in rows]
    assert [record["sentence"] for record in found] == [row["sentence"] for row in rows]
    through("-o", "out.csv", "--format", "csv")
    with Path("out.csv").open(newline="") as file:
        assert list(csv.DictReader(file, delimiter=";")) == rows


def test_what_is_said_of_an_input_that_is_not_there(run: Path, refuses: Refuse) -> None:
    predict = ("predict", "-c", run, "-o", "-")
    refuses(*predict, "--format", "csv", says=["--format csv", "--input"])
    refuses(*predict, "--format", "xlsx", "-i", "x.csv", says=["--format xlsx", "csv, tsv, json, jsonl, text"])


def test_a_reader_that_goes_away_is_left_alone(run: Path, tmp_path: Path) -> None:
    """It goes like ``head -1`` when it has its line; here at once, whatever a pipe of this system holds."""
    Path("own.csv").write_text("id,sentence\n7,a film\n")
    reads, writes = os.pipe()
    with open("own.csv", "rb") as given, open("err", "wb") as err:
        process = start(
            "predict", "-c", run, "-i", "-", "-o", "-", cwd=tmp_path, environment=environment(),
            stdin=given.fileno(), stdout=writes, stderr=err.fileno(),
        )  # fmt: skip
    os.close(writes)
    os.close(reads)
    assert end_of(process) == 1  # what typer makes of a closed pipe
    assert Path("err").read_bytes() == b""


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="needs /dev/fd")
def test_what_a_shell_substitutes_is_read(run: Path) -> None:
    reads, writes = os.pipe()
    os.write(writes, b"a fine film .\n")
    os.close(writes)
    done = dora("predict", "-c", run, "-i", f"/dev/fd/{reads}", "-o", "-")
    os.close(reads)
    assert done.code == 0, done.err
    assert json.loads(done.out)["sentence"] == "a fine film ."


def test_several_processes_do_not_share_a_stream(run: Path, refuses: Refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    refuses("predict", "-c", run, "-i", "-", "-o", "a.jsonl", says=["--input - is a stream", "give a file"])
