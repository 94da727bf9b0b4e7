"""Evaluating a finished run from its folder alone (plus the base model)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dora_cli.assembly.build import AdaptedModel, adapt, load_base, make_method, note_on_code
from dora_cli.assembly.data import HELD_OUT, encode_split, evaluated_splits, load_evaluated
from dora_cli.assembly.evaluator import make_evaluator
from dora_cli.assembly.notes import Note, notes_before_evaluation, unheard
from dora_cli.assembly.resolve import resolve
from dora_cli.assembly.weights import Weights, load_weights
from dora_cli.assembly.work import decide_threads
from dora_cli.data import Examples
from dora_cli.data.padding import recorded_multiple
from dora_cli.errors import CheckpointError, DataError, ModelError, RecipeError
from dora_cli.evaluation.base import Progress, silent
from dora_cli.files import at_home
from dora_cli.machine.environment import installed_version
from dora_cli.machine.ground import Ground, take_ground
from dora_cli.machine.memory import memory_advice
from dora_cli.machine.threads import own_threads, recorded_threads, set_threads
from dora_cli.printable import shown
from dora_cli.recipe import Recipe
from dora_cli.recipe.changes import keys_of
from dora_cli.recipe.effects import Effect
from dora_cli.runs.folders import MANIFEST
from dora_cli.runs.left_open import read_recipe as settled_recipe
from dora_cli.runs.records.evaluation import EvaluationRecord
from dora_cli.runs.records.fields import written
from dora_cli.runs.run_folder import RunRecords
from dora_cli.tasks import Task
from dora_cli.wording import plural

CODE = "model.trust_remote_code"
THREADS = "train.threads"

CHANGEABLE = keys_of(Effect.PLACE, Effect.SOURCE, Effect.MACHINE, Effect.EVALUATION, Effect.BATCHING)
"""Recipe keys that a finished run may be given anew: where data and base model are, how it decodes, and the machine."""


@dataclass(frozen=True)
class SavedRun:
    """A run folder and the weights of it that are asked for."""

    folder: Path
    weights: Path

    @classmethod
    def at(cls, checkpoint: Path, *, flag: str = "--checkpoint ") -> SavedRun:
        """`checkpoint` is a run folder (its selected adapter), or one checkpoint within it. Raises CheckpointError.

        Args:
            checkpoint: what was asked for.
            flag: how messages introduce it.
        """
        said = f"{flag}{checkpoint}"
        if not checkpoint.is_dir():
            raise CheckpointError(f"{said} is not a folder; name the run folder that dora train wrote (its --output)")
        if RunRecords(checkpoint).recipe.is_file():
            return cls(checkpoint, RunRecords(checkpoint).adapter)
        if (checkpoint / MANIFEST).is_file():
            for parent in list(checkpoint.resolve().parents)[:2]:
                if RunRecords(parent).recipe.is_file():
                    return cls(parent, checkpoint)
            raise CheckpointError(
                f"{said} lies outside a run folder, so its recipe.yaml is missing; name a checkpoint within a run"
            )
        seeds = sorted(path.name for path in checkpoint.glob("seed-*") if RunRecords(path).recipe.is_file())
        if seeds:
            raise CheckpointError(f"{said} holds runs of several seeds; name one of them: {', '.join(seeds)}")
        raise CheckpointError(f"{said} holds no recipe.yaml; name the run folder that dora train wrote (its --output)")

    def read_weights(self) -> Weights:
        """The weights that are asked for; raises CheckpointError."""
        if self.weights == RunRecords(self.folder).adapter and not self.weights.is_dir():
            raise CheckpointError(
                f"{self.folder} has no adapter, the selected weights: the run was stopped before an evaluation that "
                "counts; go on with it (dora train --resume), or name one of its checkpoints"
            )
        return load_weights(self.weights)

    def base_fingerprint(self) -> str:
        """What `fingerprint_model` said of the base model of the run; raises CheckpointError."""
        return str(RunRecords(self.folder).read_environment()["model"]["fingerprint"])

    def read_recipe(self) -> Recipe:
        """The recipe of the run as it trained; raises CheckpointError if the file is no recipe."""
        stored = RunRecords(self.folder).recipe
        try:
            return settled_recipe(stored)
        except RecipeError as error:
            raise CheckpointError(
                f"{error}\n{stored} is damaged or was not written by dora: copy the run folder again if it was "
                "copied, or train again"
            ) from error


@dataclass(frozen=True)
class Restored:
    """A run brought back: its recipe with the changes of this call, its task, and its model with the weights asked for.

    Attributes:
        examples: of the splits that were asked for.
        ground: where this call computes.
    """

    run: SavedRun
    recipe: Recipe
    task: Task
    weights: Weights
    adapted: AdaptedModel
    examples: Mapping[str, Examples]
    ground: Ground
    environment: Mapping[str, Any]


def restore(
    checkpoint: str | Path,
    overrides: Sequence[str],
    splits: Callable[[Recipe, Task], Sequence[str]],
    note: Note = unheard,
) -> Restored:
    """Rebuilds the model of a run at its final ranks, to compute with the run's number of threads; to be called within
    `own_threads`.

    Args:
        checkpoint: run folder, or one checkpoint of it.
        overrides: ``key=value`` changes, see `CHANGEABLE`.
        splits: which splits to load, before the model so that a missing file is said at once.
        note: told if code of the base model is run.

    Raises:
        DoraError: what a user can fix.
    """
    run = SavedRun.at(Path(checkpoint))
    recipe, task = resolve(read_recipe(run, overrides))
    weights = run.read_weights()
    names = splits(recipe, task)
    environment = RunRecords(run.folder).read_environment()
    threads = recorded_threads(environment)
    ground = take_ground(recipe)
    with hint_where(run, recipe):
        examples = {name: load_evaluated(recipe, task, name) for name in names}
        if of_code := note_on_code(recipe):
            note(of_code)
        with memory_advice(recipe, "load"):
            base = load_base(recipe, task)
    if THREADS in _keys(overrides):
        threads = decide_threads(recipe, base.model, ground.most_threads).count
    set_threads(threads)
    with memory_advice(recipe, "load"):
        adapted = adapt(recipe, task, base, make_method(recipe), ground.device, total_steps=None)
        adapted = replace(adapted, pad_multiple=recorded_multiple(environment))
    expected = environment["model"]["fingerprint"]
    if expected != adapted.fingerprint:
        raise CheckpointError(
            f"the base model {recipe.model.name} is not the one this run was trained on (fingerprint "
            f"{adapted.fingerprint[:12]}, the run's is {shown(expected, 12)}); point --set model.name=... or "
            "model.revision=... at that one"
        )
    weights.restore(adapted)
    return Restored(run, recipe, task, weights, adapted, examples, ground, environment)


@own_threads()
def evaluate_saved(
    checkpoint: str | Path,
    *,
    split: str | None = None,
    overrides: Sequence[str] = (),
    note: Note = unheard,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Rebuilds the model of a run at its final ranks and evaluates it; a generator decodes and is scored again.

    Args:
        checkpoint: run folder, or one checkpoint of it.
        split: another split than the recipe's; ``train-held-out`` is what a run with ``eval.held_out`` was scored on.
        overrides: ``key=value`` changes to where data and model are found and how outputs are decoded, see
            `CHANGEABLE`.
        note: told, a line at a time, what a reader of the numbers should know.
        progress: told how far the evaluation is: a split, how many batches of it are done, and how many there are.

    Returns:
        ``task, model, method, checkpoint, step, epoch, splits, metrics``, and, where the data are those of the run,
        ``recorded`` (what the run wrote down for these weights) and ``identical``; of classes of the user's own also
            ``confusion``.
    """
    restored = restore(checkpoint, overrides, partial(_evaluated, split=split), note)
    split = None if split == HELD_OUT else split  # which the run's own evaluation is of
    recipe, task, adapted, weights = restored.recipe, restored.task, restored.adapted, restored.weights
    evaluator = make_evaluator(
        recipe,
        task,
        restored.examples,
        model=adapted.model,
        tokenizer=adapted.tokenizer,
        layout=adapted.layout,
        accelerator=restored.ground.accelerator,
        progress=progress,
        split=HELD_OUT if split is None and recipe.eval.held_out is not None else split,
        encode=lambda part: encode_split(recipe, task, part, adapted),
    )
    for odd in notes_before_evaluation(recipe, task, restored.examples):
        note(odd)
    finished = evaluator.finish(adapted.model, adapted.method)
    for said in finished.notes:
        note(said)
    result: dict[str, Any] = {
        "schema_version": 1,
        "task": task.name,
        "model": recipe.model.name,
        "method": adapted.method.name,
        "checkpoint": str(restored.run.weights),
        "step": weights.state["step"],
        "epoch": weights.state["epoch"],
        "splits": {name: len(part) for name, part in restored.examples.items()},
        "metrics": finished.metrics,
    }
    if evaluator.confusion is not None:
        result["confusion"] = evaluator.confusion
    if split is None:
        other_data, other_machine = _differences(restored)
        for difference in other_data:
            note(f"not comparable with the run's own evaluation: {difference}")
        if not other_data:
            # of finished weights the run may know more than of an epoch's, and an epoch more than is asked for here
            known = recorded_metrics(restored)
            recorded = {name: known[name] for name in finished.metrics if name in known}
            if recorded:  # else a checkpoint within an epoch
                result["recorded"] = recorded
                result["identical"] = all(finished.metrics[name] == value for name, value in recorded.items())
                for difference in other_machine if not result["identical"] else ():
                    note(f"digits may differ from the run's own evaluation: {difference}")
    return written(EvaluationRecord, result)


