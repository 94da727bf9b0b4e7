"""Trackers: TensorBoard for real, the others' packages replaced by small ones that write down what they are told."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dora_cli.errors import RecipeError, StoppedError, TrackerError
from dora_cli.recipe import dump_recipe, parse_recipe
from dora_cli.runs.run_folder import RunRecords
from dora_cli.training import trackers as module
from dora_cli.training.listener import EvalLog, Listeners, SilentListener
from dora_cli.training.run import train
from dora_cli.training.trackers import Trackers, check_trackers
from tests.reports.examples import rounds
from tests.training.conftest import MakeRecipe

SMALLEST = "task: glue/rte\nmodel: {name: FacebookAI/roberta-base}\n"


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard would show of a run: ``tag: (step, value)``, ascending."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "trackers" / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def logged(run: Path, kind: str) -> list[dict[str, Any]]:
    return [
        entry for line in (run / "log.jsonl").read_text().splitlines() if (entry := json.loads(line))["type"] == kind
    ]


# TensorBoard ----------------------------------------------------------------------------------------------------------


def test_tensorboard_holds_what_the_records_hold(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    result = train(make_recipe("train.log_with=tensorboard"), tmp_path / "run")
    found, steps = scalars(tmp_path / "run"), logged(tmp_path / "run", "train")
    for tag, key in (
        ("loss", "loss"),
        ("grad_norm", "grad_norm"),
        ("learning_rate", "learning_rate"),
        ("epoch", "epoch"),
    ):
        assert found[f"train/{tag}"] == [(entry["step"], pytest.approx(entry[key], rel=1e-6)) for entry in steps]
    assert found["train/regulariser"] == [
        (entry["step"], pytest.approx(entry["regulariser"], rel=1e-6))
        for entry in steps
        if entry["regulariser"] is not None
    ]
    assert found["budget/budget"] == [(entry["step"], entry["budget"]) for entry in steps]
    assert found["budget/live"] == [(0, 18.0), *((entry["step"], entry["live"]) for entry in steps)]
    evaluations = logged(tmp_path / "run", "eval")
    assert found["eval/accuracy"] == [
        (entry["step"], pytest.approx(entry["metrics"]["accuracy"])) for entry in evaluations
    ]
    assert found["final/accuracy"] == [(24, pytest.approx(result.metrics["metrics"]["accuracy"]))]
    for layer in result.ranks["layers"]:
        values = found[f"ranks/{layer['name']}"]
        assert values[0] == (0, layer["start_rank"])
        # events at 9 and 11; told at the logged steps after them
        assert [step for step, _ in values] == [0, 10, 15]
        assert values[-1][1] == layer["rank"]
    assert sum(values[-1][1] for tag, values in found.items() if tag.startswith("ranks/")) == 12


def test_a_resumed_run_goes_on_where_it_stopped(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Steps after the checkpoint were told already: they must not stand there twice."""

    class Killed(Exception):  # noqa: N818 - as by a power cut
        pass

    class Cut(SilentListener):
        def tick(self, step: int, phase: str, budget: int) -> None:
            if step == 16:
                raise Killed

    recipe = make_recipe("train.log_with=[tensorboard]", "train.log_every=1", "save.every_steps=7")
    train(recipe, tmp_path / "straight")
    with pytest.raises(Killed):
        train(recipe, tmp_path / "run", listener=Cut())
    assert max(step for step, _ in scalars(tmp_path / "run")["train/loss"]) == 15, (
        "checkpoint after step 14, told up to 15"
    )
    train(recipe, tmp_path / "run", resume=True)
    one, other = scalars(tmp_path / "straight"), scalars(tmp_path / "run")
    assert [step for step, _ in other["train/loss"]] == list(range(1, 25))
    for tag in ("train/loss", "eval/accuracy", "final/accuracy"):
        assert other[tag] == one[tag]
    configurations = list((tmp_path / "run" / "trackers" / "tensorboard").glob("*/hparams.yml"))
    assert len(configurations) == 1, "a resumed run is no second one"


