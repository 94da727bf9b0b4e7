"""The loop: epochs of optimiser steps, an evaluation and a checkpoint after each, and what is written on the way.

It reads phases from the method's schedule and owns none. All that changes while it runs is in the model, the method,
the optimiser, the mean of the weights, the random states, `Position`, `Outcome` and `LastLog`: a checkpoint of these
goes on as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from dora_cli.assembly.notes import Note
from dora_cli.assembly.prepare import Prepared
from dora_cli.assembly.resolve import selecting_metric
from dora_cli.assembly.weights import Weights, load_weights, save_weights
from dora_cli.data import Group, plan_epoch, to_device
from dora_cli.data.cuts import deal
from dora_cli.data.packed import training_batches
from dora_cli.data.ragged import padded_width
from dora_cli.errors import CheckpointError
from dora_cli.machine.devices import autocast_type
from dora_cli.machine.environment import peak_memory_bytes, versions
from dora_cli.machine.memory import memory_advice
from dora_cli.machine.processes import AGREE_EVERY, any_process, gathered, on_main
from dora_cli.machine.random_state import random_state, restore_random_state
from dora_cli.machine.signals import EvaluationInterruptedError, StoppedNow, StopSignals, stopped
from dora_cli.methods.base import StepReport
from dora_cli.models.packed_attention import PackedRows
from dora_cli.models.shortcuts import Shortcut, shortcuts
from dora_cli.recipe import dump_recipe
from dora_cli.recipe.anchor import anchored
from dora_cli.runs.open_run import OpenRun
from dora_cli.runs.resume import recipe_hash
from dora_cli.runs.saving import SavePolicy
from dora_cli.training.checkpoint import METHOD_STATE, Position, Snapshot, check_fits, position_in, pruning_events
from dora_cli.training.federated.rounds import Rounds
from dora_cli.training.listener import EvalLog, Listener, StepLog
from dora_cli.training.optimizer import make_optimizer, make_scheduler
from dora_cli.training.results import Outcome, log_line
from dora_cli.training.selection import Selection
from dora_cli.training.step import StepReading, TrainingStep, learned_nothing

if TYPE_CHECKING:
    from dora_cli.models.fused.fused_blocks import FusedBlocks

Tensors = dict[str, torch.Tensor]


class LastLog(NamedTuple):
    """Where the run was when it last logged: speeds are over what came since."""

    step: int = 0
    examples: int = 0
    seconds: float = 0.0


class Pace(NamedTuple):
    """Seconds of training so far, and steps and examples a second since the last log."""

    seconds: float
    steps: float
    samples: float


class Loop:
    """One run over what was prepared for it.

    Args:
        prepared: model, data and evaluator.
        place: the run folder; written on the main process only.
        listener: told what happens.
        signals: asked after every step whether to stop.
        how_to_resume: said when a signal stops the run.
    """

    def __init__(
        self, prepared: Prepared, place: OpenRun, listener: Listener, signals: StopSignals, *, how_to_resume: str
    ) -> None:
        self.prepared, self.place, self.listener = prepared, place, listener
        self.signals, self.how_to_resume = signals, how_to_resume
        self.recipe, self.length, self.schedule = prepared.recipe, prepared.length, prepared.schedule
        self.adapted, self.method, self.evaluator = prepared.adapted, prepared.adapted.method, prepared.evaluator
        self.accelerator = prepared.ground.accelerator
        # in every checkpoint: written down once
        self._recipe_records = {"recipe": dump_recipe(self.recipe), "recipe_sha256": recipe_hash(anchored(self.recipe))}
        self.step_function = make_step(prepared, lambda text: self.listener.note(text))
        self.averaging = self.step_function.averaging
        self.rounds = None if prepared.clients is None else Rounds(prepared, self.step_function)
        metric = selecting_metric(self.recipe, prepared.task)
        self.outcome = Outcome(Selection(self.recipe.eval.select, metric, prepared.task.lower_is_better(metric)))
        if self.rounds is not None:
            self.outcome.rounds = []
        self.at = Position()
        self.policy = SavePolicy(self.recipe.save)
        self._evaluator_prepared = False
        self._next_event = self.schedule.next_event(0)
        self._last_log = LastLog()

    def run(self) -> Outcome:
        """Trains to the end; raises DivergedError, OutputError, OutOfMemoryError, StoppedError."""
        self.adapted.model.train()
        self.signals.patient = True
        while self.at.epoch <= self.length.epochs:
            if self.at.train_loss is None:
                self._train_epoch() if self.rounds is None else self._train_round(self.rounds)
            if self.recipe.eval.every == "epoch" or self.at.epoch == self.length.epochs:
                self._evaluate()
            else:
                self._end_epoch()
        self.signals.patient = False
        self._stop_if_asked()  # a signal may have come after the last one asked
        if self.averaging is not None:
            self.averaging.settle()
        selection = self.outcome.selection
        if not selection.frozen:
            grows = (self.schedule.final_components or 0) > self.schedule.start_components
            held = (
                f"are from before the freeze and hold {'fewer' if grows else 'all start'} components"
                if self.schedule.freeze_step
                else "have other ranks than the last ones"
            )
            self.listener.note(
                f"the selected weights (epoch {selection.epoch}) {held}; ranks and budget describe the last weights"
            )
        return self.outcome

    # -- an epoch ------------------------------------------------------------------------------------------------------

    def _train_epoch(self) -> None:
        """The rest of the epoch's steps."""
        epoch, last = self.at.epoch, self.length.steps_in(self.at.epoch)
        with memory_advice(self.recipe, "train", self.adapted.trained), self.outcome.clocks.training:
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

    def _train_round(self, rounds: Rounds) -> None:
        """A round of federated training, in the place of an epoch."""
        number = self.at.epoch

        def ask(step: int) -> None:
            self.listener.tick(step, self.schedule.phase(step), self.schedule.start_components)
            self._stop_within_round(rounds)

        with memory_advice(self.recipe, "train", self.adapted.trained), self.outcome.clocks.training:
            found = rounds(number, ask)
        for client, reason in found.failures.items():
            self.listener.note(f"client {client} failed in round {number:,}, which goes on without it: {reason}")
        self.at.groups = self.length.steps_in(number)
        self.at.step += self.at.groups
        self.outcome.examples += found.seen
        assert self.outcome.rounds is not None
        self.outcome.rounds.append(found.record)
        if self.at.step == self.length.total_steps and self.accelerator.scaler is None:
            losses = [client["loss"] for record in self.outcome.rounds for client in record["clients"]]
            if all(loss is None for loss in losses):  # as `check_learned` does where steps follow one another
                raise learned_nothing(self.at.step)
        if found.readings:
            pace = self._pace(self.at.step)  # the round is over before the first of its steps is logged
            for step, reading in found.readings.items():
                rate = self.step_function.learning_rate_of(step)
                self._log_reading(step, number, self._report(step), reading, rate, pace)
        if not self._evaluator_prepared:
            self._prepare_evaluator()
        self.at.train_loss = found.loss

    def _report(self, step: int) -> StepReport:
        """Each step is like the others: no method that is federated has events."""
        return StepReport(self.schedule.phase(step), self.schedule.start_components, self.schedule.start_components)

    def _groups(self, epoch: int) -> Iterator[Group]:
        """The epoch's optimiser steps: which examples this process sees in each."""
        settings, train, cuts = self.recipe.train, self.prepared.train, self.adapted.cuts
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        together = processes if cuts.dealt and self.prepared.packing is None else 1
        groups = plan_epoch(
            train.lengths,
            train.units,
            seed=settings.seed,
            epoch=epoch,
            micro_batch=settings.batch_size * together,
            accumulation=settings.gradient_accumulation,
            processes=processes // together,
            rank=rank if together == 1 else 0,
            group_by_length=self.recipe.data.group_by_length,
        )
        return groups if together == 1 else deal(train, groups, cuts, processes, rank)

    def _step(self, step: int, epoch: int, group: Group) -> None:
        """One optimiser step, and what is said of it."""
        train, device = self.prepared.train, self.accelerator.device
        made = training_batches(train, group.micro_batches, self.adapted.cuts, self.prepared.packing)
        batches = [to_device(batch, device) for batch in made]
        report = self.step_function(step, batches, group.units, event=step == self._next_event)
        self.outcome.examples += group.examples
        if report.event:
            self._record_event(step, report)
        self.listener.tick(step, report.phase, report.budget)
        if step % self.recipe.train.log_every == 0 or step == self.length.total_steps:
            self._log_step(step, epoch, report)

    def _record_event(self, step: int, report: StepReport) -> None:
        """Which ranks an event has left; it may wait for the device."""
        if report.remark is not None:
            self.listener.note(report.remark)
        self._next_event = self.schedule.next_event(step)
        event: dict[str, Any] = {"step": step, "phase": report.phase, "budget": report.budget, "live": report.live}
        self.outcome.history.append(event if report.remark is None else {**event, "remark": report.remark})
        ranks = {allocation.name: allocation.rank for allocation in self.method.allocation()}
        self.listener.event(step, report.phase, report.live, report.frozen, ranks)

    def _log_step(self, step: int, epoch: int, report: StepReport) -> None:
        reading, rate = self.step_function.read(step), self.step_function.learning_rate
        self._log_reading(step, epoch, report, reading, rate, self._pace(step))

    def _pace(self, step: int) -> Pace:
        """How fast the run came here from where it was at the last call."""
        last, now = self._last_log, LastLog(step, self.outcome.examples, self.outcome.clocks.training.seconds)
        elapsed = max(now.seconds - last.seconds, 1e-9)
        self._last_log = now
        return Pace(now.seconds, (now.step - last.step) / elapsed, (now.examples - last.examples) / elapsed)

    def _log_reading(
        self, step: int, epoch: int, report: StepReport, reading: StepReading, learning_rate: float, pace: Pace
    ) -> None:
        log = StepLog(
            step=step,
            epoch=epoch,
            phase=report.phase,
            budget=report.budget,
            live_components=report.live,
            loss=reading.loss,
            regulariser=reading.regulariser,
            grad_norm=reading.grad_norm,
            learning_rate=learning_rate,
            steps_per_second=pace.steps,
            samples_per_second=pace.samples,
            memory_bytes=peak_memory_bytes(self.accelerator.device),
        )
        self.listener.logged(log)
        self.place.write_log(log_line(log, pace.seconds))

    def _prepare_evaluator(self) -> None:
        """After the first step, which need not wait for it, and not after the first epoch: a broken library should show
        now.
        """
        with self.outcome.clocks.evaluation, self.outcome.clocks.training.paused():
            self.evaluator.prepare()
        self._evaluator_prepared = True

    def _evaluate(self) -> None:
        """The evaluation after an epoch, and its checkpoint."""
        step, epoch, train_loss = self.at.step, self.at.epoch, self.at.train_loss
        assert train_loss is not None
        try:
            with self.outcome.clocks.evaluation, self._as_kept():
                run = self.step_function.run_evaluation
                metrics = self.evaluator.epoch(self.adapted.model, self.method, run)
        except EvaluationInterruptedError:
            self._stop_if_asked()
            raise
        phase, selection = self.schedule.phase(step), self.outcome.selection
        entry = {"epoch": epoch, "step": step, "phase": phase, "train_loss": train_loss, "metrics": metrics}
        self.outcome.epochs.append(entry)
        # of a method that may be evaluated with ranks that change later these are not final yet
        final = self.method.frozen and self.schedule.next_event(step) is None
        best = selection.offer(epoch=epoch, step=step, metrics=metrics, frozen=final)
        if best:
            self.outcome.confusion = self.evaluator.confusion
        self.listener.evaluated(EvalLog(epoch, step, phase, train_loss, metrics, selection.primary, best))
        self.place.write_log({"type": "eval", **entry})
        self._end_epoch(selected=best, metrics=metrics)

    def _end_epoch(self, *, selected: bool = False, metrics: Mapping[str, float | None] | None = None) -> None:
        """The checkpoint after an epoch, where one is due, and where its evaluation was the best one so far the
        selected weights.
        """
        if self.outcome.rounds is not None:
            self._end_round(self.outcome.rounds[-1], metrics)
        self.at = Position(self.at.step, self.at.epoch + 1)
        if self._epoch_due(selected=selected):
            self.save()
        if selected:
            with self.outcome.clocks.saving:
                on_main(self.accelerator, self._save_selected)
        self._stop_if_asked()

    def _end_round(self, record: dict[str, Any], metrics: Mapping[str, float | None] | None) -> None:
        record["metrics"] = metrics
        self.listener.round_ended(record)
        self.place.write_log({"type": "round", **record})

    def _epoch_due(self, *, selected: bool) -> bool:
        """Whether a checkpoint follows the epoch that has ended; what is selected is never without one."""
        if self.recipe.save.every_epoch or selected or self.at.epoch > self.length.epochs:
            return True
        return bool(any_process(self.accelerator, self.policy.due(self.at.step)))

    def _save_selected(self) -> None:
        self.place.check_there()
        save_weights(self.place.records.adapter, self._weights())

    # -- saving and stopping -------------------------------------------------------------------------------------------

    def _stop_or_save(self) -> None:
        """What may come between two steps of an epoch."""
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

    def _stop_if_asked(self) -> None:
        """Saves and raises StoppedError if a signal came, to this process or to any other."""
        number = any_process(self.accelerator, self.signals.received or 0)
        if not number:
            return
        if self.policy.last_step != self.at.step:
            self.save()
        raise stopped(number, self.at.step, self.how_to_resume)

    def _stop_within_round(self, rounds: Rounds) -> None:
        """Raises StoppedError if a signal came, once the run is saved as the round before has left it; what this round
        has done so far is not kept.
        """
        number = any_process(self.accelerator, self.signals.received or 0)
        if not number:
            return
        if self.at.step == 0:
            raise StoppedNow(number, again=False).error(None)
        if self.policy.last_step != self.at.step:
            rounds.take_back()
            self.save()
        raise stopped(number, self.at.step, f"what came after it is not kept; {self.how_to_resume}")

    def save(self) -> None:
        """Writes a checkpoint of this moment; raises DivergedError rather than save a diverged run, OutputError."""
        self._raise_log_error()
        self.step_function.check_weights(self.at.step)
        records = self.place.records
        state = self._training_state()

        def write() -> None:
            self.place.check_there()
            self._snapshot(*state).save(records.checkpoints / f"step-{self.at.step}")
            self.policy.keep_newest(records, step=self.at.step)

        with self.outcome.clocks.saving, self.outcome.clocks.training.paused():
            on_main(self.accelerator, write)
        self.policy.saved(self.at.step)

    def _raise_log_error(self) -> None:
        if self.accelerator.num_processes > 1:
            on_main(self.accelerator, self.place.raise_log_error)

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
            **({} if self.averaging is None else {"averaged_steps": self.averaging.count}),
        }
        with self._as_kept():
            return Weights.of(self.method.state_dict(), self.adapted.head, state)

    def _as_kept(self) -> AbstractContextManager[None]:
        """Within it the model has the weights that are evaluated and kept: their mean, once they are averaged."""
        return nullcontext() if self.averaging is None else self.averaging.in_place()

    def _training_state(self) -> tuple[Tensors, Tensors, dict[str, Any]]:
        """Moments, random states and counters of what trains: the run itself, or its clients."""
        if self.rounds is not None:
            return self.rounds.state_dict(self.at.step)
        everyone = enumerate(gathered(self.accelerator, random_state(self.accelerator.device)))
        states = {f"{rank}.{name}": tensor for rank, state in everyone for name, tensor in state.items()}
        moments, counters = self.step_function.state_dict()
        return moments, states, {"step_function": counters}

    def _snapshot(self, moments: Tensors, random: Tensors, counters: dict[str, Any]) -> Snapshot:
        progress = {
            "schema_version": 1,
            "at": asdict(self.at),
            **counters,
            **self.outcome.state(),
            "last_log": self._last_log,
            "log_length": self.place.log_length(),
            "fused": self.step_function.is_fused,
            "packing": None if self.prepared.packing is None else asdict(self.prepared.packing),
            **self._recipe_records,
            "versions": versions(),
        }
        states = {**random, METHOD_STATE: self.method.generator.get_state()}
        training = {} if self.averaging is None else self.averaging.state_dict()
        return Snapshot(self._weights(), moments, states, progress, self.method.training_state(), training)

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to the moment of `snapshot`; the method's state is there already. Raises CheckpointError."""
        progress, outcome = snapshot.progress, self.outcome
        metric = outcome.selection.primary
        check_fits(
            progress,
            length=self.length,
            schedule=self.schedule,
            frozen=self.method.frozen,
            metric=metric,
            every=self.recipe.eval.every,
        )
        if self.rounds is None:
            self.step_function.load_state_dict(snapshot.optimizer, progress["step_function"])
        else:
            self.rounds.load_state_dict(snapshot)
        self.at = position_in(progress, self.length)
        if self.averaging is not None:
            self.averaging.load_state_dict(snapshot.training, self.at.step)
        outcome.load_state({**progress, "history": pruning_events(progress["history"], self.schedule)})
        step, examples, seconds = progress["last_log"]
        self._last_log = LastLog(int(step), int(examples), float(seconds))
        self._next_event = self.schedule.next_event(self.at.step)
        self.policy.last_step = self.at.step
        self._restore_selected()
        on_main(self.accelerator, lambda: self.policy.clear(self.place.records, step=self.at.step))
        snapshot.restore_generator(self.method.generator)
        if self.rounds is None:  # clients have their own
            restore_random_state(snapshot.random_of(self.accelerator.process_index), self.accelerator.device)

    def _restore_selected(self) -> None:
        """The selected weights as they were at this moment: a later epoch may have replaced them before the run was
        stopped.
        """
        selected, records = self.outcome.selection.step, self.place.records

        def put_back() -> None:
            try:
                there = load_weights(records.adapter).state.get("step")
            except CheckpointError:
                there = None
            if selected is not None and there != selected:
                save_weights(records.adapter, load_weights(records.checkpoints / f"step-{selected}"))

        on_main(self.accelerator, put_back)


