"""One run, from a recipe to its folder."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dora_cli.assembly.build import AdaptedModel, adapt, load_base, make_method
from dora_cli.assembly.clients import client_parts
from dora_cli.assembly.data import RunData
from dora_cli.assembly.length import RunLength
from dora_cli.assembly.notes import notes_before_training
from dora_cli.assembly.prepare import Prepared, prepare, prepare_model
from dora_cli.assembly.resolve import resolve
from dora_cli.assembly.warm import Warm
from dora_cli.assembly.weights import load_weights
from dora_cli.atomic import write_jsonl, write_text
from dora_cli.data.cuts import recorded_cuts
from dora_cli.data.padding import recorded_multiple
from dora_cli.errors import CheckpointError, LibraryError, OutputError, TrackerError
from dora_cli.evaluation.base import Finished
from dora_cli.evaluation.measuring import Evaluator
from dora_cli.machine.capture import check_capture
from dora_cli.machine.environment import describe_environment, peak_memory_bytes
from dora_cli.machine.ground import Ground, take_ground
from dora_cli.machine.processes import on_main
from dora_cli.machine.signals import StoppedNow, StopSignals
from dora_cli.machine.threads import own_threads, recorded_threads
from dora_cli.methods import Method
from dora_cli.recipe import Recipe, dump_recipe
from dora_cli.recipe.anchor import anchored
from dora_cli.runs.checkpoints import checkpoints_of
from dora_cli.runs.folders import MANIFEST
from dora_cli.runs.left_open import read_recipe, scaled_as, settled
from dora_cli.runs.open_run import OpenRun
from dora_cli.runs.place import check_output, clear_leftovers, remove_run, take_output, try_saving
from dora_cli.runs.resume import check_log, check_no_links, check_resumable, check_same_ground, recipe_hash
from dora_cli.runs.run_folder import RunRecords
from dora_cli.tasks import Task
from dora_cli.training.checkpoint import Found, newest_checkpoint
from dora_cli.training.listener import Listener, Listeners, SilentListener
from dora_cli.training.loop import Loop
from dora_cli.training.results import (
    Outcome,
    RealTokens,
    baseline_of,
    budget_of,
    metrics_of,
    ranks_of,
    run_start,
    timing_of,
)
from dora_cli.training.trackers import Trackers, check_trackers, start_trackers
from dora_cli.wording import plural


@dataclass(frozen=True)
class RunResult:
    """Where a finished run is, and its two main records (the contents of metrics.json and ranks.json)."""

    folder: Path
    metrics: Mapping[str, Any]
    ranks: Mapping[str, Any]


def train(
    recipe: Recipe,
    output: str | Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    listener: Listener | None = None,
    method: Callable[[], Method] | None = None,
    replaces: Path | None = None,
    how_to_resume: str | None = None,
    warm: Warm | None = None,
) -> RunResult:
    """Trains `recipe` and writes everything into the folder `output`.

    SIGINT, SIGTERM and SIGHUP finish the optimiser step and save before they end it; handlers are as before on return.

    Args:
        overwrite: whether a run that is already in `output` may be replaced.
        resume: go on with the run in `output` from its newest checkpoint; a finished run is left as it is.
        listener: told what happens; silent by default.
        method: makes what takes the place of the recipe's method (its targets stay), so that any other can be compared
            under the same loop, data order and records. ``dora eval`` knows only the recipe's methods.
        replaces: another folder whose runs are removed once this one can start.
        how_to_resume: what a user would type or call to go on; said when a signal stops the run.
        warm: what earlier runs of this process have left, of which this one takes what it needs; it adds its own.

    Raises:
        DoraError: whatever a user can fix, before anything is written where it can be known before.
        DivergedError: the loss or gradient became non-finite.
        StoppedError: by a signal.
    """
    assert not (overwrite and resume)
    listener = listener or SilentListener()
    call = _Call(
        recipe=recipe,
        output=Path(output),
        overwrite=overwrite,
        resume=resume,
        new_method=method,
        replaces=replaces,
        how_to_resume=how_to_resume or f"go on with train(..., {str(output)!r}, resume=True)",
        warm=warm or Warm(most=0),
    )
    try:
        with StopSignals() as signals, own_threads(), OpenRun(call.output) as place, contextlib.ExitStack() as stack:
            return _train(call, place, listener, signals, stack)
    except StoppedNow as stop:
        records = RunRecords(call.output)
        raise stop.error(
            call.how_to_resume if checkpoints_of(records) and not records.metrics.exists() else None
        ) from None
    finally:
        listener.close()


@dataclass(frozen=True)
class _Call:
    """What `train` was called with."""

    recipe: Recipe
    output: Path
    overwrite: bool
    resume: bool
    new_method: Callable[[], Method] | None
    replaces: Path | None
    how_to_resume: str
    warm: Warm

    def make_method(self, recipe: Recipe) -> Method:
        """A new method, where none was given that of the resolved `recipe`."""
        return make_method(recipe) if self.new_method is None else self.new_method()


def _train(
    call: _Call, place: OpenRun, listener: Listener, signals: StopSignals, stack: contextlib.ExitStack
) -> RunResult:
    """The run, from top to bottom; `stack` holds what else is closed when it ends."""
    # What it computes on, and where its results go
    recipe, task = resolve(_as_begun(call) if call.resume else call.recipe)
    check_trackers(recipe.train.log_with)
    ground = take_ground(recipe)
    check_capture(recipe.train.cuda_graph, ground.device)
    if not ground.is_main:
        listener = SilentListener()
    on_main(ground.accelerator, lambda: _check_place(call, recipe, place))
    recipe = settled(recipe, read_recipe(place.records.recipe) if call.resume else None)
    if call.resume and place.records.metrics.is_file():
        listener.note(f"the run in {call.output} is finished; nothing is done")
        return RunResult(call.output, place.records.read_metrics(), place.records.read_ranks())
    found = _find_checkpoint(recipe, place, ground, listener) if call.resume else None
    on_main(ground.accelerator, lambda: try_saving(call.output))  # again once the folder is made

    # From the recipe to what the loop needs; nothing is replaced before all of it is there
    prepared, environment = _prepare(call, recipe, task, ground, place, found, listener, signals)
    _take_place(call, prepared, environment, place, found)
    loop = Loop(prepared, place, listener, signals, how_to_resume=call.how_to_resume)
    if found is not None:
        loop.restore(found.snapshot)
        on_main(ground.accelerator, lambda: clear_leftovers(place.records))
    loop.listener = listener = _with_trackers(call, recipe, ground, place, listener, loop.at.step, stack)

    # The training
    listener.start(run_start(prepared, call.output, environment, resumed_step=loop.at.step))
    outcome = _run(loop, fresh=found is None)
    ranks, budget = ranks_of(prepared.adapted, outcome.history), budget_of(prepared.adapted)
    memory, packed = peak_memory_bytes(ground.device), prepared.packing is not None
    timing = timing_of(outcome, prepared.length, memory, fused=loop.step_function.is_fused, packed=packed)
    real_tokens = RealTokens.of(prepared)
    method, metrics, finished = prepared.adapted.method.name, outcome.selection.metrics, None
    baseline = baseline_of(recipe, task, prepared.constant, outcome)
    averaged = prepared.averaged
    clients = None if prepared.clients is None else [one.record(k) for k, one in enumerate(prepared.clients, start=1)]

    # What is known of the selected weights only once the training is done
    if prepared.evaluator.generates:
        began = time.perf_counter()
        evaluator, selected = prepared.evaluator, prepared.adapted
        measured: Mapping[str, float | None] | None = metrics
        del loop  # the place of its moments and graphs on the device is needed again
        if outcome.selection.step != prepared.length.total_steps:
            del prepared, selected  # theirs too
            selected, measured = _load_selected(call, recipe, task, ground, place), None
        finished = _finish(evaluator, selected, measured, listener)
        metrics = finished.metrics
        timing["decoding_seconds"] = time.perf_counter() - began

    # What is written down
    record = metrics_of(
        recipe,
        outcome,
        method=method,
        metrics=metrics,
        budget=budget,
        timing=timing,
        real_tokens=real_tokens,
        baseline=baseline,
        clients=clients,
        averaged=averaged,
    )
    on_main(ground.accelerator, lambda: _write_records(place, record, ranks, finished))
    ground.accelerator.wait_for_everyone()  # a process that ends while others still talk to it takes them down
    listener.finish(record, ranks, call.output)
    return RunResult(call.output, record, ranks)


# The place ------------------------------------------------------------------------------------------------------------


def _as_begun(call: _Call) -> Recipe:
    """The recipe with what data are not asked for again, since the run that goes on has found it."""
    before = RunRecords(call.output).recipe
    return scaled_as(call.recipe, read_recipe(before)) if before.is_file() and before.stat().st_size else call.recipe


def _check_place(call: _Call, recipe: Recipe, place: OpenRun) -> None:
    """Holds the run's folder, if it is there, and refuses one in which this run may not start or go on."""
    if call.output.is_dir():  # else it is made, and held, once the run can start
        place.hold()
    if call.resume:
        check_resumable(place.records, anchored(recipe))
        check_no_links(place.records)
    else:
        check_output(call.output, overwrite=call.overwrite or call.replaces is not None)


