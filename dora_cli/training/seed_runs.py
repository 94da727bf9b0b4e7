"""One recipe trained over several seeds: ``seed-N`` folders and their summary."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dora_cli.assembly.build import base_fingerprint, load_base, make_method, note_on_code
from dora_cli.assembly.data import load_data
from dora_cli.assembly.resolve import resolve
from dora_cli.errors import CheckpointError, OutputError
from dora_cli.machine.memory import memory_advice
from dora_cli.machine.processes import is_main
from dora_cli.recipe import Recipe, dump_recipe, parse_recipe
from dora_cli.recipe.anchor import anchored
from dora_cli.runs.left_open import read_recipe, settled
from dora_cli.runs.place import can_go_on, check_output
from dora_cli.runs.records.summary import seeds_summary
from dora_cli.runs.resume import changed_keys, check_same_inputs
from dora_cli.runs.run_folder import RunRecords
from dora_cli.tasks import Task
from dora_cli.training.listener import Listener, SilentListener
from dora_cli.training.run import train


def train_seeds(
    recipe: Recipe,
    output: str | Path,
    seeds: Sequence[int],
    *,
    overwrite: bool = False,
    how_to_resume: str | None = None,
    make_listener: Callable[[], Listener] = SilentListener,
) -> dict[str, Any]:
    """Trains `recipe` once per seed into ``output/seed-N`` and writes ``summary.json``; returns its content.

    Seeds that are already finished with this very recipe are kept; unfinished ones go on from their newest checkpoint,
    or start again where they have none. The summary covers every finished seed in `output`, those of earlier calls
    included.

    Args:
        overwrite: whether whatever runs `output` holds are replaced, as soon as the first new one can start.
        make_listener: called once per run, and once for what is said before the first.

    Raises:
        OutputError: `output` holds something else, such as runs on other data or another base model; found before the
            first run. Or a finished run was taken away meanwhile.
    """
    parent = RunRecords(Path(output))
    if not overwrite:
        recipe = _as_begun(parent, recipe)
    recipe, task = resolve(recipe)
    _check(parent, recipe, seeds, overwrite)
    if not overwrite:
        with contextlib.closing(make_listener()) as listener:
            _check_inputs(parent, recipe, task, listener)
    replaces = parent.folder if overwrite else None
    finished: list[RunRecords] = []
    for seed in seeds:
        records = RunRecords(parent.folder / f"seed-{seed}")
        _check_finished(finished)
        finished.append(records)
        if records.metrics.exists() and not overwrite:
            continue
        resume = not overwrite and can_go_on(records)
        train(
            _with_seed(recipe, seed),
            records.folder,
            overwrite=records.recipe.exists() and not resume,
            resume=resume,
            listener=make_listener(),
            replaces=replaces,
            how_to_resume=how_to_resume,
        )
        replaces = None
    _check_finished(finished)
    summary = seeds_summary([run.read_metrics() for run in parent.seed_runs() if run.metrics.exists()])

    if is_main():
        parent.write_summary(summary)
    return summary


def _check(parent: RunRecords, recipe: Recipe, seeds: Sequence[int], overwrite: bool) -> None:
    """Refuses before the first run what a later one would stumble over."""
    check_output(parent.folder, overwrite=True)  # a folder of something else, or one that cannot be written
    for seed in seeds:
        check_output(parent.folder / f"seed-{seed}", overwrite=True)
    if overwrite:
        return
    if parent.recipe.exists():
        raise OutputError(
            f"--output {parent.folder} holds a single run already; choose another --output, or pass --overwrite to "
            "replace it"
        )
    for run in _begun(parent):
        if changes := changed_keys(read_recipe(run.recipe), anchored(_with_seed(recipe, _seed_of(run)))):
            raise OutputError(
                f"{run.folder} holds a run of another recipe; choose another --output, or pass --overwrite to replace "
                f"it{changes}"
            )


def _begun(parent: RunRecords) -> list[RunRecords]:
    """The runs that are there, but those that were killed before they began."""
    return [run for run in parent.seed_runs() if run.recipe.is_file() and run.recipe.stat().st_size]


def _as_begun(parent: RunRecords, recipe: Recipe) -> Recipe:
    """`recipe` with what it leaves open as in the runs that are there."""
    begun = _begun(parent)
    return settled(recipe, read_recipe(begun[0].recipe)) if begun else recipe


def _check_inputs(parent: RunRecords, recipe: Recipe, task: Task, listener: Listener) -> None:
    """Refuses runs in `parent` whose data or base model are others than today's: their mean with new ones would be one
    of nothing.
    """
    # others begin anew, on what is there now
    kept = [run for run in parent.seed_runs() if run.metrics.is_file() or can_go_on(run)]
    if not kept:
        return
    if is_main() and (note := note_on_code(recipe)):
        listener.note(note)
    held_out = make_method(recipe).held_out
    data = {name: part.fingerprint() for name, part in load_data(recipe, task, held_out=held_out).by_split.items()}
    with memory_advice(recipe, "load"):
        base = load_base(recipe, task)
    model = base_fingerprint(base)
    for run in kept:
        try:
            check_same_inputs(run.read_environment(), model=model, data=data)
        except CheckpointError as error:
            raise OutputError(
                f"{run.folder} holds a run that cannot stand beside new ones: {error}; choose another --output, or "
                "pass --overwrite to replace it"
            ) from error


def _check_finished(runs: Sequence[RunRecords]) -> None:
    """Refuses to go on where finished runs were taken away meanwhile: a summary would be of fewer seeds than were asked
    for.
    """
    for run in runs:
        if not run.metrics.exists():
            raise OutputError(
                f"the finished run in {run.folder} was removed while other seeds were trained; put it back from a "
                "copy, or train it again with the same command"
            )


def _seed_of(run: RunRecords) -> int:
    return int(run.folder.name.removeprefix("seed-"))


def _with_seed(recipe: Recipe, seed: int) -> Recipe:
    return parse_recipe(dump_recipe(recipe), overrides=[f"train.seed={seed}"])