def make_step(prepared: Prepared, note: Note) -> TrainingStep:
    """The optimiser step of a recipe on its model; `note` is told where it is made otherwise than was planned."""
    settings, adapted, length = prepared.recipe.train, prepared.adapted, prepared.length
    packing = prepared.packing
    optimizer = make_optimizer(
        adapted.method,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        betas=settings.adam_betas,
        eps=settings.adam_eps,
    )
    return TrainingStep(
        model=adapted.model,
        method=adapted.method,
        loss=partial(prepared.task.losses, label_smoothing=settings.label_smoothing),
        optimizer=optimizer,
        scheduler=make_scheduler(
            optimizer,
            warmup_steps=length.lr_warmup,
            total_steps=length.total_steps,
            restarts=prepared.schedule.restarts,
        ),
        accelerator=prepared.ground.accelerator,
        max_grad_norm=settings.max_grad_norm,
        skip_nonfinite=settings.skip_nonfinite,
        locate=length.locate,
        cuda_graph=prepared.speed.captured,
        evaluations=length.epochs if prepared.recipe.eval.every == "epoch" else 1,
        measure=prepared.calibrator,
        alone=prepared.clients is not None,
        averaged=prepared.averaged,
        fused=_fused_blocks(prepared, note) if prepared.speed.fused else None,
        packed=None if packing is None else PackedRows(adapted.model, packing.longest),
        shortcuts=_shortcuts(prepared),
    )


def _shortcuts(prepared: Prepared) -> list[Shortcut]:
    train, dtype = prepared.train, autocast_type(prepared.ground.accelerator)
    widest = padded_width(int(train.lengths.max()), train.pad_multiple, train.max_length)
    longest = widest if prepared.packing is None else None
    return shortcuts(prepared.adapted.model, dtype, longest=longest, compiled=prepared.speed.fused)


def _fused_blocks(prepared: Prepared, note: Note) -> FusedBlocks:
    from dora_cli.models.fused.fused_blocks import FusedBlocks  # it loads PyTorch's compiler

    model, sites = prepared.adapted.model, prepared.adapted.method.sites
    return FusedBlocks(model, sites, note=note, deterministic=prepared.recipe.train.deterministic)
