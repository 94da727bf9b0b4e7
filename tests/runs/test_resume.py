"""A run that was stopped anywhere goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dora_cli import evaluate, load_recipe, train
from dora_cli.errors import CheckpointError, OutputError
from dora_cli.recipe import Recipe, SaveSection
from dora_cli.runs import folders
from dora_cli.runs.checkpoints import checkpoints_of
from dora_cli.runs.resume import check_no_links
from dora_cli.runs.run_folder import RunRecords
from dora_cli.runs.saving import SavePolicy
from dora_cli.training.checkpoint import Snapshot
from dora_cli.training.listener import SilentListener
from tests.hostile.edits import sign
from tests.training.conftest import MakeRecipe
from tests.training.test_run import largest_difference, lines, read, without_timing

STEPS = 24  # 4 epochs of 6; warm-up to 3, events at 9 and 11, where ranks freeze
SAVES = (
    "save.every_steps=1",
    "data.max_train_samples=46",
    "data.max_eval_samples=16",
    "method.targets=['*.self.*', '*.attention.output.dense']",
    "method.dropout=0.2",
    "train.batch_size=8",
    "method.dem_weight=0.1",
)


class PowerCutError(Exception):
    """Stands for the end of the process: nothing of ours catches it."""


class Cut(SilentListener):
    """Cuts the power at a moment of the run."""

    def __init__(self, *, step: int | None = None, evaluation: int | None = None) -> None:
        self.step, self.evaluation, self.evaluated_splits = step, evaluation, 0
        self.notes: list[str] = []

    def tick(self, step: int, phase: str, budget: int) -> None:
        if step == self.step:
            raise PowerCutError

    def evaluating(self, split: str, done: int, total: int) -> None:
        self.evaluated_splits += 1
        if self.evaluated_splits == self.evaluation:
            raise PowerCutError

    def note(self, message: str) -> None:
        self.notes.append(message)


def cut(recipe: Recipe, run: Path, **when: int) -> None:
    with pytest.raises(PowerCutError):
        train(recipe, run, listener=Cut(**when))


def assert_equal_runs(one: Path, two: Path) -> None:
    """Weights bitwise; records, ranks and log without times."""
    assert largest_difference(one / "adapter", two / "adapter") == 0
    for name in ("metrics.json", "ranks.json"):
        assert without_timing(read(one / name)) == without_timing(read(two / name))
    assert without_timing(lines(one / "log.jsonl")) == without_timing(lines(two / "log.jsonl"))
    assert (one / "recipe.yaml").read_text() == (two / "recipe.yaml").read_text()
    last = [max(checkpoints_of(RunRecords(run)), key=lambda path: int(path.name[5:])) for run in (one, two)]
    assert last[0].name == last[1].name
    a, b = (Snapshot.load(folder) for folder in last)
    for mine, theirs in ((a.optimizer, b.optimizer), (a.random, b.random), (a.training, b.training)):
        assert mine.keys() == theirs.keys()
        assert all(mine[key].equal(theirs[key]) for key in mine)


class Copies(SilentListener):
    """Copies the run's folder at every step and evaluation: what a power cut there would leave."""

    def __init__(self, run: Path, copies: Path) -> None:
        self.run, self.copies, self.evaluated_splits = run, copies, 0

    def tick(self, step: int, phase: str, budget: int) -> None:
        shutil.copytree(self.run, self.copies / f"step-{step}")

    def evaluating(self, split: str, done: int, total: int) -> None:
        self.evaluated_splits += 1
        shutil.copytree(self.run, self.copies / f"evaluation-{self.evaluated_splits}")


class Runs:
    """Runs without an interruption, and what power cuts would have left of them; a recipe is trained once.

    Args:
        copied: whether what power cuts leave is copied at every step, for `cut`.
    """

    def __init__(self, factory: pytest.TempPathFactory, *, copied: bool = True) -> None:
        self._factory, self._copied, self._made = factory, copied, dict[str, Path]()

    def straight(self, recipe: Recipe) -> Path:
        key = recipe.model_dump_json()
        if key not in self._made:
            folder = self._factory.mktemp("straight")
            train(recipe, folder / "run", listener=Copies(folder / "run", folder) if self._copied else None)
            self._made[key] = folder
        return self._made[key] / "run"

    def cut(self, recipe: Recipe, run: Path, *, step: int | None = None, evaluation: int | None = None) -> None:
        """Puts into `run` what the power cut has left."""
        moment = f"step-{step}" if step is not None else f"evaluation-{evaluation}"
        shutil.copytree(self.straight(recipe).with_name(moment), run)

    def cut_again_and_again(self, recipe: Recipe, run: Path, steps: Sequence[int]) -> None:
        """Puts into `run` what power cuts at all of `steps`, in order, have left: after each it went on to the next."""
        for number, step in enumerate(steps):
            with pytest.raises(PowerCutError):
                train(recipe, run, resume=number > 0, listener=Cut(step=step))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory)