def _evaluated(recipe: Recipe, task: Task, *, split: str | None) -> Sequence[str]:
    """The splits to evaluate; `HELD_OUT` by its name too, where the run held something out.

    Raises:
        RecipeError: there is no such split; says which there are.
    """
    held_out = recipe.eval.held_out is not None
    if split is None or (split == HELD_OUT and held_out):
        return evaluated_splits(recipe, task)
    if split in task.splits:
        return (split,)
    known = ", ".join([*task.splits, *([HELD_OUT] if held_out else [])])
    why = " (the run held out no part of its training split; eval.held_out in a new one does)"
    raise RecipeError(f"--split {split}: {task.name} has {known}{why if split == HELD_OUT else ''}")


def recorded_metrics(restored: Restored) -> Mapping[str, Any]:
    """What the run wrote down of the weights that were restored."""
    records = RunRecords(restored.run.folder)
    if restored.run.weights == records.adapter and records.metrics.is_file():
        return dict(records.read_metrics()["metrics"])
    return restored.weights.state.get("metrics") or {}


def _differences(restored: Restored) -> tuple[list[str], list[str]]:
    """In what this evaluation differs from those of the run: in the data that are scored, and in the machine that
    scores them.
    """
    recipe, environment = restored.recipe, restored.environment
    trained, _ = resolve(restored.run.read_recipe())
    recorded = environment["data"]
    data = [
        f"the examples of {name} are others than those of the run (fingerprint)"
        for name, part in restored.examples.items()
        if recorded.get(name, {}).get("fingerprint") != part.fingerprint()
    ]
    for key, now, then in (
        ("data.max_length", recipe.data.max_length, trained.data.max_length),
        ("eval.batch_size", recipe.eval.batch_size, trained.eval.batch_size),
    ):
        if now != then:
            data.append(f"{key} is {now}, the run's is {then}")
    if recipe.decode != trained.decode:
        data.append("outputs are decoded with other settings than the run's")
    machine = []
    if restored.ground.precision != environment["precision"]:
        machine.append(f"it is in {restored.ground.precision}, the run's in {shown(environment.get('precision'))}")
    if torch.get_num_threads() != (then := recorded_threads(environment)):
        machine.append(f"it computes with {plural(torch.get_num_threads(), 'thread')}, the run with {then}")
    packages = environment["packages"]
    for name in ("torch", "transformers"):
        if installed_version(name) != packages.get(name):
            machine.append(f"{name} is {installed_version(name)} here and was {shown(packages.get(name))}")
    return data, machine


