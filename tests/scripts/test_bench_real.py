"""The benchmark beside the Trainer: that both jobs are the same work, told in the same words. Figures are no test's."""

from __future__ import annotations

import json
import os
import resource
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.commands.conftest import environment
from tests.processes import CONTEXT, begin, end_of

LABELS = """
task: glue/sst2
model: {name: builtin:tiny-encoder}
data: {source: builtin, max_train_samples: 10, max_eval_samples: 6}
method: {name: dora, rank: 2, prune_interval: 1}
train: {epochs: 2, batch_size: 4, learning_rate: 5.0e-3, log_every: 5, device: cpu}
"""
TEXTS = """
task: e2e
model: {name: builtin:tiny-decoder}
data: {source: builtin, max_train_samples: 10, max_eval_samples: 3}
method: {name: lora, rank: 2}
train: {max_steps: 2, batch_size: 4, learning_rate: 5.0e-3, log_every: 5, device: cpu}
decode: {beams: 2, max_new_tokens: 6, epoch_samples: 0, batch_size: 2}
"""


def recipe_of(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def _job(arguments: Sequence[str], given: Mapping[str, str], said: str, scripts: str) -> None:
    """What the command does, in a process that has loaded everything; the rival's batches are written down."""
    begin(given)
    for number in (1, 2):
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), number)
    if arguments[0] == "-m":
        from dora_cli.__main__ import main

        main(list(arguments[2:]))
        return
    sys.path.insert(0, scripts)
    import bench_real_rival
    from transformers import Trainer

    trained: list[tuple[int, int]] = []
    step = Trainer.training_step

    def counted(self: Trainer, model: Any, inputs: dict[str, Any], *rest: Any) -> Any:
        trained.append((len(inputs["labels"]), int((inputs["labels"] != -100).sum())))
        return step(self, model, inputs, *rest)

    Trainer.training_step = counted
    bench_real_rival.main(Path(arguments[1]))
    Path(arguments[1]).with_name("trained.json").write_text(json.dumps(trained))


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch, scripts: Path) -> None:
    import bench_real

    def spend(command: Sequence[str], given: Mapping[str, str], said: Path) -> Any:
        assert command[0] == sys.executable
        offline = {key: value for key, value in environment().items() if key.startswith(("HF_", "OMP"))}
        process = CONTEXT.Process(target=_job, args=(command[1:], {**given, **offline}, str(said), str(scripts)))
        process.start()
        return bench_real.Spent(end_of(process), 8.0 if command[1] == "-m" else 20.0, 1.0, 2**20)

    monkeypatch.setattr(bench_real, "spend", spend)


def record_of(folder: Path, recipe: Path, *arguments: str) -> dict[str, Any]:
    from bench_real import main

    files = ("--json", str(folder / "record.json"), "--markdown", str(folder / "table.md"))
    assert main([str(recipe), "--output", str(folder / "work"), "--repeats", "1", *files, *arguments]) == 0
    found: dict[str, Any] = json.loads((folder / "record.json").read_text())
    return found