@pytest.fixture(scope="module")
def uncut(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """For recipes that one test alone trains: nothing is copied on the way."""
    return Runs(tmp_path_factory, copied=False)


@pytest.fixture(scope="module")
def straight(runs: Runs) -> Callable[[Recipe], Path]:
    """A run of a recipe without an interruption; made once for each recipe."""
    return runs.straight


def test_cut_at_many_steps(make_recipe: MakeRecipe, uncut: Runs, tmp_path: Path) -> None:
    """In warm-up, while pruning, at an event, at the freeze, after compaction, at an epoch's edge; with accumulation
    and dropout. Each time it goes on until the next cut.
    """
    recipe = make_recipe(*SAVES, "train.batch_size=4", "train.gradient_accumulation=2")
    uncut.cut_again_and_again(recipe, tmp_path / "run", [2, 7, 9, 11, 12, STEPS])
    train(recipe, tmp_path / "run", resume=True)
    assert_equal_runs(uncut.straight(recipe), tmp_path / "run")


def test_a_run_from_when_events_could_prune_nothing_goes_on(
    make_recipe: MakeRecipe, runs: Runs, tmp_path: Path
) -> None:
    recipe = make_recipe(*SAVES)
    runs.cut(recipe, tmp_path / "run", step=10)
    progress = tmp_path / "run" / "checkpoints" / "step-9" / "progress.json"
    content = read(progress)
    content["history"][:0] = [
        {"step": 3, "phase": "warm-up", "budget": 12, "live": 12},
        {"step": 6, "phase": "pruning", "budget": 12, "live": 12},
    ]
    progress.write_text(json.dumps(content))
    sign(progress.parent)
    train(recipe, tmp_path / "run", resume=True)
    assert_equal_runs(runs.straight(recipe), tmp_path / "run")


@pytest.mark.parametrize(
    "changes",
    [
        ("method.compact=false", "eval.select=last", "train.precision=bf16"),
        ("method.dem_until=end", "data.group_by_length=true", "save.every_steps=5", "task=glue/stsb"),
        ("method={name: head}", "eval.select=best", "train.max_steps=21", "save.keep=1"),
    ],
    ids=" ".join,
)
def test_cut_twice_under_other_settings(
    make_recipe: MakeRecipe, uncut: Runs, tmp_path: Path, changes: tuple[str, ...]
) -> None:
    recipe = make_recipe(*SAVES, *changes)
    uncut.cut_again_and_again(recipe, tmp_path / "run", [8, 20])
    train(recipe, tmp_path / "run", resume=True)
    assert_equal_runs(uncut.straight(recipe), tmp_path / "run")


def test_the_base_models_own_dropout_goes_on_where_it_was(
    make_recipe: MakeRecipe, runs: Runs, uncut: Runs, tiny_model: Path, tmp_path: Path
) -> None:
    """The other runs here have none: they are compared where it would hide what they look for."""
    model = shutil.copytree(tiny_model, tmp_path / "model")
    config = read(model / "config.json") | {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}
    (model / "config.json").write_text(json.dumps(config))
    recipe = make_recipe(*SAVES, f"model.name={model}")
    uncut.cut_again_and_again(recipe, tmp_path / "run", [9])
    train(recipe, tmp_path / "run", resume=True)
    assert_equal_runs(uncut.straight(recipe), tmp_path / "run")
    without, found = (
        read(run / "metrics.json")["epochs"] for run in (runs.straight(make_recipe(*SAVES)), tmp_path / "run")
    )
    assert all(one["train_loss"] != two["train_loss"] for one, two in zip(without, found, strict=True))


@pytest.mark.parametrize("evaluation", [1, 2, 4])
def test_cut_in_an_evaluation(make_recipe: MakeRecipe, runs: Runs, tmp_path: Path, evaluation: int) -> None:
    recipe = make_recipe("method.dropout=0.2")
    runs.cut(recipe, tmp_path / "run", evaluation=evaluation)
    if evaluation == 1:  # nothing was saved yet
        with pytest.raises(CheckpointError, match="no checkpoint"):
            train(recipe, tmp_path / "run", resume=True)
        return
    train(recipe, tmp_path / "run", resume=True)
    assert_equal_runs(runs.straight(recipe), tmp_path / "run")


def test_a_folder_that_was_moved_goes_on(make_recipe: MakeRecipe, runs: Runs, tmp_path: Path) -> None:
    recipe = make_recipe(*SAVES)
    runs.cut(recipe, tmp_path / "run", step=15)
    shutil.copytree(tmp_path / "run", tmp_path / "elsewhere" / "copy")
    shutil.rmtree(tmp_path / "run")
    train(recipe, tmp_path / "elsewhere" / "copy", resume=True)
    assert_equal_runs(runs.straight(recipe), tmp_path / "elsewhere" / "copy")


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "has no manifest.json"),
        (lambda folder: _flip(folder / "adapter.safetensors"), "adapter.safetensors "),
        (lambda folder: _flip(folder / "random.safetensors"), "random.safetensors "),
        (
            lambda folder: (folder / "optimizer.safetensors").write_bytes(
                (folder / "optimizer.safetensors").read_bytes()[:-7]
            ),
            "manifest",
        ),
        (lambda folder: (folder / "progress.json").unlink(), "lacks progress.json"),
    ],
    ids=["no manifest", "a bit of the adapter", "a bit of the random state", "a cut optimiser", "no progress"],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    make_recipe: MakeRecipe,
    runs: Runs,
    tmp_path: Path,
    damage: Callable[[Path], object],
    says: str,
) -> None:
    recipe = make_recipe(*SAVES)
    runs.cut(recipe, tmp_path / "run", step=21)
    newest, before = tmp_path / "run" / "checkpoints" / "step-20", tmp_path / "run" / "checkpoints" / "step-19"
    assert newest.is_dir()
    assert before.is_dir()
    damage(newest)
    listener = Cut()
    train(recipe, tmp_path / "run", resume=True, listener=listener)
    (note,) = [note for note in listener.notes if "step-20" in note]
    assert says in note
    assert_equal_runs(runs.straight(recipe), tmp_path / "run")