def test_a_replaced_run_leaves_no_curve_behind(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe("train.log_with=tensorboard", "train.max_steps=4")
    train(recipe, tmp_path / "run")
    train(recipe, tmp_path / "run", overwrite=True)
    assert scalars(tmp_path / "run")["train/loss"] == [
        (4, pytest.approx(logged(tmp_path / "run", "train")[0]["loss"], rel=1e-6))
    ]
    train(make_recipe("train.max_steps=4"), tmp_path / "run", overwrite=True)
    assert not (tmp_path / "run" / "trackers").exists()


def test_trackers_change_no_number_and_may_be_taken_when_resuming(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    class Stop(SilentListener):
        def evaluated(self, log: EvalLog) -> None:
            import os
            import signal

            if log.epoch == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StoppedError):
        train(make_recipe(), tmp_path / "run", listener=Stop())
    resumed = train(make_recipe("train.log_with=tensorboard"), tmp_path / "run", resume=True)
    assert min(step for step, _ in scalars(tmp_path / "run")["train/loss"]) > 12
    straight = train(make_recipe(), tmp_path / "straight")
    assert resumed.metrics["epochs"] == straight.metrics["epochs"]


# Packages that are not there ------------------------------------------------------------------------------------------


def test_a_missing_package_is_said_before_anything_is_written(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = module.find_spec
    monkeypatch.setattr(module, "find_spec", lambda name: None if name in ("wandb", "mlflow") else there(name))
    with pytest.raises(TrackerError, match=r"wandb, which .*; pip install wandb "):
        train(make_recipe("train.log_with=[tensorboard, wandb]"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(TrackerError, match=r"wandb, mlflow, which are not installed; pip install wandb mlflow "):
        check_trackers(("wandb", "mlflow"))
    check_trackers(None)


@pytest.mark.parametrize(
    ("value", "means"),
    [
        ("null", None),
        ("wandb", ("wandb",)),
        ("[tensorboard]", ("tensorboard",)),
        ("[mlflow, wandb]", ("mlflow", "wandb")),
    ],
)
def test_the_key_takes_one_or_a_list(value: str, means: object) -> None:
    recipe = parse_recipe(SMALLEST, overrides=[f"train.log_with={value}"])
    assert recipe.train.log_with == means
    assert parse_recipe(dump_recipe(recipe)) == recipe


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("tensorbord", "tensorboard?"),
        ("[tensorboard, comet]", "'comet'"),
        ("[]", "list []"),
        ("[wandb, wandb]", "different"),
        ("true", "a list"),
    ],
)
def test_other_values_of_the_key_are_refused(value: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(SMALLEST, overrides=[f"train.log_with={value}"])
    assert "train.log_with" in str(caught.value)
    assert said in str(caught.value)


# Weights & Biases and MLflow ------------------------------------------------------------------------------------------

WANDB = '''
"""Writes down what it is told; reaches for no network."""
import json, os
told = open(os.environ["TOLD"], "a")
def tell(*what):
    print(json.dumps(what, default=str), file=told, flush=True)
class Run:
    def __init__(self, id):
        self.id = id
    def log(self, values, step=None):
        if os.environ.get("FAIL_AT") == str(step):
            raise ConnectionError("the server went away")
        tell("log", step, values)
    def finish(self):
        tell("finish")
class config:
    @staticmethod
    def update(values, allow_val_change):
        tell("config", values)
def init(**arguments):
    tell("init", arguments)
    if "NO_LOGIN" in os.environ:
        raise RuntimeError("no API key\\nconfigured")
    return Run(arguments.get("id", "abc123"))
'''

Told = Callable[[], list[list[Any]]]


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    """A package of that name; gives what it was told since the last time."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "wandb.py").write_text(WANDB)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    for name in [name for name in sys.modules if name.partition(".")[0] == "wandb"]:
        monkeypatch.delitem(sys.modules, name)
    path = tmp_path / "told"
    monkeypatch.setenv("TOLD", str(path))
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    read = 0

    def told() -> list[list[Any]]:
        nonlocal read
        lines = path.read_text().splitlines()[read:] if path.exists() else []
        read += len(lines)
        return [json.loads(line) for line in lines]

    yield told
    sys.modules.pop("wandb", None)


def test_wandb_is_told_the_run_and_keeps_its_files_in_it(make_recipe: MakeRecipe, tmp_path: Path, wandb: Told) -> None:
    train(make_recipe("train.log_with=wandb", "train.max_steps=10"), tmp_path / "runs" / "seed-3")
    (_, arguments), (_, configuration), *rest = wandb()
    assert (arguments["project"], arguments["name"]) == ("dora", "runs/seed-3")
    assert arguments["dir"] == str(tmp_path / "runs" / "seed-3" / "trackers")
    assert arguments["settings"] == {"console": "off"}, "its capture of the terminal would upload the live view"
    assert "id" not in arguments
    assert configuration["method.rank"] == 2
    assert configuration["method.targets"] == "attention, ffn"
    assert configuration["data.path"] == "null"
    assert rest[-1] == ["finish"]
    steps = [step for kind, step, _ in rest[:-1]]
    assert steps == sorted(steps), "it takes no step below one it has seen"
    assert all(isinstance(value, float) for _, _, values in rest[:-1] for value in values.values())


def test_a_resumed_run_is_the_same_run_there(make_recipe: MakeRecipe, tmp_path: Path, wandb: Told) -> None:
    class Failed(Exception):  # noqa: N818
        pass

    class Cut(SilentListener):
        def tick(self, step: int, phase: str, budget: int) -> None:
            if step == 9:
                raise Failed

    recipe = make_recipe("train.log_with=wandb")
    with pytest.raises(Failed):
        train(recipe, tmp_path / "run", listener=Cut())
    assert wandb()[-1] == ["finish"], "also where a run fails"
    train(recipe, tmp_path / "run", resume=True)
    told = wandb()
    assert told[0][1]["id"] == "abc123"
    assert told[0][1]["resume"] == "allow"
    assert "config" not in [entry[0] for entry in told]
    assert [entry[1] for entry in told if entry[0] == "log" and "train/loss" in entry[2]] == [10, 15, 20, 24]
    train(recipe, tmp_path / "run", overwrite=True)
    assert "id" not in wandb()[0][1], "a run that replaces another is a new one"


def test_a_tracker_that_does_not_start_ends_the_run_before_it_begins(
    make_recipe: MakeRecipe, tmp_path: Path, wandb: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_LOGIN", "1")
    recipe = make_recipe("train.log_with=[tensorboard, wandb]", "train.max_steps=4")
    with pytest.raises(TrackerError, match=r"^wandb does not start: no API key configured\. Fix that"):
        train(recipe, tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == [], "nothing has to be overwritten"
    monkeypatch.delenv("NO_LOGIN")
    train(recipe, tmp_path / "run")


def test_a_tracker_that_fails_later_is_left_out_and_the_run_goes_on(
    make_recipe: MakeRecipe, tmp_path: Path, wandb: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []

    class Notes(SilentListener):
        def note(self, message: str) -> None:
            notes.append(message)

    monkeypatch.setenv("FAIL_AT", "10")
    train(make_recipe("train.log_with=[wandb, tensorboard]"), tmp_path / "run", listener=Notes())
    assert notes == ["wandb failed and is left out from step 10 on; log.jsonl has everything: the server went away"]
    assert max(entry[1] for entry in wandb() if entry[0] == "log") < 10
    assert scalars(tmp_path / "run")["train/loss"][-1][0] == 24


def test_what_is_no_number_is_not_told() -> None:
    told = []

    class Tracker:
        def log(self, values: dict[str, float], step: int) -> None:
            told.append((step, values))

    trackers = Trackers({"any": Tracker()}, print)
    trackers.evaluated(EvalLog(1, 5, "final", float("nan"), {"pearson": None, "loss": 0.5}, "pearson", False))
    trackers.evaluated(EvalLog(1, 6, "final", float("inf"), {"pearson": None}, "pearson", False))
    assert told == [(5, {"eval/loss": 0.5})]


def test_mlflow_keeps_its_database_in_the_run_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = type(sys)("mlflow")
    uris: list[str] = []
    package.set_tracking_uri = uris.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", package)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    records = RunRecords(tmp_path / "rte")
    arguments = module._arguments("mlflow", records, "the run's id", 7)
    assert uris == [f"sqlite:///{tmp_path / 'rte' / 'trackers' / 'mlflow.db'}"]
    assert arguments == {"experiment_name": "dora", "logging_dir": None, "run_name": "rte", "run_id": "the run's id"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ours")
    module._arguments("mlflow", records, None, 0)
    assert len(uris) == 1


def test_a_round_is_told_at_its_last_step() -> None:
    told = []

    class Tracker:
        def log(self, values: dict[str, float], step: int) -> None:
            told.append((step, values))

    listeners = Listeners(SilentListener(), Trackers({"any": Tracker()}, print))
    listeners.round_ended({**rounds(2)[1], "distance": None})
    ((step, values),) = told
    assert step == 50
    assert values == {
        "round/loss": pytest.approx(0.48),
        "round/clients": 3.0,
        "round/correction": 0.00625,
        "round/bytes_up": 3 * 1_327_104.0,
        "round/bytes_down": 4 * 1_327_104.0,
    }