@pytest.mark.usefixtures("forked")
def test_both_train_the_same_steps_on_the_same_number_of_examples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two epochs of ten sentences in steps of four, four and two."""
    record = record_of(tmp_path, recipe_of(tmp_path, LABELS), "--warm-up-steps", "0")
    assert list(record["summary"]) == ["dora, warm", "peft, warm"]
    ours, theirs = record["summary"].values()
    assert list(ours) == list(theirs)
    for job in (ours, theirs):
        assert (job["steps"], job["examples"]) == (6, 20)
        assert set(job["metrics"]) == {"accuracy", "loss"}
        assert job["train_seconds"] > 0
        assert job["evaluation_seconds"] > 0
        assert job["decoding_seconds"] is None
        known = job["train_seconds"] + job["evaluation_seconds"]
        assert job["rest_seconds"] == pytest.approx(job["wall_seconds"] - known)
        assert job["examples_per_second"] == pytest.approx(20 / job["train_seconds"])
    assert (ours["times"], theirs["times"]) == (1.0, 2.5)
    trained = json.loads((tmp_path / "work" / "peft-warm-1" / "trained.json").read_text())
    assert [examples for examples, _ in trained] == [4, 4, 2] * 2
    assert record["projections"] == 18
    hidden = 96
    head = hidden * hidden + hidden + 2 * hidden + 2
    assert (ours["trainable"] - head - 3 * 18) * 2 == (theirs["trainable"] - head) * 3  # ranks 3 and 2, and gates
    table = (tmp_path / "table.md").read_text()
    assert capsys.readouterr().out == table
    assert [line.split(" | ")[0] for line in table.splitlines()[4:]] == ["| dora, warm", "| peft, warm"]


@pytest.mark.usefixtures("forked")
def test_both_learn_the_same_target_tokens_and_write_the_test_set(tmp_path: Path) -> None:
    """With cold caches, after a round that is not counted."""
    from dora_cli.assembly.data import load_data
    from dora_cli.assembly.resolve import resolve
    from dora_cli.recipe import load_recipe

    path = recipe_of(tmp_path, TEXTS)
    record = record_of(tmp_path, path, "--caches", "cold", "--warm-up-steps", "1", "--set", "data.max_train_samples=8")
    ours, theirs = record["summary"].values()
    assert list(ours) == list(theirs)
    for job in (ours, theirs):
        assert (job["steps"], job["examples"]) == (2, 8)
        assert {"loss", "bleu"} <= set(job["metrics"])
        assert job["decoding_seconds"] > 0
    assert ours["trainable"] == theirs["trainable"]
    assert len(record["each"]) == 2

    recipe, task = resolve(load_recipe(path, ["data.max_train_samples=8"]))
    base = task.head.outline(recipe.model.name, revision=None, trust_remote_code=False)
    training = load_data(recipe, task).training
    units = task.encode(training, base.tokenizer, recipe.data.max_length, task.layout(base)).units
    trained = json.loads((tmp_path / "work" / "peft-cold-1" / "trained.json").read_text())
    assert sum(tokens for _, tokens in trained) == units.sum()
    outputs = json.loads((tmp_path / "work" / "peft-cold-1" / "RESULT.json").read_text())["outputs"]
    assert len(outputs) == record["written"] == 3
    short = json.loads((tmp_path / "work" / "peft-cold-0" / "RESULT.json").read_text())
    assert short["steps"] == 1


def test_the_commands_are_listed_in_their_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bench_real import main

    path = recipe_of(tmp_path, LABELS)
    folder = tmp_path / "work"
    arguments = ["--dry-run", "--repeats", "1", "--caches", "both", "--set", "train.epochs=1", "--output", str(folder)]
    assert main([str(path), *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    titles, commands = lines[::2], [shlex.split(line) for line in lines[1::2]]
    assert [title.split(", HOME")[0] for title in titles] == [
        "# dora, warm caches, not counted",
        "# peft, warm caches, not counted",
        "# peft, warm caches, repeat 1",
        "# dora, warm caches, repeat 1",
        "# peft, cold caches, repeat 1",
        "# dora, cold caches, repeat 1",
    ]
    homes = [title.split("HOME=")[1] for title in titles]
    assert homes[0] == homes[3]
    assert homes[1] == homes[2]
    assert len(set(homes)) == 4
    assert commands[0][1:6] == ["-m", "dora_cli", "train", str(path), "--set"]
    assert commands[0][6:] == ["train.epochs=1", "--output", str(folder / "dora-warm-0" / "run"), "--quiet"]
    assert Path(commands[1][1]).name == "bench_real_rival.py"
    assert not [path for path in folder.iterdir() if path.name != "data"]


def test_processes_share_the_batch_of_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bench_real import main

    folder = tmp_path / "work"
    arguments = ["--dry-run", "--repeats", "1", "--warm-up-steps", "0", "--processes", "2", "--output", str(folder)]
    assert main([str(recipe_of(tmp_path, LABELS)), *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [title.split()[1].rstrip(",") for title in lines[::2]]
    commands = dict(zip(names, map(shlex.split, lines[1::2]), strict=True))
    assert list(commands) == ["dora-processes", "peft", "dora"]
    run = ["--output", str(folder / "dora-processes-warm-1" / "run"), "--quiet"]
    assert commands["dora-processes"][5:] == ["--set", "train.batch_size=2", "--processes", "2", *run]
    assert commands["dora-processes"][:5] == commands["dora"][:5]
    assert "--processes" not in commands["dora"]


def test_a_process_is_measured_from_its_start_to_its_end(tmp_path: Path) -> None:
    from bench_real import spend

    work = "import os, sys; held = b'x' * (64 << 20); print(os.environ['NAME']); sys.exit(3)"
    spent = spend([sys.executable, "-S", "-c", work], {"NAME": "here"}, tmp_path / "said")
    assert spent.code == 3
    assert (tmp_path / "said").read_text() == "here\n"
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # a system counts it to the child that it becomes
    assert 64 << 20 < spent.peak_bytes < max(own, 128 << 20) * 1.1
    assert 0 < spent.cpu_seconds < spent.wall_seconds + 1


def test_a_job_that_fails_ends_the_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import bench_real

    def spend(command: Sequence[str], given: Mapping[str, str], said: Path) -> Any:
        said.write_text("no memory left")
        return bench_real.Spent(2, 1.0, 1.0, 1)

    monkeypatch.setattr(bench_real, "spend", spend)
    with pytest.raises(SystemExit, match=r"dora ended with exit code 2:\nno memory left"):
        bench_real.main([str(recipe_of(tmp_path, LABELS)), "--output", str(tmp_path / "work")])


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ("", ("--runners", "dora,trainer"), "names trainer; there are dora"),
        ("", ("--runners", "peft-compiled"), "peft-compiled, which needs CUDA"),
        ("", ("--repeats", "0"), "--repeats 0"),
        ("", ("--processes", "3"), "--processes 3: give 2 or more that divide train.batch_size 4"),
        ("", ("--processes", "1"), "--processes 1"),
        ("", ("--runners", "dora-processes"), "names dora-processes; give --processes N"),
        ("", ("--runners", "dora", "--processes", "2"), "dora-processes, which --runners does not name"),
        ("", ("--json", "nowhere/at/all.json"), "nowhere/at"),
        ("method.name=bitfit", (), "bitfit has no rank"),
        ("eval.every=end", (), "eval.every"),
        ("train.epochs=0", (), "train.epochs"),
    ],
)
def test_bad_arguments(
    change: str, arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench_real import main

    text = "\n".join(line for line in LABELS.splitlines() if "bitfit" not in change or not line.startswith("method"))
    changes = ("--set", change) if change else ()
    with pytest.raises(SystemExit) as stop:
        main([str(recipe_of(tmp_path, text)), *changes, *arguments, "--output", str(tmp_path / "work")])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_steps_count_examples(tmp_path: Path) -> None:
    """The last step of an epoch of ten examples has two."""
    from bench_real import settle

    setting = settle(recipe_of(tmp_path, LABELS), (), tmp_path)
    assert [setting.seen(steps) for steps in range(7)] == [0, 4, 8, 10, 14, 18, 20]