def _find_checkpoint(recipe: Recipe, place: OpenRun, ground: Ground, listener: Listener) -> Found:
    """What a resumed run goes on from."""
    found = newest_checkpoint(place.records)
    for reason in found.skipped:
        listener.note(reason)
    if found.snapshot.progress["recipe_sha256"] != recipe_hash(anchored(recipe)):
        raise CheckpointError(
            f"{found.folder} was written under another recipe than recipe.yaml beside it says; restore that file "
            "from a copy of the run"
        )
    on_main(ground.accelerator, lambda: check_log(place.records, found.snapshot.log_length))
    return found


def _take_place(
    call: _Call, prepared: Prepared, environment: Mapping[str, Any], place: OpenRun, found: Found | None
) -> None:
    """Takes the run's folder, writes down what the run is, and opens its log."""
    recipe, ground = prepared.recipe, prepared.ground
    if call.overwrite or call.replaces is not None:
        # now, not after the first step: a library that is broken must not cost the run that is replaced
        prepared.evaluator.prepare()
    if found is None:
        on_main(ground.accelerator, lambda: _begin(call, recipe, environment, place))
    else:  # paths may have moved, and what says when to log and to save may have changed
        on_main(ground.accelerator, lambda: write_text(place.records.recipe, dump_recipe(anchored(recipe))))
    if ground.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(ground.device)
    if ground.is_main:
        place.open_log(length=found.snapshot.log_length if found else None, alone=ground.processes == 1)