@contextmanager
def hint_where(run: SavedRun, recipe: Recipe) -> Iterator[None]:
    """Says what to do where the run's data or base model have moved."""
    try:
        yield
    except (DataError, ModelError) as error:
        model, data = recipe.model.name, recipe.data.path
        if (model.startswith("builtin:") or Path(model).is_dir()) and (data is None or at_home(data).exists()):
            raise
        raise type(error)(
            f"{error}\nThe run in {run.folder} names its data and base model in recipe.yaml; say where they are now "
            "with --set data.path=..., --set data.source=... or --set model.name=..."
        ) from error


def read_recipe(run: SavedRun, overrides: Sequence[str]) -> Recipe:
    """The recipe of a run with the changes of this call.

    Raises:
        CheckpointError: the run's own is damaged.
        RecipeError: the changes do not fit it, or code of a stranger would run unasked.
    """
    stored = RunRecords(run.folder).recipe
    trained = run.read_recipe()
    recipe = settled_recipe(stored, overrides)
    changed = _keys(overrides)
    for key in changed:
        if key not in CHANGEABLE:
            raise RecipeError(
                f"--set {key}: an evaluation can change {', '.join(CHANGEABLE)}; the rest of the recipe "
                "belongs to the run"
            )
    # A run folder may come from a stranger, who does not decide what runs on this machine.
    if recipe.model.trust_remote_code and CODE not in changed:
        raise RecipeError(
            f"{stored}: {CODE} is true, so evaluating this run would run Python code that comes with the model "
            f"{recipe.model.name!r}; if you trust that code, say so here too: --set {CODE}=true"
        )
    if recipe.model.trust_remote_code and not trained.model.trust_remote_code:
        raise RecipeError(f"--set {CODE}=true: the run was made without code of its base model; leave it out")
    return recipe


def _keys(overrides: Sequence[str]) -> list[str]:
    return [override.partition("=")[0].strip() for override in overrides]
