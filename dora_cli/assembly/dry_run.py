"""What a run would do, without weights: the schedule in steps, the global batch and the parameter budget."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dora_cli.assembly.averaged import AveragedSteps
from dora_cli.assembly.build import (
    base_from_config,
    check_references,
    make_method,
    note_on_code,
    note_on_rank,
    targets_of,
)
from dora_cli.assembly.clients import client_parts, client_rows, client_sizes
from dora_cli.assembly.fusion import choose_fusion
from dora_cli.assembly.length import RunLength
from dora_cli.assembly.notes import (
    note_on_scorer,
    notes_before_training,
    notes_on_official_sizes,
    notes_on_settings,
)
from dora_cli.assembly.origin import sites_of
from dora_cli.assembly.packing import choose_packing
from dora_cli.assembly.resolve import resolve
from dora_cli.assembly.warm import Warm
from dora_cli.assembly.work import decide_cuts, decide_threads
from dora_cli.data.cuts import UNCUT, Cuts
from dora_cli.data.examples import parted_off
from dora_cli.machine.capture import check_capture, choose_capture
from dora_cli.machine.devices import check_gpus, resolve_device, resolve_precision
from dora_cli.machine.threads import Threads, most_threads
from dora_cli.methods.base import Method, Schedule, Site
from dora_cli.models import ModelUnreachableError, head_parameters, left_out
from dora_cli.recipe import Recipe
from dora_cli.tasks import Task
from dora_cli.wording import plural

_ANY_SHAPE = (2, 2)  # when phases begin and end does not depend on shapes
_YES = "yes"
_OF_THE_MODEL = ("projections", "start_components", "final_components", "events", "first_event")
"""What a schedule says that takes the number of projections: so does which events prune something."""


@dataclass(frozen=True)
class DryRun:
    """Everything that is known before a weight is loaded.

    Attributes:
        length: steps, epochs and global batch.
        processes: as given, or as set by a launcher, else 1.
        schedule: of the method; without what depends on the number of projections where the model's shapes are out of
            reach, or without all of it where all does.
        parameters: ``projections, per_rank, start, final, head``; `start` is what trains of the adapters at the start,
            `final` what they store in the end (see `Method.planned_size`); without projections they are those of the
            base's tensors that train.
        out_of_reach: why the model's configuration could not be read; None if it could.
        threads: of the CPU, and why so many; None where that takes the model's configuration and this is out of reach.
        rank_note: what is to be said of the start rank; None where it is sound or the model's shapes are out of reach.
        left_out_note: which projections the targets leave out, and why; None where they leave out none.
        cuda_graph: whether steps will be captured in CUDA graphs, in words; None where that is no question.
        fused: whether blocks will be compiled, likewise.
        packed: whether the texts of a batch will stand in one row, likewise.
        cuts: how batches are cut; None where that takes the model's configuration and this is out of reach.
        notes: what a run would say of its settings and data before it starts.
        output: the run folder, or the parent folder of a run per seed; None if not decided.
        seeds: one run each; empty for a single run.
        restarts: steps after which the learning rate's schedule starts anew; None where that takes the model's blocks.
        client_examples: examples of each client of a federated training; None where they follow from data that have not
            been read.
        averaged: the steps whose weights are averaged; None where none are, or where that takes the model's blocks.
        held_out: share of what there is to learn from that is kept from it because the method asks for that.
    """

    recipe: Recipe
    length: RunLength
    processes: int
    device: str
    precision: str
    schedule: dict[str, Any]
    phases: list[tuple[str, int, int]]
    parameters: dict[str, int | None] | None
    out_of_reach: str | None
    threads: Threads | None = None
    rank_note: str | None = None
    left_out_note: str | None = None
    cuda_graph: str | None = None
    fused: str | None = None
    packed: str | None = None
    cuts: Cuts | None = UNCUT
    notes: Sequence[str] = ()
    output: Path | None = None
    seeds: Sequence[int] = ()
    restarts: Sequence[int] | None = ()
    client_examples: Sequence[int] | None = None
    averaged: AveragedSteps | None = None
    held_out: float = 0.0

    @property
    def _kept_back(self) -> str:
        """What of the training split is not learned from, and why; empty where all of it is."""
        evaluated, asked = self.recipe.eval.held_out, self.held_out
        by = self.recipe.eval.held_out_by or "text"  # what a new run makes of null
        said = [f"{evaluated:.3g} of the training split, parted by {by}, by eval.held_out"] if evaluated else []
        if asked:
            said.append(f"{asked:.3g} of {'the rest' if said else 'the training split'}, for the method to choose by")
        return "; ".join(said)

    @property
    def _threads(self) -> str:
        said = "auto, which takes the model's configuration" if self.threads is None else str(self.threads)
        return said if self.processes == 1 else f"{said}, in each process"

    @property
    def _anew(self) -> str:
        if self.restarts is None:
            return "; where it may start anew follows from the model's blocks"
        return f"; anew after steps {', '.join(f'{step:,}' for step in self.restarts)}" if self.restarts else ""

    @property
    def _trained(self) -> int | None:
        """Entries that train, the head included."""
        found = self.parameters
        return None if found is None else (found["start"] or 0) + (found["head"] or 0)

    @property
    def rows(self) -> list[tuple[str, str]]:
        """The run in words: ``(what, value)``."""
        length, train, federated = self.length, self.recipe.train, self.recipe.federated
        batch = f"train.batch_size {train.batch_size} x gradient_accumulation {train.gradient_accumulation}"
        if federated is None:
            batch += f" x {self.processes} {'process' if self.processes == 1 else 'processes'}"
        else:
            batch += ", of a client"
        warmup = f"linear warm-up over {plural(length.lr_warmup, 'step')}" if length.lr_warmup else "no warm-up"
        parts = f"{length.steps_per_epoch:,} an epoch, {plural(length.epochs, 'epoch')}"
        if federated is not None:
            parts = f"{length.steps_per_epoch:,} a round, {plural(length.epochs, 'round')}, of every client"
        elif train.max_steps is not None:
            parts += f", stopped by train.max_steps in epoch {length.epochs}"
        rows = [
            ("training examples", f"{length.examples:,}"),
            ("global batch", f"{plural(length.global_batch, 'example')} = {batch}"),
            ("steps", f"{length.total_steps:,} ({parts})"),
            ("learning rate", f"{train.learning_rate:g}, {warmup}, then linear decay to 0{self._anew}"),
            ("device", f"{self.device}, {self.precision}"),
            ("threads", self._threads),
        ]
        if self.averaged is not None:
            rows.insert(4, ("averaging", str(self.averaged)))
            if self.averaged.note is not None:
                rows.append(("note", self.averaged.note))
        if self.packed is not None:
            rows.insert(2, ("texts in one row", self.packed))
        if self.cuts is None:
            rows.insert(2, ("parts of a batch", "auto, which takes the model's configuration"))
        elif self.cuts.most > 1 and self.packed != _YES:
            rows.insert(2, ("parts of a batch", str(self.cuts)))
        if self._kept_back:
            rows.insert(1, ("held out", self._kept_back))
        if federated is not None:
            rows[1:1] = client_rows(federated, self.client_examples, self._trained)
        if self.cuda_graph is not None:
            rows.append(("CUDA graphs", self.cuda_graph))
        if self.fused is not None:
            rows.append(("fused blocks", self.fused))
        if note := note_on_code(self.recipe):
            rows.append(("code", note))
        if self.rank_note is not None:
            rows.append(("rank", self.rank_note))
        if self.left_out_note is not None:
            rows.append(("targets", self.left_out_note))
        rows += [("note", note) for note in self.notes]
        if self.output is not None:
            rows.append(("output", f"{self.output / 'seed-*' if self.seeds else self.output}"))
        if self.seeds:
            rows.append(("seeds", f"{', '.join(map(str, self.seeds))}: one run each"))
        return rows


def dry_run(
    recipe: Recipe,
    output: Path | None = None,
    seeds: Sequence[int] = (),
    processes: int | None = None,
    *,
    warm: Warm | None = None,
) -> DryRun:
    """Validates all that can be without weights; raises DoraError as a run would.

    Args:
        output, seeds: shown, not touched.
        processes: how many would train together on this machine; None for those that a launcher has started.
        warm: what looks at other recipes have left, of which this one takes what it needs; it adds its own.
    """
    shared, warm = warm is not None, warm or Warm(most=0)
    recipe, task = resolve(recipe)
    device = resolve_device(recipe.train.device)
    if processes is not None and processes > 1:
        check_gpus(device, processes)
    precision = resolve_precision(recipe.train.precision, device, recipe.model.dtype)
    check_capture(recipe.train.cuda_graph, device)
    here = processes
    if processes is None:
        processes = int(os.environ.get("WORLD_SIZE", "1"))
    method, targets = make_method(recipe), targets_of(recipe)
    examples, client_examples, notes = _data(recipe, task, method.held_out, warm)
    length = RunLength.of(recipe, examples, processes)
    parameters, reason, model, rank_note, left_out_note = None, None, None, None, None
    try:
        model = warm.shapes(recipe, task)
    except ModelUnreachableError as error:
        reason = str(error)
        plan = None
        if not method.plans_by_blocks:
            plan = method.plan(length.total_steps, [Site("", nn.Module(), _ANY_SHAPE)] if targets else [])
        schedule = {**({} if plan is None else plan.describe()), **dict.fromkeys(_OF_THE_MODEL)}
    else:
        method.check(model, [*head_parameters(model).values()])
        projections = sites_of(model, recipe.method, method)
        plan = method.plan(length.total_steps, projections)
        check_references(recipe, task, method, projections, here=True)
        ranks = method.start_ranks(projections)
        adapted = sum(1 for rank in ranks.values() if rank) if ranks else len(projections)
        schedule = {**plan.describe(), "projections": adapted}
        rank_note = note_on_rank(method, projections)
        notes = [*notes, *method.remarks(projections)]
        left_out_note = left_out(model, targets)
    if (wanted := method.calibration()) is not None:
        measured = plural(min(wanted.examples, examples), "training example")
        notes = [*notes, f"the {wanted.kind} of all projections are measured over {measured} before the first step"]
    threads = decide_threads(recipe, model, most_threads(processes=here))
    speed = _speed(recipe, model, method, device, precision, length, None if threads is None else threads.count)
    if model is not None and plan is not None:  # last: it may change the model
        own = base_from_config(recipe, task) if shared and not ranks else model
        parameters = {"projections": adapted, **_parameters(recipe, own, method, plan)}
    return DryRun(
        recipe=recipe,
        length=length,
        processes=processes,
        device=str(device),
        precision=precision,
        schedule=schedule,
        phases=[] if plan is None else list(plan.phases),
        parameters=parameters,
        out_of_reach=reason,
        threads=threads,
        rank_note=rank_note,
        left_out_note=left_out_note,
        **speed,
        notes=notes,
        output=output,
        seeds=seeds,
        restarts=None if plan is None else plan.restarts,
        client_examples=client_examples,
        averaged=None if plan is None else AveragedSteps.of(recipe.train.average_last, plan, method.name),
        held_out=method.held_out,
    )


def _speed(
    recipe: Recipe,
    model: nn.Module | None,
    method: Method,
    device: torch.device,
    precision: str,
    length: RunLength,
    threads: int | None,
) -> dict[str, Any]:
    """What is said of how steps are made fast."""
    captured, cuda_graph = _cuda_graph(recipe, model, device, precision)
    fuses = partial(_fused, recipe, model, method, device, length, captured=captured)
    compiled = fuses(packed=False) == _YES
    packed = _packed(recipe, model, method, device, precision, captured=captured, compiled=compiled)
    return {
        "cuda_graph": cuda_graph,
        "fused": fuses(packed=packed == _YES),
        "packed": packed,
        "cuts": decide_cuts(recipe, model, device.type, captured=captured, threads=threads),
    }


def _cuda_graph(
    recipe: Recipe, model: nn.Module | None, device: torch.device, precision: str
) -> tuple[bool, str | None]:
    """Whether steps will be captured, as far as that is known, and in words. Nothing is tried here; what a run would
    refuse is refused.
    """
    setting = recipe.train.cuda_graph
    if setting == "off" or device.type != "cuda":
        return False, None
    answer = (
        None
        if model is None
        else choose_capture(setting, model, device, precision, recipe.method.model_dump(mode="json"), trial=False)
    )
    if answer is None:
        return True, "if a trial at the beginning of the run shows that this model allows it"
    return answer.captured, "yes" if answer.captured else f"no: {answer.reason}"


def _packed(
    recipe: Recipe,
    model: nn.Module | None,
    method: Method,
    device: torch.device,
    precision: str,
    *,
    captured: bool,
    compiled: bool,
) -> str | None:
    setting = recipe.train.pack
    if model is None or setting == "off" or (setting == "auto" and device.type != "cuda"):
        return None
    choice = choose_packing(setting, model, method, device, precision, captured=captured, compiled=compiled)
    return _YES if choice.on else f"no: {choice.reason}"


def _fused(
    recipe: Recipe,
    model: nn.Module | None,
    method: Method,
    device: torch.device,
    length: RunLength,
    *,
    captured: bool,
    packed: bool,
) -> str | None:
    setting = recipe.train.fuse
    if model is None or setting == "off" or (setting == "auto" and device.type != "cuda"):
        return None
    fusion = choose_fusion(
        setting,
        model,
        method,
        device,
        captured=captured,
        steps=length.total_steps,
        deterministic=recipe.train.deterministic,
        packed=packed,
    )
    return _YES if fusion.on else f"no: {fusion.reason}"


def _data(recipe: Recipe, task: Task, held_out: float, warm: Warm) -> tuple[int, Sequence[int] | None, list[str]]:
    """The number of examples to learn from, without the share `held_out`; those of every client, where there are some
    and that is known; and what a run would say of settings and data.

    Official sizes for the hub, which is not asked; any other source is read, since it is at hand.
    """
    if recipe.data.source == "hub" and recipe.data.name is None:
        size, limit = task.splits["train"], recipe.data.max_train_samples
        notes = [*notes_on_settings(recipe), *notes_on_official_sizes(recipe, task)]
        count = size if limit is None else min(size, limit)
        for share in (recipe.eval.held_out or 0.0, held_out):
            count -= parted_off(count, share)
        return count, client_sizes(recipe, count), [*notes, *filter(None, [note_on_scorer(recipe, task)])]
    data = warm.load_data(recipe, task, held_out=held_out)
    sizes = None if recipe.federated is None else [len(part) for part in client_parts(recipe, data.training)]
    said = notes_before_training(recipe, task, data.training, data.evaluated, read=data.read)
    return len(data.training), sizes, list(said)


def _parameters(recipe: Recipe, model: nn.Module, method: Method, plan: Schedule) -> dict[str, int | None]:
    """What adapters hold, as the method plans it; one without ranks is asked, attached to `model`."""
    final: int | None
    head, projections = [*head_parameters(model).values()], sites_of(model, recipe.method, method)
    per_rank = sum(sum(projection.shape) for projection in projections)
    if method.start_ranks(projections):
        start, final = method.planned_size(projections, plan)
    else:
        method.attach(model, projections, head, plan)
        size = method.size()
        start, final = size.trained, size.stored
    return {
        "per_rank": per_rank,
        "start": start,
        "final": final,
        "head": sum(parameter.numel() for parameter in head),
    }
