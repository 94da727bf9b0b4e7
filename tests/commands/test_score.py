"""``dora score e2e``."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path

import pytest

from dora_cli.metrics.e2e import tokenisation
from tests.commands.conftest import Refuse, dora
from tests.metrics.e2e.java import needs_java

OUTPUTS = "The Eagle is a cheap pub.\nCotto isn't family-friendly\n"
REFERENCES = "The Eagle is a cheap pub.\nA pub\n\nZizzi\n"


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out.txt").write_text(OUTPUTS)
    Path("ref.txt").write_text(REFERENCES)
    tokenisation._treebank.cache_clear()


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "pycocoevalcap" else found(name, *rest)
    )


@pytest.mark.usefixtures("no_java")
def test_json() -> None:
    done = dora("score", "e2e", "--predictions", "out.txt", "--references", "ref.txt", "--json")
    assert done.code == 0
    metrics = json.loads(done.out)
    assert list(metrics) == ["metrics"]
    assert list(metrics["metrics"]) == ["bleu", "nist", "meteor", "rouge_l", "cider"]
    assert metrics["metrics"]["meteor"] is None
    # See tests/evaluation/e2e/test_metric.py.
    assert metrics["metrics"]["bleu"] == pytest.approx((7 / 10 * 6 / 8 * 5 / 6 * 4 / 4) ** (1 / 4))
    assert metrics["metrics"]["rouge_l"] == pytest.approx(0.5)
    notes = done.err.splitlines()
    assert notes[0].startswith("dora: note: METEOR ")
    assert "pip install pycocoevalcap" in notes[0]
    assert len(notes) == 2


@pytest.mark.usefixtures("no_java")
def test_table_and_run_file() -> None:
    records = [
        {
            "mr": "name[The Eagle]",
            "output": "The Eagle is a cheap pub.",
            "references": ["The Eagle is a cheap pub.", "A pub"],
        },
        {"mr": "name[Cotto]", "output": "Cotto isn't family-friendly", "references": ["Zizzi"]},
    ]
    Path("predictions.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    done = dora("score", "e2e", "-p", "predictions.jsonl")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0] == "e2e: 2 outputs, 3 references"
    assert lines[1].split() == ["bleu", "0.8133"]
    assert [line.split()[0] for line in lines[1:]] == ["bleu", "nist", "meteor", "rouge_l", "cider"]
    assert lines[3].split() == ["meteor", "-"]
    assert done.out == dora("score", "e2e", "-p", "out.txt", "-r", "ref.txt").out


@needs_java
def test_with_java_nothing_is_missing() -> None:
    done = dora("score", "e2e", "-p", "out.txt", "-r", "ref.txt", "--json")
    assert (done.code, done.err) == (0, "")
    assert 0.0 < json.loads(done.out)["metrics"]["meteor"] < 1.0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"out.txt": b"x\n"}, ["out.txt ", "1 output", "ref.txt"]),
        ({"out.txt": b""}, ["out.txt: ", "empty"]),
        ({"ref.txt": b"a\n\n\nb\n"}, ["ref.txt, line 3: ", "empty"]),
        ({"ref.txt": b"a\n\n\xa320\n"}, ["ref.txt, line 3: not UTF-8"]),
    ],
)
def test_refusals(refuses: Refuse, change: dict[str, bytes], says: list[str]) -> None:
    for name, content in change.items():
        Path(name).write_bytes(content)
    refuses("score", "e2e", "--predictions", "out.txt", "--references", "ref.txt", says=says)


def test_missing_files_and_options(refuses: Refuse) -> None:
    refuses("score", "e2e", "-p", "absent.txt", "-r", "ref.txt", says=["absent.txt: "])
    refuses("score", "e2e", "-p", "out.txt", says=["out.txt ", "--references FILE"])


@pytest.mark.parametrize(
    ("arguments", "said"), [(["webnlg", "-p", "out.txt"], "webnlg"), (["e2e"], "--predictions"), ([], "TASK")]
)
def test_a_wrong_command_line(arguments: list[str], said: str) -> None:
    done = dora("score", *arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


@pytest.mark.usefixtures("no_java")
@pytest.mark.parametrize("stream", ["-p", "-r"])
def test_through_a_pipe(stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = dora("score", "e2e", "-p", "out.txt", "-r", "ref.txt", "--json").out
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((OUTPUTS if stream == "-p" else REFERENCES).encode())))
    given = {"-p": "out.txt", "-r": "ref.txt"} | {stream: "-"}
    done = dora("score", "e2e", *(word for pair in given.items() for word in pair), "--json")
    assert (done.code, done.out) == (0, wanted), done.err


def test_stdin_is_read_once(refuses: Refuse) -> None:
    refuses("score", "e2e", "-p", "-", "-r", "/dev/stdin", says=["both stdin"])
