"""What the loop finds, and what of it a run tells and writes down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dora_cli.assembly.averaged import AveragedSteps
from dora_cli.assembly.build import AdaptedModel
from dora_cli.assembly.length import RunLength
from dora_cli.assembly.padding import tokens_of_epoch, tokens_of_evaluation
from dora_cli.assembly.prepare import Prepared
from dora_cli.assembly.resolve import selecting_metric
from dora_cli.data.padding import TokenCount
from dora_cli.machine.stopwatch import Stopwatch
from dora_cli.methods.base import Method, Site, events_of
from dora_cli.recipe import Recipe
from dora_cli.runs.records.metrics import metrics_record
from dora_cli.runs.records.ranks import ranks_record
from dora_cli.tasks import Task
from dora_cli.training.listener import RunStart, StepLog
from dora_cli.training.selection import Selection

# What the loop finds --------------------------------------------------------------------------------------------------


@dataclass
class Clocks:
    """How long a run has trained, evaluated and saved."""

    training: Stopwatch = field(default_factory=Stopwatch)
    evaluation: Stopwatch = field(default_factory=Stopwatch)
    saving: Stopwatch = field(default_factory=Stopwatch)

    def state(self) -> dict[str, float]:
        """Seconds so far, as plain values."""
        return {
            "training": self.training.seconds,
            "evaluation": self.evaluation.seconds,
            "saving": self.saving.seconds,
        }

    def load_state(self, state: Mapping[str, float]) -> None:
        """Goes on from what `state` gave."""
        self.training.total = float(state["training"])
        self.evaluation.total = float(state["evaluation"])
        self.saving.total = float(state["saving"])


@dataclass
class Outcome:
    """What the loop has found so far.

    Attributes:
        selection: the evaluation that counts.
        epochs: one record per evaluation.
        history: one record per event.
        examples: seen in training.
        confusion: of the selected evaluation, where the classes are the user's own.
        rounds: one record per round of federated training; None of any other.
    """

    selection: Selection
    epochs: list[dict[str, Any]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    clocks: Clocks = field(default_factory=Clocks)
    examples: int = 0
    confusion: Mapping[str, Any] | None = None
    rounds: list[dict[str, Any]] | None = None

    def state(self) -> dict[str, Any]:
        """All of it as plain values, as progress.json holds it."""
        return {
            "selection": self.selection.state(),
            "epochs": self.epochs,
            "history": self.history,
            "seconds": self.clocks.state(),
            "examples": self.examples,
            **({} if self.confusion is None else {"confusion": self.confusion}),
            **({} if self.rounds is None else {"rounds": self.rounds}),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes back to what `state` gave."""
        self.selection.load_state(state["selection"])
        self.epochs = list(state["epochs"])
        self.history = [dict(entry) for entry in state["history"]]
        self.clocks.load_state(state["seconds"])
        self.examples = state["examples"]
        self.confusion = state.get("confusion")
        if self.rounds is not None:
            self.rounds = [dict(entry) for entry in state["rounds"]]


# What listeners are told ----------------------------------------------------------------------------------------------


def run_start(prepared: Prepared, output: Path, environment: Mapping[str, Any], *, resumed_step: int) -> RunStart:
    """What is said before the first step. Waits for the device.

    Args:
        prepared: what the loop was made of.
        output: the run folder.
        environment: the content of environment.json.
        resumed_step: steps done already; 0 for a new run.
    """
    recipe, adapted, length, schedule = prepared.recipe, prepared.adapted, prepared.length, prepared.schedule
    return RunStart(
        task=prepared.task.name,
        model=recipe.model.name,
        method=adapted.method.name,
        device=str(environment["device"]),
        precision=prepared.ground.precision,
        threads=environment["cpu_threads"],
        seed=recipe.train.seed,
        output=output,
        total_steps=length.total_steps,
        steps_per_epoch=length.steps_per_epoch,
        epochs=length.epochs,
        global_batch=length.global_batch,
        projections=len(adapted.projections),
        schedule=schedule.describe(),
        trainable_parameters=adapted.start_parameters,
        head_parameters=sum(parameter.numel() for parameter in adapted.head.values()),
        resumed_step=resumed_step,
        phases=tuple(schedule.phases),
        events=tuple(events_of(schedule)),
        layers=live_layers(adapted.projections, adapted.method),
        real_tokens=(
            None
            if prepared.clients is not None
            else tokens_of_epoch(recipe, prepared.train, length, 1, adapted.cuts, prepared.packing).share
        ),
        clients=None if prepared.clients is None else len(prepared.clients),
    )