def _begin(call: _Call, recipe: Recipe, environment: Mapping[str, Any], place: OpenRun) -> None:
    place.make()
    take_output(call.output, overwrite=call.overwrite, replaces=call.replaces)
    records = place.records
    try:
        write_text(records.recipe, dump_recipe(anchored(recipe)))
        records.write_environment(environment)
    except OutputError:  # no run has begun: nothing is left that would have to be overwritten
        records.environment.unlink(missing_ok=True)
        records.recipe.unlink(missing_ok=True)
        raise


# What the loop needs --------------------------------------------------------------------------------------------------


def _prepare(
    call: _Call,
    recipe: Recipe,
    task: Task,
    ground: Ground,
    place: OpenRun,
    found: Found | None,
    listener: Listener,
    signals: StopSignals,
) -> tuple[Prepared, dict[str, Any]]:
    """Data, model and evaluator, at the start or as `found` left them; and the content of environment.json."""
    data = call.warm.load_data(recipe, task, held_out=call.make_method(recipe).held_out)
    length = RunLength.of(recipe, len(data.training), ground.processes)
    parts = None if recipe.federated is None else client_parts(recipe, data.training)
    for odd in notes_before_training(recipe, task, data.training, data.evaluated, read=data.read):
        listener.note(odd)
    kept = place.records.read_environment() if found is not None else None
    adapted, speed = prepare_model(
        recipe,
        task,
        partial(call.make_method, recipe),
        ground,
        length,
        fresh=found is None,
        threads=recorded_threads(kept) if kept is not None else None,
        fused=None if found is None else found.snapshot.fused,
        packed=None if found is None else found.snapshot.packing is not None,
        note=listener.note,
    )
    if kept is not None:
        adapted = replace(adapted, pad_multiple=recorded_multiple(kept), cuts=recorded_cuts(kept))
    environment = _environment(adapted, data, ground)
    if found is not None and kept is not None:
        for difference in check_same_ground(kept, environment, any_processes=parts is not None):
            listener.note(f"digits may differ from a run without the interruption: {difference}")
        found.snapshot.weights.restore(adapted)  # before the optimiser is made, since ranks may have shrunk
        adapted.method.load_training_state(found.snapshot.method)

    def progress(split: str, done: int, total: int) -> None:
        listener.evaluating(split, done, total)
        if ground.processes == 1:  # several would have to agree between batches
            signals.interrupt()

    fresh = found is None
    prepared = prepare(
        recipe,
        task,
        data,
        length,
        adapted,
        ground,
        fresh=fresh,
        speed=speed,
        progress=progress,
        warm=call.warm,
        parts=parts,
        packing=None if found is None else found.snapshot.packing,
    )
    return prepared, environment


