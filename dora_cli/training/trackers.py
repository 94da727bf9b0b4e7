"""Trackers (TensorBoard, Weights & Biases, MLflow) through Accelerate's tracker classes, as one more listener of a run.

They see what log.jsonl and ranks.json record: ``train/...`` at logged steps, ``eval/...`` after evaluations,
``round/...`` after rounds of federated training, ``budget/...`` and ``ranks/PROJECTION`` where they changed,
``final/...`` at the end. What keeps files keeps them in the run folder. A tracker that fails while a run goes on is
left out from there on: no run is lost because a server went away.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dora_cli.atomic import write_json
from dora_cli.errors import CheckpointError, TrackerError
from dora_cli.recipe import Recipe
from dora_cli.runs.reading import read_json
from dora_cli.runs.records.rounds import mean_loss
from dora_cli.runs.run_folder import RunRecords
from dora_cli.training.listener import EvalLog, RunStart, StepLog

PROJECT = "dora"
"""What runs are filed under where a tracker groups them."""

_IDS = "ids.json"
"""In the run's folder of trackers: what each server calls this run, so that a resumed run goes on there."""


def check_trackers(names: Sequence[str] | None) -> None:
    """Refuses trackers whose package is not installed. Raises TrackerError."""
    missing = [name for name in names or () if find_spec(name) is None]
    if missing:
        raise TrackerError(
            f"train.log_with asks for {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
            f"installed; pip install {' '.join(missing)} (or 'dora-cli[trackers]' for all), or set train.log_with: null"
        )


def start_trackers(recipe: Recipe, records: RunRecords, note: Callable[[str], None], *, resumed_step: int) -> Trackers:
    """Starts the recipe's trackers for the run in `records`; only on the main process.

    Args:
        note: told once of each tracker that fails later.
        resumed_step: steps done when a resumed run goes on, 0 for a new one. TensorBoard forgets what came after them;
            the others go on with the same run of theirs.

    Raises:
        TrackerError: one does not start (no login, no network); those already started are closed.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    names = recipe.train.log_with or ()
    check_trackers(names)
    folder = records.trackers
    known = _read_ids(folder) if resumed_step else {}
    started: dict[str, Any] = {}
    for name in names:
        try:
            # Accelerate's loggers take one name for all runs of a project; TensorBoard's is a folder of the run's own
            tracker = LOGGER_TYPE_TO_CLASS[name](**_arguments(name, records, known.get(name), resumed_step))
            if hasattr(tracker, "start"):  # before Accelerate 1.9 making one starts it
                tracker.start()
            started[name] = tracker
            if name not in known:
                tracker.store_init_configuration(_flat(recipe.model_dump()))
        except Exception as error:  # each has errors of its own
            for tracker in started.values():
                tracker.finish()
            reason = " ".join(str(error).split()) or type(error).__name__
            raise TrackerError(
                f"{name} does not start: {reason[:300]}. Fix that (a login, the network, its environment variables), "
                "or take it out of train.log_with"
            ) from error
    write_json(folder / _IDS, {name: _id_of(name, tracker) for name, tracker in started.items()})
    return Trackers(started, note)


class Trackers:
    """Tells every tracker what a run says. See `dora_cli.training.listener.Listener` for what each method is told."""

    def __init__(self, trackers: Mapping[str, Any], note: Callable[[str], None]) -> None:
        self._trackers = dict(trackers)
        self._note = note
        self._ranks: Mapping[str, int] = {}
        self._told = True

    def start(self, start: RunStart) -> None:
        """The ranks the run starts or goes on with."""
        self._ranks = {layer["name"]: layer["rank"] for layer in start.layers}
        budget = {"budget/live": float(sum(self._ranks.values()))} if self._ranks else {}
        self._log({**budget, **self._rank_values()}, start.resumed_step)

    def tick(self, step: int, phase: str, budget: int) -> None: ...

    def event(self, step: int, phase: str, live: int, frozen: bool, ranks: Mapping[str, int]) -> None:
        """Remembers the ranks for the next logged step: events may be many, and projections are."""
        self._ranks, self._told = ranks, False

    def logged(self, log: StepLog) -> None:
        """Loss, speed and budget; ranks too if they changed."""
        values: dict[str, float | None] = {
            "train/loss": log.loss,
            "train/regulariser": log.regulariser,
            "train/grad_norm": log.grad_norm,
            "train/learning_rate": log.learning_rate,
            "train/epoch": log.epoch,
            "train/steps_per_second": log.steps_per_second,
            "train/samples_per_second": log.samples_per_second,
            "train/memory_bytes": log.memory_bytes,
        }
        if self._ranks:
            values |= {"budget/budget": log.budget, "budget/live": log.live_components}
        if not self._told:
            values |= self._rank_values()
            self._told = True
        self._log(values, log.step)

    def evaluating(self, split: str, done: int, total: int) -> None: ...

    def evaluated(self, log: EvalLog) -> None:
        """Every metric, and the epoch's mean training loss."""
        self._log(
            {"eval/train_loss": log.train_loss, **{f"eval/{name}": value for name, value in log.metrics.items()}},
            log.step,
        )

    def round_ended(self, record: Mapping[str, Any]) -> None:
        """What the server found and how much travelled, and how many clients came."""
        keys = ("correction", "distance", "bytes_up", "bytes_down")
        came = sum(client["state"] == "trained" for client in record["clients"])
        values = {"loss": mean_loss(record), "clients": came, **{key: record[key] for key in keys}}
        self._log({f"round/{key}": value for key, value in values.items()}, record["step"])

    def note(self, message: str) -> None: ...

    def finish(self, metrics: Mapping[str, Any], ranks: Mapping[str, Any], output: Path) -> None:
        """The metrics of the selected epoch, at the last step."""
        self._log({f"final/{name}": value for name, value in metrics["metrics"].items()}, metrics["epochs"][-1]["step"])

    def close(self) -> None:
        """Ends every tracker's run; a second call does nothing."""
        while self._trackers:
            name, tracker = self._trackers.popitem()
            try:
                tracker.finish()
            except Exception as error:  # the run is over and its records are written
                self._note(f"{name} did not end well: {error}")

    def _rank_values(self) -> dict[str, float | None]:
        return {f"ranks/{name}": float(rank) for name, rank in self._ranks.items()}

    def _log(self, values: Mapping[str, float | None], step: int) -> None:
        known = {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}
        for name, tracker in list(self._trackers.items()) if known else ():
            try:
                tracker.log(known, step=step)
            except Exception as error:
                del self._trackers[name]
                self._note(f"{name} failed and is left out from step {step:,} on; log.jsonl has everything: {error}")


