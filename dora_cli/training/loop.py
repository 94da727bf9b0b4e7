"""The loop: epochs of optimiser steps, an evaluation and a checkpoint after each, and what is written on the way.

It reads phases from the method's schedule and owns none. All that changes while it runs is in the model, the method,
the optimiser, the random states, `Position` and `Outcome`: a checkpoint of these goes on as if nothing had happened.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from dora_cli.assembly.build import AdaptedModel
from dora_cli.assembly.length import RunLength
from dora_cli.assembly.resolve import selecting_metric
from dora_cli.data import EncodedPairs, EncodedSplit, Group, plan_epoch, to_device
from dora_cli.errors import CheckpointError, OutputError
from dora_cli.evaluation.base import Evaluator
from dora_cli.machine.environment import peak_memory_bytes, versions
from dora_cli.machine.memory import memory_advice
from dora_cli.machine.processes import any_process, gathered, on_main
from dora_cli.machine.random_state import random_state, restore_random_state
from dora_cli.machine.signals import EvaluationInterruptedError, StopSignals, stopped
from dora_cli.methods.base import StepReport
from dora_cli.recipe import Recipe, dump_recipe
from dora_cli.runs.lock import RunLock
from dora_cli.runs.place import check_there
from dora_cli.runs.records import LogFile, RunRecords
from dora_cli.runs.resume import Position, recipe_hash
from dora_cli.runs.saving import SavePolicy
from dora_cli.runs.state import check_fits, pruning_events
from dora_cli.tasks import Task
from dora_cli.training.checkpoint import Snapshot, Weights, load_weights, save_weights
from dora_cli.training.listener import EvalLog, Listener, StepLog
from dora_cli.training.optimizer import make_optimizer, make_scheduler
from dora_cli.training.selection import Selection
from dora_cli.training.step import TrainingStep

if TYPE_CHECKING:
    from accelerate import Accelerator

AGREE_EVERY = 10
"""Optimiser steps after which several processes ask each other whether to stop or save.

Alone, a process looks after every step.
"""


@dataclass
class Stopwatch:
    """Seconds while it runs, on a clock that is never set back."""

    total: float = 0.0
    _began: float | None = None

    @property
    def seconds(self) -> float:
        return self.total + (0.0 if self._began is None else time.perf_counter() - self._began)

    def __enter__(self) -> Stopwatch:
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.total, self._began = self.seconds, None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stands still within, if it runs."""
        running = self._began is not None
        self.total, self._began = self.seconds, None
        try:
            yield
        finally:
            self._began = time.perf_counter() if running else None