def _environment(adapted: AdaptedModel, data: RunData, ground: Ground) -> dict[str, Any]:
    return describe_environment(
        device=ground.device,
        precision=ground.precision,
        processes=ground.processes,
        model_commit=adapted.commit,
        model_fingerprint=adapted.fingerprint,
        model_size=adapted.size,
        pad_multiple=adapted.pad_multiple,
        batch_parts=asdict(adapted.cuts),
        data={name: {"examples": len(part), "fingerprint": part.fingerprint()} for name, part in data.by_split.items()},
    )


def _with_trackers(
    call: _Call,
    recipe: Recipe,
    ground: Ground,
    place: OpenRun,
    listener: Listener,
    resumed_step: int,
    stack: contextlib.ExitStack,
) -> Listener:
    """`listener`, and on the main process the recipe's trackers beside it."""

    def start() -> Trackers:
        try:
            return start_trackers(recipe, place.records, listener.note, resumed_step=resumed_step)
        except TrackerError:
            if not call.resume:  # no run has begun: nothing is left that would have to be overwritten
                remove_run(place.records)
            raise

    trackers = on_main(ground.accelerator, start) if recipe.train.log_with else None
    if trackers is None:
        return listener
    stack.callback(trackers.close)
    return Listeners(listener, trackers)


# The training and its end ---------------------------------------------------------------------------------------------


def _run(loop: Loop, *, fresh: bool) -> Outcome:
    """Trains to the end; a `fresh` run that a broken library ends before anything was saved leaves nothing."""
    try:
        return loop.run()
    except LibraryError:
        # one that is loaded after the first step
        records = loop.place.records
        if loop.accelerator.is_main_process and fresh and not checkpoints_of(records):
            remove_run(records)
        raise


def _load_selected(call: _Call, recipe: Recipe, task: Task, ground: Ground, place: OpenRun) -> AdaptedModel:
    """The base model with the selected weights, which are not the last ones."""
    base = load_base(recipe, task)
    adapted = adapt(recipe, task, base, call.make_method(recipe), ground.device, total_steps=None)
    load_weights(place.records.adapter).restore(adapted)
    return adapted


def _finish(
    evaluator: Evaluator,
    selected: AdaptedModel,
    measured: Mapping[str, float | None] | None,
    listener: Listener,
) -> Finished:
    """What the selected weights write, and its scores; `measured` is what is known of them already."""
    writing = evaluator.writing
    assert writing is not None
    assert writing.full is not None
    listener.note(f"the selected weights write split {writing.full.split}, {plural(writing.settings.beams, 'beam')}")
    finished = evaluator.finish(selected.model, selected.method, measured)
    for note in finished.notes:
        listener.note(note)
    return finished


def _write_records(
    place: OpenRun, metrics: Mapping[str, Any], ranks: Mapping[str, Any], finished: Finished | None
) -> None:
    """The records of a run that is done."""
    place.check_there()
    records = place.records
    if not (records.adapter / MANIFEST).is_file():
        raise OutputError(
            f"{records.adapter}, the selected weights, was removed while the run worked; go on with --resume, "
            "which takes them from a checkpoint"
        )
    if finished is not None:
        write_jsonl(records.predictions, finished.outputs or ())
    records.write_ranks(ranks)
    records.write_metrics(metrics)  # last: its presence says that the run is finished