def live_layers(projections: Sequence[Site], method: Method) -> tuple[dict[str, Any], ...]:
    """Every adapted projection as in ranks.json, without its scores. Waits for the device."""
    allocations = {allocation.name: allocation for allocation in method.allocation()}
    keys = ("name", "stack", "block", "attention", "projection", "group")
    return tuple(
        {
            **{key: getattr(projection, key) for key in keys},
            "shape": list(allocations[projection.name].shape),
            "start_rank": allocations[projection.name].start_rank,
            "rank": allocations[projection.name].rank,
        }
        for projection in projections
        if projection.name in allocations
    )


# What is written down -------------------------------------------------------------------------------------------------


def log_line(log: StepLog, seconds: float) -> dict[str, Any]:
    """A logged step as log.jsonl holds it, after `seconds` of training."""
    return {
        "type": "train",
        "step": log.step,
        "epoch": log.epoch,
        "phase": log.phase,
        "budget": log.budget,
        "live": log.live_components,
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


def ranks_of(adapted: AdaptedModel, history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The content of ranks.json."""
    allocations = adapted.method.allocation()
    assert adapted.schedule is not None
    start_ranks = {allocation.start_rank for allocation in allocations}
    uniform, budget = len(start_ranks) == 1, adapted.schedule.final_components
    plan = adapted.schedule.describe()
    counts = plan.get("unit", "components")
    target = _mean_rank(budget, len(allocations)) if counts == "components" else plan["rank"]
    return ranks_record(
        adapted.projections if allocations else [],
        allocations,
        unit="component",
        start_rank=start_ranks.pop() if uniform else None,
        target_rank=target if uniform else None,
        live_components=sum(allocation.rank for allocation in allocations),
        phases=adapted.schedule.phases,
        history=history,
        score=adapted.method.scored_by if allocations else None,
        counts=counts,
    )


def _mean_rank(budget: int | None, projections: int) -> int | None:
    """None where there is none, or no whole number, as where links that differ in size add up to the budget."""
    return None if budget is None or not projections or budget % projections else budget // projections


def budget_of(adapted: AdaptedModel) -> dict[str, int | None]:
    """The components and parameters of a trained model, as metrics.json holds them."""
    schedule, allocations, size = adapted.schedule, adapted.method.allocation(), adapted.method.size()
    assert schedule is not None
    trained, final = sum(parameter.numel() for parameter in adapted.trainable), schedule.final_components
    if final is not None and final > schedule.start_components and not adapted.method.parameters():
        trained = adapted.start_parameters  # the last link is tied, too: what trained was another
    return {
        "start_components": schedule.start_components,
        "final_components": final,
        "live_components": sum(allocation.rank for allocation in allocations),
        "trainable_parameters_start": adapted.start_parameters,
        "trainable_parameters_final": trained,
        "adapter_parameters_final": size.stored,
        "adapter_bytes": size.bytes,
    }


def timing_of(
    outcome: Outcome, length: RunLength, peak_memory: int | None, *, fused: bool, packed: bool
) -> dict[str, float | int | None]:
    """How fast a run was, as metrics.json holds it; `fused`: whether with compiled blocks, to its end; `packed`:
    whether on texts in one row.
    """
    clocks = outcome.clocks
    seconds = max(clocks.training.seconds, 1e-9)
    return {
        "train_seconds": clocks.training.seconds,
        "evaluation_seconds": clocks.evaluation.seconds,
        "saving_seconds": clocks.saving.seconds,
        "samples_per_second": outcome.examples / seconds,
        "steps_per_second": length.total_steps / seconds,
        "peak_memory_bytes": peak_memory,
        "fused": fused,
        "packed": packed,
    }


@dataclass(frozen=True)
class RealTokens:
    """What part of the tokens that a run computed was real, as metrics.json holds it.

    Attributes:
        epochs: by the number of the epoch, of its training.
        training: of all epochs together.
        evaluation: of each evaluation.
    """

    epochs: Mapping[int, float | None]
    training: float | None
    evaluation: float | None

    @classmethod
    def of(cls, prepared: Prepared) -> RealTokens | None:
        """None for a federated run. It is known from the lengths of the examples alone, whoever trained on them."""
        if prepared.clients is not None:
            return None
        recipe, length, cuts = prepared.recipe, prepared.length, prepared.adapted.cuts
        epochs = {
            epoch: tokens_of_epoch(recipe, prepared.train, length, epoch, cuts, prepared.packing)
            for epoch in range(1, length.epochs + 1)
        }
        return cls(
            {epoch: count.share for epoch, count in epochs.items()},
            sum(epochs.values(), TokenCount()).share,
            tokens_of_evaluation(prepared.evaluator.splits, recipe.eval.batch_size).share,
        )

    def record(self) -> dict[str, float] | None:
        """Without its epochs."""
        if self.training is None or self.evaluation is None:
            return None
        return {"training": self.training, "evaluation": self.evaluation}


def metrics_of(
    recipe: Recipe,
    outcome: Outcome,
    *,
    method: str,
    metrics: Mapping[str, float | None],
    budget: Mapping[str, int | None],
    timing: Mapping[str, float | int | None],
    real_tokens: RealTokens | None = None,
    baseline: Mapping[str, Any] | None = None,
    clients: Sequence[Mapping[str, Any]] | None = None,
    averaged: AveragedSteps | None = None,
) -> dict[str, Any]:
    """The content of metrics.json.

    Args:
        method: the name of what adapted the model.
        metrics: those of the selected weights.
        budget: see `budget_of`.
        timing: see `timing_of`.
        real_tokens: see `RealTokens`.
        baseline: see `baseline_of`.
        clients: of a federated run, what each of them had to learn from.
        averaged: the steps whose weights were averaged; None where none were.
    """
    selection = outcome.selection
    assert selection.epoch is not None and selection.step is not None
    shares = {} if real_tokens is None else real_tokens.epochs
    epochs = [
        entry if shares.get(entry["epoch"]) is None else {**entry, "real_tokens": shares[entry["epoch"]]}
        for entry in outcome.epochs
    ]
    return metrics_record(
        task=recipe.task,
        model=recipe.model.name,
        method=method,
        seed=recipe.train.seed,
        metrics=metrics,
        last=outcome.epochs[-1]["metrics"],
        best_epoch=selection.epoch,
        selection=selection.rule,
        epochs=epochs,
        budget=budget,
        timing=timing,
        real_tokens=None if real_tokens is None else real_tokens.record(),
        confusion=outcome.confusion,
        baseline=baseline,
        rounds=outcome.rounds,
        clients=clients,
        averaged_steps=None if averaged is None else averaged.done(selection.step),
    )


def baseline_of(recipe: Recipe, task: Task, constant: Mapping[str, float], outcome: Outcome) -> dict[str, Any] | None:
    """Whether a run has learned more than to say the same of every example, as metrics.json holds it.

    Args:
        constant: what that is worth, of the evaluated splits; empty where it means nothing.
    """
    metric = selecting_metric(recipe, task)
    found = outcome.selection.metrics.get(metric)
    if metric not in constant or found is None:
        return None
    better = found < constant[metric] if task.lower_is_better(metric) else found > constant[metric]
    return {"metrics": dict(constant), "metric": metric, "beaten": bool(better)}