def _arguments(name: str, records: RunRecords, known: str | None, resumed_step: int) -> dict[str, Any]:
    """What Accelerate's class for the tracker `name` is made with."""
    folder, run = records.trackers, _run_name(records.folder)
    folder.mkdir(parents=True, exist_ok=True)
    if name == "tensorboard":
        again: dict[str, Any] = {"purge_step": resumed_step + 1} if resumed_step else {}
        return {"run_name": "tensorboard", "logging_dir": str(folder), **again}
    if name == "wandb":
        # its own capture of the terminal would upload the live view frame by frame
        again = {"id": known, "resume": "allow"} if known else {}
        return {
            "run_name": os.environ.get("WANDB_PROJECT", PROJECT),
            "name": run,
            "dir": str(folder),
            "settings": {"console": "off"},
            **again,
        }
    assert name == "mlflow"
    if "MLFLOW_TRACKING_URI" not in os.environ:
        import mlflow

        mlflow.set_tracking_uri(f"sqlite:///{(folder / 'mlflow.db').resolve()}")
    return {"experiment_name": PROJECT, "logging_dir": None, "run_name": run, "run_id": known}


def _run_name(folder: Path) -> str:
    """The folder's name, of a run among several seeds with its parent's."""
    folder = folder.resolve()
    return f"{folder.parent.name}/{folder.name}" if folder.name.startswith("seed-") else folder.name


def _id_of(name: str, tracker: Any) -> str | None:
    """What the tracker's server calls the run; None where there is none to go on with."""
    if name == "wandb":
        return str(tracker.tracker.id)
    return str(tracker.tracker.info.run_id) if name == "mlflow" else None


def _read_ids(folder: Path) -> dict[str, str | None]:
    """The trackers that the run had, and its names there; empty if it had none."""
    try:
        ids = read_json(folder / _IDS)
    except CheckpointError:
        return {}
    return (
        {str(key): value if isinstance(value, str) else None for key, value in ids.items()}
        if isinstance(ids, dict)
        else {}
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Nested values as dotted keys with plain values, which is what trackers take as a run's configuration."""
    flat: dict[str, bool | int | float | str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{name}.")
        elif isinstance(value, bool | int | float | str):
            flat[name] = value
        else:
            flat[name] = "null" if value is None else ", ".join(map(str, value))
    return flat
