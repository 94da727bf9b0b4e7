"""``dora eval``: a run rebuilt from its folder."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from tests.commands.conftest import STEPS, Refuse, Trained, contents, dora


@pytest.fixture
def run(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run, moved to another place and named from the current folder."""
    shutil.copytree(trained.folder, tmp_path / "copied run")
    monkeypatch.chdir(tmp_path)
    return Path("copied run")


def test_it_gives_the_metric_of_the_run_and_writes_it_to_a_file(run: Path) -> None:
    recorded = json.loads((run / "metrics.json").read_text())
    before = contents(run)
    done = dora("eval", "--checkpoint", run, "--output", "new/result.json")
    assert (done.code, done.err) == (0, "")
    result = json.loads(Path("new/result.json").read_text())
    assert result["metrics"] == result["recorded"] == recorded["metrics"]
    assert result["identical"] is True
    assert (result["task"], result["method"], result["epoch"]) == ("glue/sst2", "dora", recorded["best_epoch"])
    assert result["splits"] == {"validation": 40}
    lines = done.out.splitlines()
    assert lines[0].endswith(", dora: validation (40 examples)")
    assert lines[-1].startswith("identical ")
    value = f"{recorded['metrics']['accuracy']:.4f}"
    assert [line.split() for line in lines if line.startswith("accuracy")] == [["accuracy", value, value]]
    assert contents(run) == before, "an evaluation changes nothing in the run"


def test_it_takes_a_checkpoint_from_within(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = json.loads((run / "metrics.json").read_text())["last"]
    monkeypatch.chdir(run / "checkpoints" / f"step-{STEPS}")
    done = dora("eval", "-c", ".", "-o", "/dev/null")
    assert done.code == 0, done.err
    assert f"step {STEPS}" in done.out
    assert f"{last['accuracy']:.4f}" in done.out


def test_it_takes_another_split_and_the_users_own_files(run: Path) -> None:
    done = dora("eval", "-c", run, "--split", "test")
    assert done.code == 0, done.err
    assert ": test (40 examples)" in done.out
    assert "recorded" not in done.out
    Path("own").mkdir()
    Path("own/validation.csv").write_text("sentence,label\na fine film .,positive\na dull film .,negative\n")
    done = dora("eval", "-c", run, "--set", "data.source=files", "--set", "data.path=own")
    assert done.code == 0, done.err
    assert ": validation (2 examples)" in done.out


def test_the_result_is_shown_even_if_it_cannot_be_written(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up meanwhile must not cost the evaluation."""

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    done = dora("eval", "-c", run, "-o", "result.json")
    assert done.code == 2
    assert "identical" in done.out
    assert "result.json" in done.err
    assert os.strerror(errno.ENOSPC) in done.err
    assert contents(Path()).keys() == {"copied run", *(f"copied run/{name}" for name in contents(run))}


def test_what_is_no_run(run: Path, refuses: Refuse) -> None:
    refuses("eval", "-c", "nowhere", says=["--checkpoint nowhere "])
    refuses("eval", "-c", run / "recipe.yaml", says=["recipe.yaml ", "not a folder"])
    Path("empty").mkdir()
    refuses("eval", "-c", "empty", says=["--checkpoint empty ", "recipe.yaml"])
    shutil.copytree(run / "adapter", "alone")
    refuses("eval", "-c", "alone", says=["--checkpoint alone ", "recipe.yaml"])


def test_the_parent_of_several_seeds_names_them(run: Path, refuses: Refuse) -> None:
    for seed in (1, 2):
        shutil.copytree(run, f"parent/seed-{seed}")
    refuses(
        "eval",
        "-c",
        "parent",
        says=["--checkpoint parent ", "seed-1, seed-2"],
    )


def test_a_split_that_the_task_does_not_have(run: Path, refuses: Refuse) -> None:
    refuses("eval", "-c", run, "--split", "dev", says=["--split dev: ", "glue/sst2"])


def test_a_split_without_labels(run: Path, refuses: Refuse) -> None:
    Path("own").mkdir()
    Path("own/test.tsv").write_text("sentence\na fine film .\n")
    files = ("--set", "data.source=files", "--set", "data.path=own")
    refuses("eval", "-c", run, "--split", "test", *files, says=["split test", "no labels"])


def test_what_belongs_to_the_run_cannot_be_changed(run: Path, refuses: Refuse) -> None:
    refuses("eval", "-c", run, "--set", "method.rank=3", says=["--set method.rank: ", "data.path"])
    refuses("eval", "-c", run, "--set", "data.sorce=files", says=["data.sorce: ", "data.source?"])


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("copied run", ["folder", "result.json"]),
        ("copied run/recipe.yaml/x.json", ["copied run/recipe.yaml/x.json", "file"]),
        ("copied run/metrics.json", ["record"]),
        ("copied run/../copied run/adapter/manifest.json", ["record"]),
        ("copied run/checkpoints/step-24/new.json", ["record"]),
    ],
)
def test_an_output_that_cannot_be_written_is_found_before_the_work(
    run: Path, refuses: Refuse, output: str, says: list[str]
) -> None:
    message = refuses("eval", "-c", run, "--output", output, says=["--output", output, *says])
    assert "identical" not in message


FILES = [
    "environment.json",
    "adapter/manifest.json",
    "adapter/adapter.safetensors",
    "adapter/head.safetensors",
    "adapter/state.json",
]
# half a recipe may be a recipe
DAMAGES = [("recipe.yaml", damage) for damage in ("missing", "garbage", "empty", "other")]
DAMAGES += [(name, damage) for name in FILES for damage in ("missing", "garbage", "empty", "cut", "other")]


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_a_damaged_run(run: Path, refuses: Refuse, name: str, damage: str) -> None:
    path = run / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {"garbage": b"\xff\xfe{garbage", "empty": b"", "cut": content[: len(content) // 2], "other": b"[1, 2]"}[
                damage
            ]
        )
    refuses("eval", "-c", run, says=[path.name])


def test_a_run_without_its_adapter(run: Path, refuses: Refuse) -> None:
    shutil.rmtree(run / "adapter")
    refuses("eval", "-c", run, says=["no adapter", "go on with it"])


def test_another_base_model(run: Path, tiny_model: Path, refuses: Refuse) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_model, "other")
    weights = load_file("other/model.safetensors")
    changed = {name: value + 1 if name.endswith("query.weight") else value for name, value in weights.items()}
    save_file(changed, "other/model.safetensors", {"format": "pt"})
    refuses("eval", "-c", run, "--set", "model.name=other", says=["base model other ", "--set model.name="])


def test_a_file_that_is_there_is_replaced_only_if_asked(run: Path, refuses: Refuse) -> None:
    Path("mine.yaml").write_text("precious")
    (run / "adapter" / "adapter.safetensors").rename("weights")  # the refusals come before anything is loaded
    refuses("eval", "-c", run, "-o", "mine.yaml", says=["--output mine.yaml ", "--overwrite"])
    refuses("eval", "-c", run, "--overwrite", says=["--overwrite needs a file to replace"])
    refuses("eval", "-c", run, "-o", run / "metrics.json", "--overwrite", says=["record"])
    Path("weights").rename(run / "adapter" / "adapter.safetensors")
    assert dora("eval", "-c", run, "-o", "mine.yaml", "--overwrite").code == 0
    assert json.loads(Path("mine.yaml").read_text())["identical"] is True


def test_stdout_holds_the_result_alone(run: Path) -> None:
    done = dora("eval", "-c", run, "-o", "-")
    assert done.code == 0
    assert json.loads(done.out)["identical"] is True
    assert "identical" in done.err