def test_no_whole_checkpoint_is_an_error_that_names_them_all(
    make_recipe: MakeRecipe, runs: Runs, tmp_path: Path
) -> None:
    recipe = make_recipe(*SAVES)
    runs.cut(recipe, tmp_path / "run", step=9)
    folders = checkpoints_of(RunRecords(tmp_path / "run"))
    for folder in folders:
        _flip(folder / "state.json")
    with pytest.raises(CheckpointError, match="--overwrite") as caught:
        train(recipe, tmp_path / "run", resume=True)
    assert all(folder.name in str(caught.value) for folder in folders)


def test_another_recipe_is_refused_with_the_keys_that_differ(
    make_recipe: MakeRecipe, runs: Runs, tmp_path: Path
) -> None:
    runs.cut(make_recipe(*SAVES), tmp_path / "run", step=9)
    with pytest.raises(CheckpointError) as caught:
        train(
            make_recipe(*SAVES, "train.learning_rate=1.0e-3", "method.rank=3", "train.log_every=7"),
            tmp_path / "run",
            resume=True,
        )
    message = str(caught.value)
    assert "train.learning_rate was 0.005 and is 0.001" in message
    assert "method.rank was 2 and is 3" in message
    assert "log_every" not in message


def test_when_to_log_and_to_save_may_change(make_recipe: MakeRecipe, runs: Runs, tmp_path: Path) -> None:
    recipe = make_recipe(*SAVES)
    runs.cut(recipe, tmp_path / "run", step=9)
    train(make_recipe(*SAVES, "train.log_every=3", "save.every_steps=4", "save.keep=5"), tmp_path / "run", resume=True)
    assert largest_difference(runs.straight(recipe) / "adapter", tmp_path / "run" / "adapter") == 0


