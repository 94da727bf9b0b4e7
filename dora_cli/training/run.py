"""One run, from a recipe to its folder."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dora_cli.assembly.build import (
    adapt,
    load_base,
    make_method,
    note_on_code,
    note_on_kernels,
    note_on_rank,
    targets_of,
)
from dora_cli.assembly.evaluator import evaluated_splits, make_evaluator
from dora_cli.assembly.length import RunLength
from dora_cli.assembly.notes import notes_before_training
from dora_cli.assembly.rehearsal import rehearse
from dora_cli.assembly.resolve import resolve
from dora_cli.data import EncodedPairs, EncodedSplit, Examples, encode, encode_pairs, load_examples
from dora_cli.errors import CheckpointError, LibraryError, OutputError, TrackerError
from dora_cli.evaluation.base import Finished
from dora_cli.machine.capture import check_capture, choose_capture
from dora_cli.machine.devices import make_accelerator, resolve_device, resolve_precision
from dora_cli.machine.environment import describe_environment, peak_memory_bytes
from dora_cli.machine.memory import memory_advice
from dora_cli.machine.processes import gathered, on_main
from dora_cli.machine.seeds import seed_everything, set_deterministic
from dora_cli.machine.signals import StoppedNow, StopSignals
from dora_cli.machine.threads import decide, most_threads, note_on_cores, own_threads, recorded_threads, set_threads
from dora_cli.methods import Method
from dora_cli.methods.base import Schedule
from dora_cli.models import left_out
from dora_cli.recipe import Recipe, dump_recipe
from dora_cli.recipe.anchor import anchored
from dora_cli.runs.folders import MANIFEST
from dora_cli.runs.lock import RunLock
from dora_cli.runs.place import (
    check_output,
    check_there,
    clear_leftovers,
    make_output,
    remove_run,
    take_output,
    try_saving,
)
from dora_cli.runs.records import LogFile, RunRecords, read_json, write_json, write_jsonl, write_text
from dora_cli.runs.resume import (
    Found,
    check_log,
    check_no_links,
    check_resumable,
    check_same_ground,
    checkpoints_of,
    newest_checkpoint,
    recipe_hash,
)
from dora_cli.tasks import Task
from dora_cli.training.checkpoint import load_weights
from dora_cli.training.listener import Listener, Listeners, RunStart, SilentListener
from dora_cli.training.loop import Loop, log_length
from dora_cli.training.results import build_metrics, build_ranks, live_layers
from dora_cli.training.trackers import Trackers, check_trackers, start_trackers
from dora_cli.wording import plural


@dataclass(frozen=True)
class RunResult:
    """Where a finished run is, and its two main records (the contents of metrics.json and ranks.json)."""

    folder: Path
    metrics: Mapping[str, Any]
    ranks: Mapping[str, Any]


def load_split(recipe: Recipe, task: Task, split: str, *, training: bool) -> Examples:
    """Examples of one split from the recipe's source, cut to the recipe's limit."""
    data = recipe.data
    return load_examples(
        task,
        data.source,
        split,
        path=data.path,
        columns=data.columns,
        labels=data.labels,
        max_samples=data.max_train_samples if training else data.max_eval_samples,
        seed=0,  # which examples are kept must not depend on the seed of the run
    )


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

    Raises:
        DoraError: whatever a user can fix, before anything is written where it can be known before.
        DivergedError: the loss or gradient became non-finite.
        StoppedError: by a signal.
    """
    output = Path(output)
    listener = listener or SilentListener()
    assert not (overwrite and resume)
    call = _Call(
        recipe=recipe,
        output=output,
        overwrite=overwrite,
        resume=resume,
        listener=listener,
        new_method=method or (lambda: make_method(recipe)),
        replaces=replaces,
        how_to_resume=how_to_resume or f"go on with train(..., {str(output)!r}, resume=True)",
    )
    try:
        with StopSignals() as signals, own_threads(), contextlib.ExitStack() as stack:
            return _train(call, signals, stack)
    except StoppedNow as stop:
        records = RunRecords(output)
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
    listener: Listener
    new_method: Callable[[], Method]
    replaces: Path | None
    how_to_resume: str


