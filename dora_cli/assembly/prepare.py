"""From a recipe and its examples to all that the loop needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from dora_cli.assembly.averaged import AveragedSteps
from dora_cli.assembly.build import (
    AdaptedModel,
    adapt,
    check_early,
    load_base,
    note_on_code,
    note_on_kernels,
    note_on_rank,
    targets_of,
)
from dora_cli.assembly.clients import ClientData, client_data
from dora_cli.assembly.data import HELD_OUT, RunData
from dora_cli.assembly.evaluator import make_evaluator
from dora_cli.assembly.fusion import choose_fusion
from dora_cli.assembly.length import RunLength
from dora_cli.assembly.notes import Note, notes_on_length
from dora_cli.assembly.packing import choose_packing, packing_of
from dora_cli.assembly.rehearsal import rehearse
from dora_cli.assembly.warm import Warm
from dora_cli.assembly.work import decide_cuts, decide_threads
from dora_cli.data import Encoded
from dora_cli.data.batches import Indices
from dora_cli.data.packed import Packing
from dora_cli.evaluation.base import Progress
from dora_cli.evaluation.calibration import Calibrator
from dora_cli.evaluation.measuring import Evaluator
from dora_cli.machine.capture import Answer, choose_capture, try_steps
from dora_cli.machine.ground import Ground
from dora_cli.machine.memory import memory_advice
from dora_cli.machine.processes import gathered, on_main, take_those_of_main
from dora_cli.machine.seeds import seed_everything
from dora_cli.machine.threads import note_on_cores, note_on_threads, set_threads
from dora_cli.methods import Method
from dora_cli.methods.base import Schedule
from dora_cli.models import LoadedModel, left_out
from dora_cli.recipe import Recipe
from dora_cli.tasks import Task


@dataclass(frozen=True)
class Speed:
    """How steps are made fast.

    Attributes:
        captured: whether they are captured in CUDA graphs; only where that is known to work.
        fused: whether the blocks of the base model are compiled.
        packed: whether the texts of a batch stand in one row.
    """

    captured: bool
    fused: bool
    packed: bool = False


@dataclass(frozen=True)
class Prepared:
    """What the loop needs.

    Attributes:
        recipe: resolved.
        length: in optimiser steps.
        adapted: the base model with its method, on its device.
        train: the training examples, encoded.
        evaluator: of the evaluated splits.
        speed: how steps are made fast.
        calibrator: answers what the method wants measured.
        constant: metrics of saying the same of all examples that are evaluated; empty where that means nothing.
        clients: of a federated recipe, what each of its clients has to learn from; None otherwise.
        packing: how the texts of a batch are put into one row; None where batches are padded.
    """

    recipe: Recipe
    task: Task
    length: RunLength
    adapted: AdaptedModel
    train: Encoded
    evaluator: Evaluator
    ground: Ground
    speed: Speed
    calibrator: Calibrator
    constant: Mapping[str, float]
    clients: Sequence[ClientData] | None = None
    packing: Packing | None = None

    @property
    def schedule(self) -> Schedule:
        assert self.adapted.schedule is not None
        return self.adapted.schedule

    @property
    def averaged(self) -> AveragedSteps | None:
        """The steps whose weights are averaged; None where none are."""
        return AveragedSteps.of(self.recipe.train.average_last, self.schedule, self.adapted.method.name)


def prepare_model(
    recipe: Recipe,
    task: Task,
    new_method: Callable[[], Method],
    ground: Ground,
    length: RunLength,
    *,
    fresh: bool,
    threads: int | None,
    fused: bool | None,
    packed: bool | None = None,
    note: Note,
) -> tuple[AdaptedModel, Speed]:
    """The model that will be trained, and how its steps are made fast.

    Args:
        fresh: whether the run begins; else a checkpoint will be loaded.
        threads: of the CPU, which an earlier part of this run computed with; None to decide now.
        fused: whether an earlier part of this run had its blocks compiled; None where there was none.
        packed: whether an earlier part of this run had its texts in rows, likewise.
        note: told what is odd about the model on this machine.

    Raises:
        DoraError: the base model, the method and the length of the run do not go together.
    """
    if odd := note_on_code(recipe):
        note(odd)
    method = new_method()
    check_early(recipe, task, method, length.total_steps, fresh=fresh)
    with memory_advice(recipe, "load"):
        base = load_base(recipe, task)
    for odd in notes_on_length(recipe, base.tokenizer.model_max_length):
        note(odd)
    _settle_threads(recipe, base, ground, threads, note)
    captured = _settle_capture(recipe, base, ground, note)
    wanted = (
        _wants_fusion(recipe, base, method, ground, length, fused, note, captured=captured),
        _wants_packing(recipe, base, method, ground, packed, note, captured=captured),
    )
    first = recipe.train.pack == "on" or bool(packed)
    speed = _settle_kernels(recipe, base, ground, note, captured, *wanted, rows_first=first)
    found = decide_cuts(recipe, base.model, ground.device.type, captured=captured, threads=torch.get_num_threads())
    cuts = gathered(ground.accelerator, found)[0]  # one process's for all: others may have other cores
    if odd := note_on_kernels(recipe, ground.device):
        note(odd)
    with memory_advice(recipe, "attach"):
        adapted = adapt(recipe, task, base, method, ground.device, total_steps=length.total_steps, fresh=fresh)
    adapted = replace(adapted, cuts=cuts)
    assert adapted.schedule is not None
    if odd := note_on_rank(adapted.method, adapted.projections):
        note(odd)
    for remark in adapted.method.remarks(adapted.projections):
        note(remark)
    averaged = AveragedSteps.of(recipe.train.average_last, adapted.schedule, method.name)
    if averaged is not None and averaged.note is not None:
        note(averaged.note)
    if odd := left_out(adapted.model, targets_of(recipe)):
        note(odd)
    return adapted, speed


def _settle_threads(recipe: Recipe, base: LoadedModel, ground: Ground, threads: int | None, note: Note) -> None:
    if threads is None:
        threads = decide_threads(recipe, base.model, ground.most_threads).count
        if odd := note_on_threads(recipe.train.threads):
            note(odd)
    elif odd := note_on_cores(threads, ground.most_threads):
        note(odd)
    set_threads(threads)


def _settle_capture(recipe: Recipe, base: LoadedModel, ground: Ground, note: Note) -> bool:
    """Before the model takes its place on the device: a trial needs some of it."""
    setting, method = recipe.train.cuda_graph, recipe.method.model_dump(mode="json")
    answer = _agreed(ground, lambda: choose_capture(setting, base.model, ground.device, ground.precision, method))
    if answer.reason is not None:
        note(f"steps are not captured in CUDA graphs, which would be faster: {answer.reason}")
    return answer.captured


def _agreed(ground: Ground, ask: Callable[[], Answer | None]) -> Answer:
    """What one process is told, for all."""
    answer = gathered(ground.accelerator, on_main(ground.accelerator, ask))[0]
    assert answer is not None
    return answer


def _wants_packing(
    recipe: Recipe,
    base: LoadedModel,
    method: Method,
    ground: Ground,
    began: bool | None,
    note: Note,
    *,
    captured: bool,
) -> bool:
    setting = recipe.train.pack
    found = choose_packing(setting, base.model, method, ground.device, ground.precision, captured=captured, began=began)
    choice = gathered(ground.accelerator, found)[0]  # one process's for all: others may have another device
    if setting == "on" and choice.reason is not None:
        note(f"train.pack is on, but batches are padded: {choice.reason}")
    parts = recipe.train.batch_parts
    if choice.on and isinstance(parts, int) and parts > 1:
        note(f"train.batch_parts is {parts}, but a batch in one row is not cut into parts")
    return choice.on


def _wants_fusion(
    recipe: Recipe,
    base: LoadedModel,
    method: Method,
    ground: Ground,
    length: RunLength,
    began: bool | None,
    note: Note,
    *,
    captured: bool,
) -> bool:
    setting = recipe.train.fuse
    fusion = choose_fusion(
        setting,
        base.model,
        method,
        ground.device,
        captured=captured,
        steps=length.total_steps,
        deterministic=recipe.train.deterministic,
        began=began,
    )
    if setting == "on" and fusion.reason is not None:
        note(f"train.fuse is on, but blocks are not fused: {fusion.reason}")
    return fusion.on


def _settle_kernels(
    recipe: Recipe,
    base: LoadedModel,
    ground: Ground,
    note: Note,
    captured: bool,
    fused: bool,
    packed: bool,
    *,
    rows_first: bool,
) -> Speed:
    """What is wanted, as far as the model's steps can be captured with it: together with the compiler's kernels, or on
    texts in one row, they may not be.

    Args:
        fused, packed: what is wanted.
        rows_first: which of the two goes first where both together cannot be; else what saves more.
    """
    alone = [(False, True), (True, False)] if rows_first else [(True, False), (False, True)]
    keys = recipe.method.model_dump(mode="json")
    reasons: dict[tuple[bool, bool], str | None] = {}
    done = False, False
    for kind in ((True, True), *alone):
        if kind[0] > fused or kind[1] > packed:
            continue
        ask = partial(try_steps, base.model, ground.device, ground.precision, keys, fused=kind[0], packed=kind[1])
        answer = _agreed(ground, ask) if captured else Answer(True)
        if answer.captured:
            done = kind
            break
        reasons[kind] = answer.reason
    # the trial that one of them failed in: with the other where that is done, else by itself
    if fused > done[0]:
        note(f"blocks are not fused by torch.compile, which would be faster: {reasons[True, done[1]]}")
    if packed > done[1]:
        note(f"texts are not put into one row, which would be faster: {reasons[done[0], True]}")
    return Speed(captured, *done)


def prepare(
    recipe: Recipe,
    task: Task,
    data: RunData,
    length: RunLength,
    adapted: AdaptedModel,
    ground: Ground,
    *,
    fresh: bool,
    speed: Speed,
    progress: Progress,
    warm: Warm,
    parts: Sequence[Indices] | None = None,
    packing: Packing | None = None,
) -> Prepared:
    """All of it, tried on a few rows, with the seed set from which the loop starts.

    Args:
        fresh, speed: see `prepare_model`.
        progress: told how far every evaluation is.
        warm: what earlier runs have left.
        parts: of a federated recipe, the training examples of every client.
        packing: how an earlier part of this run put texts into rows, where they are; None to decide now.

    Raises:
        DoraError: the model cannot be trained or evaluated on these data.
    """
    train = warm.encode(recipe, task, data.training, adapted)
    if not speed.packed:
        packing = None
    elif packing is None:
        packing = packing_of(recipe, train, length)
    held_out = None if data.held_out is None else warm.encode(recipe, task, data.held_out, adapted)
    evaluator = make_evaluator(
        recipe,
        task,
        data.evaluated,
        model=adapted.model,
        tokenizer=adapted.tokenizer,
        layout=adapted.layout,
        accelerator=ground.accelerator,
        progress=progress,
        split=None if recipe.eval.held_out is None else HELD_OUT,
        encode=lambda examples: warm.encode(recipe, task, examples, adapted),
    )
    on_main(ground.accelerator, lambda: rehearse(recipe, task, adapted, train, evaluator, ground.accelerator, packing))
    calibrator = Calibrator(
        adapted.model,
        adapted.projections,
        task.losses,
        partial(task.losses, label_smoothing=recipe.train.label_smoothing),
        train,
        held_out,
        recipe.train.batch_size,
        ground.accelerator,
        recipe.train.seed,
    )
    if fresh and (wanted := adapted.method.calibration()) is not None:
        with memory_advice(recipe, "train", adapted.trained):
            adapted.method.calibrate(calibrator(wanted))
    take_those_of_main(ground.accelerator, adapted.method.computed_start())
    seed_everything(recipe.train.seed + ground.accelerator.process_index)  # dropout differs between processes
    same = {split: task.baseline(data.evaluated[split]) for split in evaluator.splits}
    constant = task.combine(same) if all(same.values()) else {}
    clients = None if parts is None else client_data(recipe, task, data.training, parts, adapted)
    return Prepared(
        recipe, task, length, adapted, train, evaluator, ground, speed, calibrator, constant, clients, packing
    )