def test_other_data_are_refused(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    rows = "".join(f"a fine film {i},positive\nno good film {i},negative\n" for i in range(40))
    for split in ("train", "validation"):
        (data / f"{split}.csv").write_text("sentence,label\n" + rows)
    recipe = make_recipe(*SAVES, "data.source=files", f"data.path={data}")
    cut(recipe, tmp_path / "run", step=2)
    (data / "train.csv").write_text("sentence,label\n" + rows.replace("fine", "poor"))
    with pytest.raises(CheckpointError, match="the examples are others"):
        train(recipe, tmp_path / "run", resume=True)


def test_a_finished_run_says_so_and_stays(make_recipe: MakeRecipe, runs: Runs, tmp_path: Path) -> None:
    recipe = make_recipe()
    result = train(recipe, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    listener = Cut()
    again = train(recipe, tmp_path / "run", resume=True, listener=listener)
    assert any("is finished" in note for note in listener.notes)
    assert again.metrics == json.loads(json.dumps(result.metrics))
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_links_and_pipes_are_no_parts_of_a_run(tmp_path: Path) -> None:
    records = RunRecords(tmp_path)
    records.log.symlink_to("elsewhere")
    says = f"{records.log} is a link to elsewhere; a run goes on in its own folder alone: put the real one there"
    with pytest.raises(CheckpointError, match=f"^{re.escape(says)}$"):
        check_no_links(records)
    records.log.unlink()
    os.mkfifo(records.log)
    says = f"{records.log} is neither a file nor a folder; restore it from a copy of the run"
    with pytest.raises(CheckpointError, match=f"^{re.escape(says)}$"):
        check_no_links(records)
    records.log.unlink()
    records.log.mkdir()
    with pytest.raises(CheckpointError, match="is a folder; restore the log "):
        check_no_links(records)


def test_nothing_to_go_on_with(make_recipe: MakeRecipe, runs: Runs, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds no run to go on with; leave out --resume"):
        train(make_recipe(), tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()


def test_the_newest_and_the_selected_checkpoints_are_kept(make_recipe: MakeRecipe, runs: Runs, tmp_path: Path) -> None:
    """Step 12 is the first evaluation after the freeze; a learning rate of almost nothing keeps it the best."""
    recipe = make_recipe(*SAVES, "train.learning_rate=1.0e-12", "save.keep=3")
    metrics = train(recipe, tmp_path / "run").metrics
    assert metrics["best_epoch"] == 2
    assert [path.name for path in checkpoints_of(RunRecords(tmp_path / "run"))] == [
        "step-12",
        "step-22",
        "step-23",
        "step-24",
    ]


def test_the_adapter_of_a_later_epoch_is_put_back(make_recipe: MakeRecipe, runs: Runs, tmp_path: Path) -> None:
    """The newest checkpoint is damaged, so the run goes on from one that had selected an earlier epoch than adapter/
    holds.
    """
    recipe = make_recipe("eval.select=last", "save.keep=4")
    runs.cut(recipe, tmp_path / "run", step=20)
    assert read(tmp_path / "run" / "adapter" / "state.json")["step"] == 18
    _flip(tmp_path / "run" / "checkpoints" / "step-18" / "state.json")
    with pytest.raises(PowerCutError):
        train(recipe, tmp_path / "run", resume=True, listener=Cut(step=13))
    assert read(tmp_path / "run" / "adapter" / "state.json")["step"] == 12
    train(recipe, tmp_path / "run", resume=True)
    assert_equal_runs(runs.straight(recipe), tmp_path / "run")


def test_the_one_before_can_be_used_even_if_the_damaged_one_was_selected(
    make_recipe: MakeRecipe, uncut: Runs, tmp_path: Path
) -> None:
    """Step 24 is selected; the older one that is kept had selected step 18, which must still be there for it."""
    recipe = make_recipe(*SAVES, "eval.select=last")
    shutil.copytree(uncut.straight(recipe), tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    assert [path.name for path in checkpoints_of(RunRecords(tmp_path / "run"))] == ["step-18", "step-23", "step-24"]
    _flip(tmp_path / "run" / "checkpoints" / "step-24" / "adapter.safetensors")
    train(recipe, tmp_path / "run", resume=True)
    assert_equal_runs(uncut.straight(recipe), tmp_path / "run")


def test_what_changed_when_a_run_went_on_is_in_its_recipe(make_recipe: MakeRecipe, runs: Runs, tmp_path: Path) -> None:
    """So that an evaluation forms the batches that the run's own did."""
    runs.cut(make_recipe(*SAVES), tmp_path / "run", step=9)
    train(make_recipe(*SAVES, "eval.batch_size=7"), tmp_path / "run", resume=True)
    assert load_recipe(tmp_path / "run" / "recipe.yaml").eval.batch_size == 7
    assert evaluate(tmp_path / "run")["identical"] is True


def test_a_checkpoint_of_another_recipe_is_refused(make_recipe: MakeRecipe, runs: Runs, tmp_path: Path) -> None:
    """Changed by hand in recipe.yaml and on the command line alike; the checkpoint remembers."""
    runs.cut(make_recipe(*SAVES), tmp_path / "run", step=9)
    path = tmp_path / "run" / "recipe.yaml"
    path.write_text(path.read_text().replace("learning_rate: 0.005", "learning_rate: 0.5"))
    with pytest.raises(CheckpointError, match=r"recipe\.yaml"):
        train(make_recipe(*SAVES, "train.learning_rate=0.5"), tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("precision", "bf16", "it computed in bf16 and this is fp32; set train.precision"),
        ("device", "NVIDIA H100 80GB HBM3", "it ran on CUDA and this is the CPU; set train.device"),
        ("processes", 2, r"the number of processes was 2 and is 1; start as many as before \(--processes 2\)"),
    ],
)
def test_another_machine_is_refused(
    make_recipe: MakeRecipe, runs: Runs, tmp_path: Path, key: str, value: object, says: str
) -> None:
    runs.cut(make_recipe(*SAVES), tmp_path / "run", step=9)
    path = tmp_path / "run" / "environment.json"
    path.write_text(json.dumps({**read(path), key: value}))
    with pytest.raises(CheckpointError, match=says):
        train(make_recipe(*SAVES), tmp_path / "run", resume=True)


def test_other_versions_are_said(make_recipe: MakeRecipe, runs: Runs, tmp_path: Path) -> None:
    runs.cut(make_recipe(*SAVES), tmp_path / "run", step=9)
    path = tmp_path / "run" / "environment.json"
    environment = read(path)
    environment["packages"]["torch"] = "1.0"
    path.write_text(json.dumps(environment))
    listener = Cut()
    train(make_recipe(*SAVES), tmp_path / "run", resume=True, listener=listener)
    assert any("torch was 1.0 and is" in note for note in listener.notes)


@pytest.mark.parametrize("left", [None, 100])
def test_a_log_that_lost_lines_is_refused(
    make_recipe: MakeRecipe, runs: Runs, tmp_path: Path, left: int | None
) -> None:
    runs.cut(make_recipe(*SAVES), tmp_path / "run", step=9)
    log = tmp_path / "run" / "log.jsonl"
    content = log.read_bytes()
    log.unlink()
    if left is not None:
        log.write_bytes(content[:left])
    with pytest.raises(CheckpointError, match=rf"log\.jsonl has {left or 0} bytes and had [0-9,]+ when"):
        train(make_recipe(*SAVES), tmp_path / "run", resume=True)


def test_minutes_are_counted_from_the_last_checkpoint_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("dora_cli.runs.saving.time.monotonic", lambda: now[0])
    policy = SavePolicy(SaveSection(every_minutes=2.0))
    for minute, due in ((1, False), (2, True)):
        now[0] = 60.0 * minute
        assert policy.due(5) is due
    policy.saved(5)
    assert policy.due(6) is False
    now[0] += 119
    assert policy.due(7) is False
    now[0] += 1
    assert policy.due(8) is True


def test_the_time_of_saving_is_not_training_time(
    make_recipe: MakeRecipe, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that saving alone moves."""
    plain, now = folders.write_folder, [0.0]

    def slow(*arguments: Any) -> None:
        now[0] += 0.25
        plain(*arguments)

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    monkeypatch.setattr("dora_cli.training.checkpoint.write_folder", slow)
    monkeypatch.setattr("dora_cli.assembly.weights.write_folder", slow)
    timing = train(make_recipe(*SAVES), tmp_path / "run").metrics["timing"]
    assert now[0] >= 24 * 0.25, "a checkpoint after each of the 24 steps"
    assert timing["saving_seconds"] == now[0]
    assert timing["train_seconds"] == 0