def _train(call: _Call, signals: StopSignals, stack: contextlib.ExitStack) -> RunResult:
    """`stack` holds what is closed when the run ends: the lock on its folder, its log."""
    recipe, task = resolve(call.recipe)
    check_trackers(recipe.train.log_with)
    records, listener = RunRecords(call.output), call.listener
    device = resolve_device(recipe.train.device)
    precision = resolve_precision(recipe.train.precision, device, recipe.model.dtype)
    check_capture(recipe.train.cuda_graph, device)
    set_deterministic(recipe.train.deterministic)
    most = most_threads()
    accelerator = make_accelerator(device, precision)
    main = accelerator.is_main_process
    if not main:
        listener = SilentListener()
    lock = RunLock(call.output)
    if call.output.is_dir():  # else it is made, and locked, once the run can start
        on_main(accelerator, lambda: stack.enter_context(lock))
    found: Found | None = None
    if call.resume:
        on_main(accelerator, lambda: check_resumable(records, anchored(recipe)))
        on_main(accelerator, lambda: check_no_links(records))
        if records.metrics.is_file():
            finished_run = RunResult(call.output, records.read_metrics(), records.read_ranks())
            listener.note(f"the run in {call.output} is finished; nothing is done")
            return finished_run
        found = newest_checkpoint(records)
        for reason in found.skipped:
            listener.note(reason)
        if found.snapshot.progress["recipe_sha256"] != recipe_hash(recipe):
            raise CheckpointError(
                f"{found.folder} was written under another recipe than recipe.yaml beside it says; restore that file "
                "from a copy of the run"
            )
        on_main(accelerator, lambda: check_log(records, log_length(found.snapshot)))
    else:
        on_main(accelerator, lambda: check_output(call.output, overwrite=call.overwrite or call.replaces is not None))

    on_main(accelerator, lambda: try_saving(call.output))  # again once the folder is made

    training = load_split(recipe, task, "train", training=True)
    evaluated = {split: load_split(recipe, task, split, training=False) for split in evaluated_splits(recipe, task)}
    length = RunLength.of(recipe, len(training), accelerator.num_processes)
    for odd in notes_before_training(recipe, task, training, evaluated):
        listener.note(odd)
    if note := note_on_code(recipe):
        listener.note(note)
    with memory_advice(recipe, "load"):
        base = load_base(recipe, task)
    if found is None:
        threads = decide(recipe, base.model, most).count
    else:
        threads = recorded_threads(read_json(records.environment), records.environment)
        if note := note_on_cores(threads, most):
            listener.note(note)
    set_threads(threads)
    # One process asks for all, before the model takes its place on the device: a trial needs some of it.
    choice = on_main(
        accelerator, lambda: choose_capture(recipe.train.cuda_graph, base.model, accelerator.device, precision)
    )
    capture = gathered(accelerator, choice)[0]
    assert capture is not None
    if capture.reason is not None:
        listener.note(f"steps are not captured in CUDA graphs, which would be faster: {capture.reason}")
    if note := note_on_kernels(recipe, accelerator.device):
        listener.note(note)
    with memory_advice(recipe, "load"):
        adapted = adapt(recipe, task, base, call.new_method(), accelerator.device, total_steps=length.total_steps)
    assert adapted.schedule is not None
    if note := note_on_rank(adapted.schedule.describe().get("start_rank", 0), adapted.projections):
        listener.note(note)
    if note := left_out(adapted.model, targets_of(recipe)):
        listener.note(note)
    trainable = sum(parameter.numel() for parameter in adapted.trainable)
    environment = describe_environment(
        device=accelerator.device,
        precision=precision,
        processes=accelerator.num_processes,
        model_commit=adapted.commit,
        model_fingerprint=adapted.fingerprint,
        model_size=adapted.size,
        data={
            name: {"examples": len(part), "fingerprint": part.fingerprint()}
            for name, part in {"train": training, **evaluated}.items()
        },
    )
    if found is not None:
        for difference in check_same_ground(read_json(records.environment), environment):
            listener.note(f"digits may differ from a run without the interruption: {difference}")
        found.snapshot.weights.restore(adapted)  # before the optimiser is made, since ranks may have shrunk
    encoded: EncodedSplit | EncodedPairs
    if adapted.layout is None:
        encoded = encode(training, adapted.tokenizer, recipe.data.max_length)
    else:
        encoded = encode_pairs(training, adapted.tokenizer, recipe.data.max_length, adapted.layout)

    def progress(split: str, done: int, total: int) -> None:
        listener.evaluating(split, done, total)
        if accelerator.num_processes == 1:  # several would have to agree between batches
            signals.interrupt()

    evaluator = make_evaluator(
        recipe,
        task,
        evaluated,
        model=adapted.model,
        tokenizer=adapted.tokenizer,
        layout=adapted.layout,
        accelerator=accelerator,
        progress=progress,
    )
    on_main(accelerator, lambda: rehearse(recipe, task, adapted, encoded, evaluator, accelerator))
    seed_everything(recipe.train.seed + accelerator.process_index)  # dropout differs between processes

    if call.overwrite or call.replaces is not None:
        # now, not after the first step: a library that is broken must not cost the run that is replaced
        evaluator.prepare()
    if found is None:
        on_main(accelerator, lambda: _begin(call, recipe, environment, lock, stack))
    else:  # paths may have moved, and what says when to log and to save may have changed
        on_main(accelerator, lambda: write_text(records.recipe, dump_recipe(anchored(recipe))))
    if accelerator.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(accelerator.device)
    log = (
        stack.enter_context(LogFile(records.log, length=log_length(found.snapshot) if found else None))
        if main
        else None
    )
    loop = Loop(
        recipe=recipe,
        task=task,
        adapted=adapted,
        train=encoded,
        evaluator=evaluator,
        length=length,
        accelerator=accelerator,
        listener=listener,
        records=records,
        lock=lock,
        log=log,
        signals=signals,
        how_to_resume=call.how_to_resume,
        cuda_graph=capture.captured,
    )
    if found is not None:
        loop.restore(found.snapshot)
        on_main(accelerator, lambda: clear_leftovers(records))
    if recipe.train.log_with:
        trackers = on_main(accelerator, lambda: _start_trackers(call, recipe, loop.at.step))
        if trackers is not None:  # on the main process
            stack.callback(trackers.close)
            loop.listener = listener = Listeners(listener, trackers)
    listener.start(
        RunStart(
            task=task.name,
            model=recipe.model.name,
            method=adapted.method.name,
            device=str(environment["device"]),
            precision=precision,
            threads=threads,
            seed=recipe.train.seed,
            output=call.output,
            total_steps=length.total_steps,
            steps_per_epoch=length.steps_per_epoch,
            epochs=length.epochs,
            global_batch=length.global_batch,
            projections=len(adapted.projections),
            schedule=adapted.schedule.describe(),
            trainable_parameters=trainable,
            head_parameters=sum(parameter.numel() for parameter in adapted.head.values()),
            resumed_step=loop.at.step,
            phases=tuple(adapted.schedule.phases),
            events=tuple(_events(adapted.schedule)),
            layers=live_layers(adapted.projections, adapted.method),
        )
    )
    try:
        outcome = loop.run()
    except LibraryError:
        # one that is loaded after the first step: where nothing was saved yet, nothing is left that would be in the way
        if main and found is None and not checkpoints_of(records):
            remove_run(records)
        raise
    peak_memory = peak_memory_bytes(accelerator.device)
    ranks = build_ranks(recipe, adapted.projections, adapted.method, adapted.schedule.phases, outcome.history)
    seconds = max(outcome.training.seconds, 1e-9)
    metrics = build_metrics(
        recipe,
        adapted,
        selection=outcome.selection,
        epochs=outcome.epochs,
        trainable_start=trainable,
        timing={
            "train_seconds": outcome.training.seconds,
            "evaluation_seconds": outcome.evaluation.seconds,
            "saving_seconds": outcome.saving.seconds,
            "samples_per_second": outcome.examples / seconds,
            "steps_per_second": length.total_steps / seconds,
            "peak_memory_bytes": peak_memory,
        },
    )
    finished: Finished | None = None
    if evaluator.generates:
        began = time.perf_counter()
        if outcome.selection.step != length.total_steps:
            del loop, adapted, base  # before their place is needed again
            adapted = adapt(
                recipe, task, load_base(recipe, task), call.new_method(), accelerator.device, total_steps=None
            )
            load_weights(records.adapter).restore(adapted)
        assert recipe.decode is not None
        listener.note(f"the selected weights write split {recipe.decode.split}, {plural(recipe.decode.beams, 'beam')}")
        finished = evaluator.finish(adapted.model, adapted.method)
        for note in finished.notes:
            listener.note(note)
        metrics["metrics"] = finished.metrics
        metrics["timing"]["decoding_seconds"] = time.perf_counter() - began

    def write_records() -> None:
        check_there(records, lock)
        if not (records.adapter / MANIFEST).is_file():
            raise OutputError(
                f"{records.adapter}, the selected weights, was removed while the run worked; go on with --resume, "
                "which takes them from a checkpoint"
            )
        if finished is not None:
            write_jsonl(records.predictions, finished.outputs or ())
        write_json(records.ranks, ranks)
        write_json(records.metrics, metrics)  # last: its presence says that the run is finished

    on_main(accelerator, write_records)
    accelerator.wait_for_everyone()  # a process that ends while others still talk to it takes them down
    listener.finish(metrics, ranks, call.output)
    return RunResult(call.output, metrics, ranks)


def _start_trackers(call: _Call, recipe: Recipe, step: int) -> Trackers:
    records = RunRecords(call.output)
    try:
        return start_trackers(recipe, records, call.listener.note, resumed_step=step)
    except TrackerError:
        if not call.resume:  # no run has begun: nothing is left that would have to be overwritten
            remove_run(records)
        raise


def _events(schedule: Schedule) -> Iterator[int]:
    """The steps of all events, ascending."""
    step = schedule.next_event(0)
    while step is not None:
        yield step
        step = schedule.next_event(step)


def _begin(
    call: _Call, recipe: Recipe, environment: Mapping[str, Any], lock: RunLock, stack: contextlib.ExitStack
) -> None:
    """Takes the run's folder and writes down what the run is."""
    if not lock.held:
        make_output(call.output)
        stack.enter_context(lock)
        try_saving(call.output)
    take_output(call.output, overwrite=call.overwrite, replaces=call.replaces)
    records = RunRecords(call.output)
    try:
        write_text(records.recipe, dump_recipe(anchored(recipe)))
        write_json(records.environment, environment)
    except OutputError:  # no run has begun: nothing is left that would have to be overwritten
        records.environment.unlink(missing_ok=True)
        records.recipe.unlink(missing_ok=True)
        raise
