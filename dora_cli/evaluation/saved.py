"""Evaluating a finished run from its folder alone (plus the base model)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dora_cli.data import Examples, encode
from dora_cli.errors import CheckpointError, DataError, ModelError, RecipeError
from dora_cli.evaluation.run import evaluate
from dora_cli.recipe import Recipe, load_recipe
from dora_cli.reports.records import RunRecords, read_json
from dora_cli.tasks import get_task
from dora_cli.training.build import adapt, load_base, make_method
from dora_cli.training.checkpoint import MANIFEST, load_weights
from dora_cli.training.devices import make_accelerator, resolve_device, resolve_precision
from dora_cli.training.environment import installed_version
from dora_cli.training.listener import Listener, SilentListener
from dora_cli.training.run import load_split
from dora_cli.training.seeds import set_deterministic

CHANGEABLE = (
    "data.source",
    "data.path",
    "data.columns",
    "data.labels",
    "data.max_eval_samples",
    "data.max_length",
    "eval.batch_size",
    "model.name",
    "model.revision",
    "train.device",
    "train.precision",
    "train.deterministic",
)
"""Recipe keys that an evaluation may change: where data and base model are, and the machine. The rest belongs to the run."""


@dataclass(frozen=True)
class SavedRun:
    """A run folder and the weights of it that are asked for."""

    folder: Path
    weights: Path

    @classmethod
    def at(cls, checkpoint: Path) -> SavedRun:
        """`checkpoint` is a run folder (its selected adapter), or one checkpoint within it. Raises CheckpointError."""
        if not checkpoint.is_dir():
            raise CheckpointError(f"--checkpoint {checkpoint} is not a folder; name the run folder that dora train wrote (its --output)")
        if RunRecords(checkpoint).recipe.is_file():
            return cls(checkpoint, RunRecords(checkpoint).adapter)
        if (checkpoint / MANIFEST).is_file():
            for parent in list(checkpoint.resolve().parents)[:2]:
                if RunRecords(parent).recipe.is_file():
                    return cls(parent, checkpoint)
            raise CheckpointError(
                f"--checkpoint {checkpoint} lies outside a run folder, so its recipe.yaml is missing; name a checkpoint within a run"
            )
        seeds = sorted(path.name for path in checkpoint.glob("seed-*") if RunRecords(path).recipe.is_file())
        if seeds:
            raise CheckpointError(f"--checkpoint {checkpoint} holds runs of several seeds; name one of them: {', '.join(seeds)}")
        raise CheckpointError(f"--checkpoint {checkpoint} holds no recipe.yaml; name the run folder that dora train wrote (its --output)")


def evaluate_saved(
    checkpoint: str | Path, *, split: str | None = None, overrides: Sequence[str] = (), listener: Listener | None = None
) -> dict[str, Any]:
    """Rebuilds the model of a run at its final ranks and evaluates it.

    Args:
        checkpoint: run folder, or one checkpoint of it.
        split: another split than the task's evaluation splits.
        overrides: ``key=value`` changes to where data and model are found, see `CHANGEABLE`.

    Returns:
        ``task, model, method, checkpoint, step, epoch, splits, metrics``, and, where the data are those of the run, ``recorded`` (what
        the run wrote down for these weights) and ``identical``.
    """
    listener = listener or SilentListener()
    try:
        return _evaluate_saved(SavedRun.at(Path(checkpoint)), split, overrides, listener)
    finally:
        listener.close()


def _evaluate_saved(run: SavedRun, split: str | None, overrides: Sequence[str], listener: Listener) -> dict[str, Any]:
    recipe = _recipe(run, overrides)
    task = get_task(recipe.task)
    names = task.eval_splits if split is None else (split,)
    if split is not None and split not in task.splits:
        raise RecipeError(f"--split {split}: {task.name} has {', '.join(task.splits)}")
    if run.weights == RunRecords(run.folder).adapter and not run.weights.is_dir():
        raise CheckpointError(
            f"{run.folder} has no adapter, the selected weights: the run was stopped before an evaluation that counts; train again, "
            "or name one of its checkpoints"
        )
    weights = load_weights(run.weights)
    environment = read_json(RunRecords(run.folder).environment)
    device = resolve_device(recipe.train.device)
    precision = resolve_precision(recipe.train.precision, device, recipe.model.dtype)
    set_deterministic(recipe.train.deterministic)
    accelerator = make_accelerator(device, precision)
    with _hint(run, recipe):
        examples = {name: load_split(recipe, task, name, training=False) for name in names}
        base = load_base(recipe, task)
    for name, part in examples.items():
        if part.labels is None:
            raise RecipeError(f"--split {name} of {task.name} has no labels in data.source {recipe.data.source}, so it cannot be scored")
    adapted = adapt(recipe, base, make_method(recipe), accelerator.device, total_steps=None)
    expected = _section(environment, "model").get("fingerprint")
    if expected != adapted.fingerprint:
        raise CheckpointError(
            f"the base model {recipe.model.name} is not the one this run was trained on (fingerprint {adapted.fingerprint[:12]}, "
            f"the run's is {str(expected)[:12]}); point --set model.name=... or model.revision=... at that one"
        )
    weights.restore(adapted)
    encoded = {name: encode(part, adapted.tokenizer, recipe.data.max_length) for name, part in examples.items()}
    metrics = evaluate(
        adapted.model, encoded, task, batch_size=recipe.eval.batch_size, accelerator=accelerator, progress=listener.evaluating
    )
    result: dict[str, Any] = {
        "schema_version": 1,
        "task": task.name,
        "model": recipe.model.name,
        "method": adapted.method.name,
        "checkpoint": str(run.weights),
        "step": weights.state.get("step"),
        "epoch": weights.state.get("epoch"),
        "splits": {name: len(part) for name, part in examples.items()},
        "metrics": metrics,
    }
    if names == task.eval_splits:
        other_data, other_machine = _differences(run, recipe, environment, examples, precision)
        for difference in other_data:
            listener.note(f"not comparable with the run's own evaluation: {difference}")
        if not other_data:
            result["recorded"] = weights.state.get("metrics")
            result["identical"] = result["recorded"] == metrics
            for difference in other_machine if not result["identical"] else ():
                listener.note(f"digits may differ from the run's own evaluation: {difference}")
    return result


def _differences(
    run: SavedRun, recipe: Recipe, environment: Mapping[str, Any], examples: Mapping[str, Examples], precision: str
) -> tuple[list[str], list[str]]:
    """In what this evaluation differs from those of the run: in the data that are scored, and in the machine that scores them."""
    trained = load_recipe(RunRecords(run.folder).recipe)
    recorded = _section(environment, "data")
    data = [
        f"the examples of {name} are others than those of the run (fingerprint)"
        for name, part in examples.items()
        if recorded.get(name, {}).get("fingerprint") != part.fingerprint()
    ]
    for key, now, then in (
        ("data.max_length", recipe.data.max_length, trained.data.max_length),
        ("eval.batch_size", recipe.eval.batch_size, trained.eval.batch_size),
    ):
        if now != then:
            data.append(f"{key} is {now}, the run's is {then}")
    machine = []
    if precision != environment.get("precision"):
        machine.append(f"it is in {precision}, the run's in {environment.get('precision')}")
    packages = _section(environment, "packages")
    for name in ("torch", "transformers"):
        if installed_version(name) != packages.get(name):
            machine.append(f"{name} is {installed_version(name)} here and was {packages.get(name)}")
    return data, machine


@contextmanager
def _hint(run: SavedRun, recipe: Recipe) -> Iterator[None]:
    """Says what to do where the run's data or base model have moved."""
    try:
        yield
    except (DataError, ModelError) as error:
        model, data = recipe.model.name, recipe.data.path
        if (model.startswith("builtin:") or Path(model).is_dir()) and (data is None or Path(data).expanduser().exists()):
            raise
        raise type(error)(
            f"{error}\nThe run in {run.folder} names its data and base model in recipe.yaml; say where they are now with "
            "--set data.path=..., --set data.source=... or --set model.name=..."
        ) from error


def _recipe(run: SavedRun, overrides: Sequence[str]) -> Recipe:
    recipe = load_recipe(RunRecords(run.folder).recipe, overrides)
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key not in CHANGEABLE:
            raise RecipeError(f"--set {key}: an evaluation can change {', '.join(CHANGEABLE)}; the rest of the recipe belongs to the run")
    return recipe


def _section(environment: Any, key: str) -> Mapping[str, Any]:
    section = environment.get(key) if isinstance(environment, dict) else None
    if not isinstance(section, dict):
        raise CheckpointError(
            f"environment.json of the run lacks its section {key!r}; the file is damaged, restore it from a copy of the run"
        )
    return section
