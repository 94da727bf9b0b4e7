"""What strangers write into run folders, recipes and data reaches the terminal as text: nothing in it is obeyed, and no
line is faked.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dora_cli.printable import escape
from tests.commands.conftest import STEPS, Done, Trained, dora
from tests.hostile.edits import sign

EVIL = "\x1b]0;x\x07\x1b[2J\x9b31m\u202e\u2028[red]\n\rfaked"


@pytest.fixture
def run(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained.folder, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return Path("run")


def harmless(done: Done) -> None:
    for stream in (done.out, done.err):
        assert escape(stream, keep="\n") == stream
        assert not re.search("^ ?faked", stream, re.MULTILINE)
        assert "Traceback" not in stream


def change(path: Path, edit: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    if path.name != "manifest.json" and (path.parent / "manifest.json").exists():
        sign(path.parent)


def renamed(record: dict[str, Any], key: str) -> None:
    """Gives the value of `key` to a hostile key instead."""
    record[EVIL] = record.pop(key)


RECORDS: dict[str, tuple[str, Callable[[Any], object]]] = {
    "task": ("metrics.json", lambda m: m.update(task=EVIL)),
    "model": ("metrics.json", lambda m: m.update(model=EVIL)),
    "method": ("metrics.json", lambda m: m.update(method=EVIL)),
    "selection": ("metrics.json", lambda m: m.update(selection=EVIL)),
    "metric": ("metrics.json", lambda m: (renamed(m["metrics"], "accuracy"), renamed(m["last"], "accuracy"))),
    "metric of an epoch": ("metrics.json", lambda m: renamed(m["epochs"][0]["metrics"], "accuracy")),
    "phase of an epoch": ("metrics.json", lambda m: m["epochs"][0].update(phase=EVIL)),
    "not a number": ("metrics.json", lambda m: m.update(seed=EVIL)),
    "further key": ("metrics.json", lambda m: m.update({EVIL: EVIL})),
    "layer": ("ranks.json", lambda r: r["layers"][0].update(name=EVIL)),
    "projection": ("ranks.json", lambda r: r["layers"][0].update(projection=EVIL)),
    "unit": ("ranks.json", lambda r: r.update(unit=EVIL)),
    "phase of an event": ("ranks.json", lambda r: r["history"][0].update(phase=EVIL)),
    "further key of ranks": ("ranks.json", lambda r: r.update({EVIL: EVIL})),
    "state key": ("adapter/state.json", lambda s: s.update({EVIL: 1})),
    "state method": ("adapter/state.json", lambda s: s.update(method=EVIL)),
    "state phase": ("adapter/state.json", lambda s: s.update(phase=EVIL)),
    "state step": ("adapter/state.json", lambda s: s.update(step=EVIL)),
    "state metric": ("adapter/state.json", lambda s: renamed(s["metrics"], "accuracy")),
    "schema of a manifest": ("adapter/manifest.json", lambda m: m.update(schema_version=EVIL)),
    "fingerprint": ("environment.json", lambda e: e["model"].update(fingerprint=EVIL)),
    "package": ("environment.json", lambda e: e["packages"].update(torch=EVIL)),
    "precision": ("environment.json", lambda e: e.update(precision=EVIL)),
    "data": ("environment.json", lambda e: renamed(e["data"], "validation")),
}


@pytest.mark.parametrize("case", RECORDS)
def test_records(run: Path, case: str) -> None:
    name, edit = RECORDS[case]
    change(run / name, edit)
    if name in ("metrics.json", "ranks.json"):
        for options in ([], ["--json"], ["--by", "block"], ["--history"], ["--scores"]):
            harmless(dora("ranks", run, *options))
        harmless(dora("report", run, "-o", "report.html", "--overwrite"))
    if name != "ranks.json":
        harmless(dora("eval", "-c", run, "-o", "-"))
    if name.startswith("adapter"):
        harmless(dora("predict", "-c", run, "-o", "a.jsonl"))
        harmless(dora("export", "-c", run, "--format", "peft", "-o", "exported"))


def test_a_log(run: Path) -> None:
    (run / "metrics.json").unlink()
    (run / "ranks.json").unlink()
    lines = (run / "log.jsonl").read_text().splitlines()
    entry = json.loads(lines[0]) | {"phase": EVIL, EVIL: EVIL}
    (run / "log.jsonl").write_text("\n".join([json.dumps(entry), *lines[1:]]))
    harmless(dora("ranks", run, "--history"))
    harmless(dora("report", run, "-o", "report.html"))


def _header(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    edit(header)
    new = json.dumps(header, ensure_ascii=False).encode()
    path.write_bytes(struct.pack("<Q", len(new)) + new + content[8 + size :])
    sign(path.parent)


@pytest.mark.parametrize("file", ["adapter", "head"])
@pytest.mark.parametrize(
    "edit",
    [
        lambda header: renamed(header, min(header)),
        lambda header: header[min(header)].update(dtype=EVIL),
        lambda header: header[min(header)].update({EVIL: EVIL}),
        lambda header: header.update(__metadata__={EVIL: 1}),
    ],
)
def test_names_and_headers_of_tensors(run: Path, file: str, edit: Callable[[dict[str, Any]], object]) -> None:
    _header(run / "adapter" / f"{file}.safetensors", edit)
    harmless(dora("eval", "-c", run))


@pytest.mark.parametrize("raw", [b"\x1b[2J\xc2\x9b31m{", b'{"\x1b]0;x\x07": '])
def test_a_header_that_is_none(run: Path, raw: bytes) -> None:
    (run / "adapter" / "adapter.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw)
    sign(run / "adapter")
    done = dora("eval", "-c", run)
    assert done.code == 2
    harmless(done)


@pytest.mark.parametrize(
    "edit",
    [
        lambda e: e["packages"].update(torch=EVIL),
        lambda e: e.update(device=EVIL),
        lambda e: e.update(precision=EVIL),
        lambda e: e.update(processes=EVIL),
        lambda e: renamed(e["data"], "validation"),
    ],
)
def test_going_on(run: Path, edit: Callable[[Any], object]) -> None:
    (run / "metrics.json").unlink()
    change(run / "environment.json", edit)
    harmless(dora("train", run / "recipe.yaml", "-o", run, "--resume"))


def test_a_checkpoint_that_is_passed_over(run: Path) -> None:
    (run / "metrics.json").unlink()
    _header(
        run / "checkpoints" / f"step-{STEPS}" / "adapter.safetensors",
        lambda header: header[min(header)].update(dtype=EVIL),
    )
    done = dora("train", run / "recipe.yaml", "-o", run, "--resume")
    assert f"step-{STEPS} " in done.err
    harmless(done)


@pytest.mark.parametrize(
    "text",
    [
        f"sentence\nfine\n\x1b[2J{'x' * 80}\x9b31m,1,2\n",
        "\x1b]0;x\x07,\x9b31m\nfine,1\n",
        "\x1b]0;x\x07,\x1b]0;x\x07\nfine,1\n",
        "\x1b[2J,\x9b31m\nfine\n",
        "sentence\n\x1b[2J\x9b31m\u202e fine\n",
    ],
)
def test_tables(run: Path, text: str) -> None:
    Path("own.csv").write_text(text, encoding="utf-8")
    harmless(dora("predict", "-c", run, "-i", "own.csv", "-o", "a.jsonl"))
    if (done := dora("predict", "-c", run, "-i", "own.csv", "-o", "-", "--json")).code == 0:
        harmless(done)
        assert json.loads(done.out)["sentence"] == text.split("\n")[1]


@pytest.mark.parametrize(
    "text", [json.dumps({EVIL: EVIL}), json.dumps({"output": [EVIL]}), json.dumps([EVIL]), f'{{"{EVIL}', "\x1b[2J"]
)
def test_scores(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out.jsonl").write_text(text)
    harmless(dora("score", "e2e", "-p", "out.jsonl"))


@pytest.mark.parametrize("key", ["task", "model.name", "data.path", "method.name", EVIL, f"train.{EVIL}"])
def test_recipes(recipe: Path, key: str) -> None:
    import yaml

    content = yaml.safe_load(recipe.read_text())
    section, _, name = key.partition(".")
    if name and section in content:
        content[section][name] = EVIL
    else:
        content[key] = EVIL
    if key == "data.path":
        content["data"]["source"] = "files"
    recipe.write_text(yaml.safe_dump(content))
    for options in ([], ["--dry-run"]):
        done = dora("train", recipe, *options)
        assert done.code == 2
        harmless(done)
    done = dora("--debug", "train", recipe)
    assert escape(done.err) == done.err


def test_the_name_of_a_folder(run: Path) -> None:
    for name in ("\x1b[2J\x9b31m", "\udcff"):  # the second: a byte that is no UTF-8, as the system hands it out
        run = run.rename(name)
        for command in (["ranks"], ["report", "-o", f"{len(name)}.html"], ["eval", "-c"]):
            done = dora(*command, run)
            assert done.code == 0 or command[0] == "eval", done.err
            harmless(done)
        harmless(dora("ranks", f"{run}/no"))
