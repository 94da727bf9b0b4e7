"""What an experiment came to, as comparison.json holds it: scores, choices, differences, verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dora_cli.compare.cells import Cell, ComparedTask, cell_name
from dora_cli.compare.comparisons import compared
from dora_cli.compare.courses import CellResult, rank_source
from dora_cli.compare.experiment import Experiment
from dora_cli.compare.scores import Score, with_constants
from dora_cli.compare.statistics import (
    PilotSpread,
    cells_near_best,
    choose_rate,
    collapsed_share,
    difference_sd,
    expected_best,
    pilot_spread,
    rate_grid,
    reach,
)
from dora_cli.compare.variants import Design, Variant
from dora_cli.wording import plural


@dataclass(frozen=True)
class Margin:
    """Below which a difference does not count.

    Attributes:
        value: in the metric's units; None where there is none.
        source: ``pilot``, ``given`` or ``none``.
        planned_sd: the paired difference's standard deviation as the pilot lets it be planned.
        note: what is to be said of it.
    """

    value: float | None
    source: str
    planned_sd: float | None
    note: str | None = None


def comparison_record(
    experiment: Experiment,
    file: Path,
    plan: Design,
    cells: Sequence[Cell],
    results: Mapping[str, CellResult],
    output: Path,
) -> dict[str, Any]:
    """The content of comparison.json; of an experiment that is not done, of what is there.

    Args:
        file: of the experiment.
        cells: all of them.
        results: of those that are done, by name.
        output: the experiment's folder; runs are named relative to it.
    """
    tasks = list({cell.task.name: cell.task for cell in cells}.values())
    results = {cell.name: results[cell.name] for cell in cells if cell.name in results}  # whichever was done first
    results = {cell.name: results[cell.name] for cell in cells if cell.name in results}  # whichever was done first
    done = {name: _with_constants(result, results.values()) for name, result in results.items()}
    notes = [*plan.notes, *_notes_on_ranks(results.values())]
    margin = find_margin(experiment, done.values())
    comparisons = compared(
        plan.comparisons, tasks, done, seeds=experiment.seeds, margin=margin.value, planned_sd=margin.planned_sd
    )
    notes += [*filter(None, [margin.note]), *_notes_on_metrics(tasks), *_notes_on_grids(done.values())]
    reached = reach(len(experiment.seeds), comparisons=len(plan.comparisons))
    return {
        "schema_version": 1,
        "experiment": str(file),
        "baseline": experiment.baseline,
        "pool": list(experiment.pool),
        "match": experiment.match,
        "margin": margin.value,
        "margin_source": margin.source,
        "seeds": list(experiment.seeds),
        "tuning": _plan_of_tuning(experiment, cells),
        "measured_share": experiment.measured_share,
        "power": {
            "seeds": len(experiment.seeds),
            "comparisons": len(plan.comparisons),
            "detectable": reached.detectable,
        },
        "tasks": [_task(task, cells, done.values()) for task in tasks],
        "methods": [_method(variant, experiment) for variant in plan.variants],
        "cells": [_cell(done[cell.name], output) for cell in cells if cell.name in done],
        "comparisons": comparisons,
        "complete": len(done) == len(cells),
        "notes": notes,
    }


# The margin -----------------------------------------------------------------------------------------------------------


def find_margin(experiment: Experiment, results: Iterable[CellResult]) -> Margin:
    """The margin that the experiment names, or the one that its tuning runs make; see `pilot_spread`."""
    pilot, why = _pilot(results)
    sd = None if pilot is None else difference_sd(pilot.sd)
    if isinstance(experiment.margin, float | int):
        return Margin(float(experiment.margin), "given", sd)
    if experiment.margin == "none" or experiment.tune is None:
        return Margin(None, "none", sd)
    if pilot is None or not pilot.sd:
        return Margin(None, "none", None, f"no margin can be made of the tuning: {why or 'its runs have no spread'}")
    said = (
        f"the margin is the spread of one run over seeds in the tuning, {pilot.sd:.4g} (95 % interval {pilot.low:.4g} "
        f"to {pilot.high:.4g}, {pilot.degrees:.1f} degrees of freedom)"
    )
    return Margin(pilot.sd, "pilot", sd, said)


_ENOUGH = 8
"""Degrees of freedom of a task by which its spread is known well enough, to a fourth or so of itself."""


def _pilot(results: Iterable[CellResult]) -> tuple[PilotSpread | None, str | None]:
    """The spread of runs that differ in their seed alone, where no run collapsed: at each chosen value; on a task that
    these are too few of, at its two neighbours too, one of which may be a value that fails for one seed in two.
    """
    chosen: dict[str, list[tuple[float, ...]]] = {}
    near: dict[str, list[tuple[float, ...]]] = {}
    for result in results:
        if result.choice is None:
            continue
        task, lower = result.cell.task.name, result.cell.task.lower_is_better
        points = result.choice.points(lower_is_better=lower)
        at_best = [point for point in points if point.rate == result.choice.value]
        chosen.setdefault(task, []).extend(cells_near_best(at_best, lower_is_better=lower))
        near.setdefault(task, []).extend(cells_near_best(points, lower_is_better=lower))
    cells = {
        task: groups if sum(len(group) - 1 for group in groups) >= _ENOUGH else near[task]
        for task, groups in chosen.items()
    }
    try:
        return pilot_spread(cells), None
    except ValueError as error:
        return None, str(error)


def _with_constants(result: CellResult, others: Iterable[CellResult]) -> CellResult:
    """Its diverged runs with what stands for their score, as any run on the task knows it."""
    task = result.cell.task
    same = [score for other in others if other.cell.task.name == task.name for score in other.scores]
    scores = with_constants(result.scores, same, lower_is_better=task.lower_is_better)
    return CellResult(result.cell, result.choice, tuple(scores))


# Its parts ------------------------------------------------------------------------------------------------------------


def _plan_of_tuning(experiment: Experiment, cells: Sequence[Cell]) -> dict[str, Any] | None:
    tune = experiment.tune
    if tune is None:
        return None
    return {
        "key": tune.key,
        "grid": list(rate_grid(tune.grid.low, tune.grid.high, tune.grid.points)),
        "held_out": tune.held_out,
        "held_out_by": cells[0].recipe.eval.held_out_by,  # the same for all
        "seeds": tune.seed_list,
        "keep": tune.keep,
    }


def _task(task: ComparedTask, cells: Sequence[Cell], results: Iterable[CellResult]) -> dict[str, Any]:
    known = [
        score.constant
        for result in results
        if result.cell.task.name == task.name
        for score in result.scores
        if score.constant is not None
    ]
    recipe = next(cell.recipe for cell in cells if cell.task.name == task.name)
    return {
        "name": task.name,
        "recipe": str(task.file),
        "task": task.task.name,
        "model": recipe.model.name,
        "metric": task.metric,
        "lower_is_better": task.lower_is_better,
        "majority": known[0] if known else None,
    }


def _method(variant: Variant, experiment: Experiment) -> dict[str, Any]:
    return {
        "name": variant.name,
        "entry": variant.entry,
        "method": variant.method,
        "swept": dict(variant.swept),
        "matched_to": None if variant.sized_as is None else variant.sized_as.name,
        "baseline": variant.entry == experiment.baseline,
    }


def _cell(result: CellResult, output: Path) -> dict[str, Any]:
    cell = result.cell
    return {
        "task": cell.task.name,
        "method": cell.variant.name,
        "tuned": _tuned(result, output),
        "runs": [_run(score, cell, output) for score in result.scores],
    }


def _tuned(result: CellResult, output: Path) -> dict[str, Any] | None:
    choice, lower = result.choice, result.cell.task.lower_is_better
    if choice is None:
        return None
    points = choice.points(lower_is_better=lower)
    chosen = choose_rate(points, lower_is_better=lower)
    means = [point.mean for point in points]
    return {
        "tried": [
            {
                "value": tried.value,
                "seeds": [score.seed for score in tried.scores],
                "scores": [score.value for score in tried.scores],
                "collapsed": sum(score.collapsed for score in tried.scores),
                "diverged": sum(score.outcome == "diverged" for score in tried.scores),
                "runs": [_place(score, output) for score in tried.scores],
                "added": tried.added,
            }
            for tried in choice.tried
        ],
        "chosen": choice.value,
        "interior": chosen.interior,
        "band": chosen.band,
        "collapsed": collapsed_share(points),
        "expected_best": list(expected_best(means, means, lower_is_better=lower)),
    }


def _run(score: Score, cell: Cell, output: Path) -> dict[str, Any]:
    record = score.record
    best = None
    if record is not None and len(record["epochs"]) > 1:
        values = [epoch["metrics"].get(cell.task.metric) for epoch in record["epochs"]]
        known = [value for value in values if value is not None]
        best = (min if cell.task.lower_is_better else max)(known) if known else None
    budget = {} if record is None else record["budget"]
    timing = {} if record is None else record["timing"]
    clocks = ("train_seconds", "evaluation_seconds", "saving_seconds", "decoding_seconds")
    return {
        "seed": score.seed,
        "outcome": score.outcome,
        "folder": _place(score, output),
        "score": score.value,
        "metrics": {} if record is None else record["metrics"],
        "best_on_dev": best,
        "stored_parameters": score.stored,
        "most_trained": budget.get("trainable_parameters_start"),
        "adapter_bytes": budget.get("adapter_bytes"),
        "seconds": None if record is None else sum(timing.get(clock) or 0.0 for clock in clocks),
        "peak_memory_bytes": timing.get("peak_memory_bytes") if cell.ahead.device.startswith("cuda") else None,
        "collapsed": score.collapsed,
    }


def _place(score: Score, output: Path) -> str:
    return score.job.folder.relative_to(output).as_posix()


# What is said beside --------------------------------------------------------------------------------------------------


def _notes_on_metrics(tasks: Sequence[ComparedTask]) -> list[str]:
    found = dict.fromkeys(task.metric for task in tasks)
    if len(found) < 2:
        return []
    return [
        f"the tasks are measured in different units ({', '.join(found)}), of which a mean says little; see each task"
    ]


def _notes_on_ranks(results: Iterable[CellResult]) -> list[str]:
    """Runs whose ranks are not those of their own seed."""
    of, found = {result.cell.name: result for result in results}, []
    for result in of.values():
        source = result.cell.variant.ranks_of
        if source is None:
            continue
        scores = of[cell_name(result.cell.task, source)].scores
        for score in scores:
            taken = rank_source(scores, score.seed)
            if score.record is None and taken is not None:
                found.append(
                    f"{result.cell.name}: the run of seed {score.seed} has the ranks of seed {taken.seed}, since "
                    f"{source.name} diverged"
                )
    return found


def _notes_on_grids(results: Iterable[CellResult]) -> list[str]:
    found = []
    for result in results:
        choice = result.choice
        if choice is not None and choice.exhausted:
            added = sum(tried.added for tried in choice.tried)
            grew = f"grew by {plural(added, 'value')} and may not grow further" if added else "may not grow"
            found.append(
                f"{result.cell.name}: the best value, {choice.value:g}, lies at the edge of the grid, which {grew} "
                "(tune: extend)"
            )
    return found