@dataclass
class Outcome:
    """What the loop found."""

    selection: Selection
    epochs: list[dict[str, Any]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    training: Stopwatch = field(default_factory=Stopwatch)
    evaluation: Stopwatch = field(default_factory=Stopwatch)
    saving: Stopwatch = field(default_factory=Stopwatch)
    examples: int = 0


_STOPWATCHES = ("training", "evaluation", "saving")


class Loop:
    """One run of one recipe over data already encoded.

    Args:
        records: the run folder; written on the main process only.
        lock: watches over that folder.
        log: open log.jsonl on the main process, None elsewhere.
        signals: asked after every step whether to stop.
        how_to_resume: said when a signal stops the run.
        cuda_graph: whether steps are captured in CUDA graphs; only where that is known to work.
    """

    def __init__(
        self,
        *,
        recipe: Recipe,
        task: Task,
        adapted: AdaptedModel,
        train: EncodedSplit | EncodedPairs,
        evaluator: Evaluator,
        length: RunLength,
        accelerator: Accelerator,
        listener: Listener,
        records: RunRecords,
        lock: RunLock,
        log: LogFile | None,
        signals: StopSignals,
        how_to_resume: str,
        cuda_graph: bool,
    ) -> None:
        assert adapted.schedule is not None
        self.recipe, self.adapted = recipe, adapted
        self.train, self.evaluator, self.length = train, evaluator, length
        self.accelerator, self.listener, self.records, self.lock, self.log = accelerator, listener, records, lock, log
        self.signals, self.how_to_resume = signals, how_to_resume
        self.schedule, self.method = adapted.schedule, adapted.method
        settings = recipe.train
        optimizer = make_optimizer(
            adapted.trainable,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            betas=settings.adam_betas,
            eps=settings.adam_eps,
        )
        self.step_function = TrainingStep(
            model=adapted.model,
            method=adapted.method,
            loss=partial(task.losses, label_smoothing=settings.label_smoothing),
            optimizer=optimizer,
            scheduler=make_scheduler(optimizer, warmup_steps=length.lr_warmup, total_steps=length.total_steps),
            accelerator=accelerator,
            max_grad_norm=settings.max_grad_norm,
            skip_nonfinite=settings.skip_nonfinite,
            locate=length.locate,
            cuda_graph=cuda_graph,
        )
        metric = selecting_metric(recipe, task)
        self.outcome = Outcome(Selection(recipe.eval.select, metric, task.lower_is_better(metric)))
        self.at = Position()
        self.policy = SavePolicy(recipe.save)
        self._evaluator_prepared = False
        self._next_event = self.schedule.next_event(0)
        self._last_log = (0, 0, 0.0)  # step, examples, seconds of training
        self._log_error: OutputError | None = None

    def run(self) -> Outcome:
        """Trains to the end; raises DivergedError, OutputError, OutOfMemoryError, StoppedError."""
        self.adapted.model.train()
        self.signals.patient = True
        while self.at.epoch <= self.length.epochs:
            if self.at.train_loss is None:
                self._train_epoch()
            self._evaluate()
        self.signals.patient = False
        self._stop_if_asked()  # a signal may have come after the last one asked
        if not self.outcome.selection.frozen:
            self.listener.note(
                f"the selected weights (epoch {self.outcome.selection.epoch}) are from before the freeze and hold all "
                "start components; ranks and budget describe the last weights"
            )
        return self.outcome

    # -- an epoch ------------------------------------------------------------------------------------------------------

    def _train_epoch(self) -> None:
        """The rest of the epoch's steps."""
        epoch, last = self.at.epoch, self.length.steps_in(self.at.epoch)
        with memory_advice(self.recipe), self.outcome.training:
            for group in islice(self._groups(epoch), self.at.groups, last):
                self.at.step += 1
                self.at.groups += 1
                self._step(self.at.step, epoch, group)
                if not self._evaluator_prepared:
                    self._prepare_evaluator()
                if self.at.groups < last:  # the last step's checkpoint is the epoch's
                    self._stop_or_save()
            train_loss = self.step_function.ledger.take_epoch_loss()  # waits for the device
        last_of_all = self.at.step == self.length.total_steps
        (self.step_function.check_learned if last_of_all else self.step_function.check)(self.at.step)
        self.at.train_loss = train_loss

    def _prepare_evaluator(self) -> None:
        """After the first step, which need not wait for it, and not after the first epoch: a broken library should show
        now.
        """
        with self.outcome.evaluation, self.outcome.training.paused():
            self.evaluator.prepare()
        self._evaluator_prepared = True

    def _groups(self, epoch: int) -> Iterator[Group]:
        settings = self.recipe.train
        return plan_epoch(
            self.train.lengths,
            self.train.units,
            seed=settings.seed,
            epoch=epoch,
            micro_batch=settings.batch_size,
            accumulation=settings.gradient_accumulation,
            processes=self.accelerator.num_processes,
            rank=self.accelerator.process_index,
            group_by_length=self.recipe.data.group_by_length,
        )

    def _step(self, step: int, epoch: int, group: Group) -> None:
        batches = [to_device(self.train.collate(indices), self.accelerator.device) for indices in group.micro_batches]
        report = self.step_function(step, batches, group.units, event=step == self._next_event)
        self.outcome.examples += group.examples
        if report.event:
            self._next_event = self.schedule.next_event(step)
            self.outcome.history.append(
                {"step": step, "phase": report.phase, "budget": report.budget, "live": report.live}
            )
            # an event may wait for the device
            ranks = {allocation.name: allocation.rank for allocation in self.method.allocation()}
            self.listener.event(step, report.phase, report.live, report.frozen, ranks)
        self.listener.tick(step, report.phase, report.budget)
        if step % self.recipe.train.log_every == 0 or step == self.length.total_steps:
            self._log_step(step, epoch, report)

    def _log_step(self, step: int, epoch: int, report: StepReport) -> None:
        reading = self.step_function.read(step)
        seconds = self.outcome.training.seconds
        steps, examples = step - self._last_log[0], self.outcome.examples - self._last_log[1]
        elapsed = max(seconds - self._last_log[2], 1e-9)
        self._last_log = (step, self.outcome.examples, seconds)
        log = StepLog(
            step=step,
            epoch=epoch,
            phase=report.phase,
            budget=report.budget,
            live_components=report.live,
            loss=reading.loss,
            regulariser=reading.regulariser,
            grad_norm=reading.grad_norm,
            learning_rate=self.step_function.learning_rate,
            steps_per_second=steps / elapsed,
            samples_per_second=examples / elapsed,
            memory_bytes=peak_memory_bytes(self.accelerator.device),
        )
        self.listener.logged(log)
        self._write_log(
            {
                "type": "train",
                "step": step,
                "epoch": epoch,
                "phase": report.phase,
                "budget": report.budget,
                "live": report.live,
                "loss": log.loss,
                "regulariser": log.regulariser,
                "grad_norm": log.grad_norm,
                "learning_rate": log.learning_rate,
                "timing": {
                    "seconds": seconds,
                    "steps_per_second": log.steps_per_second,
                    "samples_per_second": log.samples_per_second,
                },
            }
        )

    def _evaluate(self) -> None:
        """The evaluation after an epoch, and its checkpoint."""
        step, epoch, train_loss = self.at.step, self.at.epoch, self.at.train_loss
        assert train_loss is not None
        try:
            with self.outcome.evaluation:
                model = self.adapted.model if self.evaluator.generates else self.step_function.evaluated_model
                metrics = self.evaluator.epoch(model, self.method)
        except EvaluationInterruptedError:
            self._stop_if_asked()
            raise
        phase = self.schedule.phase(step)
        entry = {"epoch": epoch, "step": step, "phase": phase, "train_loss": train_loss, "metrics": metrics}
        self.outcome.epochs.append(entry)
        best = self.outcome.selection.offer(epoch=epoch, step=step, metrics=metrics, frozen=self.method.frozen)
        self.listener.evaluated(EvalLog(epoch, step, phase, train_loss, metrics, self.outcome.selection.primary, best))
        self._write_log({"type": "eval", **entry})
        self.at = Position(step, epoch + 1)
        self.save()
        if best:
            with self.outcome.saving:
                on_main(self.accelerator, self._save_selected)
        self._stop_if_asked()

    def _save_selected(self) -> None:
        check_there(self.records, self.lock)
        save_weights(self.records.adapter, self._weights())

    def _write_log(self, entry: Mapping[str, Any]) -> None:
        if self.log is None:
            return
        try:
            self.lock.check_there()
            self.log.write(entry)
        except OutputError as error:
            if self.accelerator.num_processes == 1:
                raise
            self._log_error = error  # the others would wait for this process: it is raised in all when they next agree

    # -- saving and stopping -------------------------------------------------------------------------------------------

    def _stop_or_save(self) -> None:
        alone = self.accelerator.num_processes == 1
        if not alone and self.at.step % AGREE_EVERY:
            # a checkpoint every so many steps is known to all without asking
            if self.policy.step_due(self.at.step):
                self.save()
            return
        self._raise_log_error()
        if any_process(self.accelerator, self.policy.due(self.at.step)):
            self.save()
        self._stop_if_asked()

    def _raise_log_error(self) -> None:
        if self.accelerator.num_processes == 1:
            return

        def fail() -> None:
            if self._log_error is not None:
                raise self._log_error

        on_main(self.accelerator, fail)

    def _stop_if_asked(self) -> None:
        """Saves and raises StoppedError if a signal came, to this process or to any other."""
        number = any_process(self.accelerator, self.signals.received or 0)
        if not number:
            return
        if self.policy.last_step != self.at.step:
            self.save()
        raise stopped(number, self.at.step, self.how_to_resume)

    def save(self) -> None:
        """Writes a checkpoint of this moment; raises DivergedError rather than save a diverged run, OutputError."""
        self._raise_log_error()
        self.step_function.check_weights(self.at.step)
        folder = self.records.checkpoints / f"step-{self.at.step}"
        random = gathered(self.accelerator, random_state(self.accelerator.device))

        def write() -> None:
            check_there(self.records, self.lock)
            self._snapshot(random).save(folder)
            self.policy.keep_newest(self.records, step=self.at.step)

        with self.outcome.saving, self.outcome.training.paused():
            on_main(self.accelerator, write)
        self.policy.saved(self.at.step)

    def _weights(self) -> Weights:
        last = self.outcome.epochs[-1] if self.outcome.epochs else None
        state = {
            "schema_version": 1,
            "method": self.method.name,
            "step": self.at.step,
            "epoch": self.at.epoch - 1 if self.at.groups == 0 else self.at.epoch,
            "phase": self.schedule.phase(max(self.at.step, 1)),
            "frozen": self.method.frozen,
            # a checkpoint within an epoch has not been evaluated
            "metrics": dict(last["metrics"]) if last is not None and last["step"] == self.at.step else None,
        }
        return Weights.of(self.adapted.method.state_dict(), self.adapted.head, state)

    def _snapshot(self, random: list[dict[str, torch.Tensor]]) -> Snapshot:
        moments, counters = self.step_function.state_dict()
        outcome = self.outcome
        progress = {
            "schema_version": 1,
            "at": asdict(self.at),
            "step_function": counters,
            "selection": {key: getattr(outcome.selection, key) for key in ("epoch", "step", "metrics", "frozen")},
            "epochs": outcome.epochs,
            "history": outcome.history,
            "seconds": {name: getattr(outcome, name).seconds for name in _STOPWATCHES},
            "examples": outcome.examples,
            "last_log": self._last_log,
            "log_length": self.log.length() if self.log is not None else None,
            "recipe": dump_recipe(self.recipe),
            "recipe_sha256": recipe_hash(self.recipe),
            "versions": versions(),
        }
        states = {f"{rank}.{name}": tensor for rank, state in enumerate(random) for name, tensor in state.items()}
        return Snapshot(self._weights(), moments, states, progress)

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to the moment of `snapshot`; the method's state is there already. Raises CheckpointError."""
        progress, outcome = snapshot.progress, self.outcome
        selection = outcome.selection
        check_fits(
            progress, length=self.length, schedule=self.schedule, frozen=self.method.frozen, metric=selection.primary
        )
        self.step_function.load_state_dict(snapshot.optimizer, progress["step_function"])
        self.at = Position(**progress["at"])
        for key, value in progress["selection"].items():
            setattr(selection, key, value)
        outcome.epochs = list(progress["epochs"])
        outcome.history = [dict(entry) for entry in pruning_events(progress["history"], self.schedule)]
        for name in _STOPWATCHES:
            getattr(outcome, name).total = float(progress["seconds"][name])
        outcome.examples = progress["examples"]
        step, examples, seconds = progress["last_log"]
        self._last_log = (int(step), int(examples), float(seconds))
        self._next_event = self.schedule.next_event(self.at.step)
        prefix = f"{self.accelerator.process_index}."
        state = {
            name.removeprefix(prefix): tensor for name, tensor in snapshot.random.items() if name.startswith(prefix)
        }
        self.policy.last_step = self.at.step
        self._restore_adapter()
        on_main(self.accelerator, lambda: self.policy.clear(self.records, step=self.at.step))
        restore_random_state(state, self.accelerator.device)

    def _restore_adapter(self) -> None:
        """The selected weights as they were at this moment: a later epoch may have replaced them before the run was
        stopped.
        """
        selected = self.outcome.selection.step

        def fix() -> None:
            try:
                there = load_weights(self.records.adapter).state.get("step")
            except CheckpointError:
                there = None
            if selected is not None and there != selected:
                save_weights(self.records.adapter, load_weights(self.records.checkpoints / f"step-{selected}"))

        on_main(self.accelerator, fix)


def log_length(snapshot: Snapshot) -> int | None:
    """How many bytes log.jsonl had at the moment of `snapshot`."""
    length: int | None = snapshot.progress["log_length"]
    return length
