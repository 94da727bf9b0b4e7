"""Draws one picture of a run into a file: ``dora ranks --plot``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dora_cli.errors import CheckpointError
from dora_cli.reports.curves import all_scores, budget_curve, losses, metric_curve, phases, rank_maps
from dora_cli.reports.plots import canvas
from dora_cli.reports.plots.budget import budget_figure
from dora_cli.reports.plots.maps import difference_figure, rank_figure
from dora_cli.reports.plots.scores import scores_figure
from dora_cli.reports.plots.training import training_figure
from dora_cli.reports.ranks.difference import differences
from dora_cli.reports.runs import FoundRanks, RunCurves
from dora_cli.reports.settings import settings
from dora_cli.runs.reading import read_text
from dora_cli.runs.run_folder import RunRecords

What = str
"""``map``, ``budget``, ``training`` or ``scores``; the command offers no other."""


def draw_map(found: FoundRanks, path: Path) -> None:
    """The rank map of a run, or of the mean of several."""
    maps = rank_maps(found.record)
    if not maps:
        raise no_ranks(found.title)
    canvas.save(rank_figure(maps, _title("Ranks", found.run, found.facts)), path)


def draw_difference(found: FoundRanks, other: FoundRanks, path: Path) -> None:
    """Where two runs differ. Raises CheckpointError as `differences` does."""
    maps = rank_maps(differences(found.record, other.record, (found.title, other.title)))
    if not maps:
        raise no_ranks(found.title)
    canvas.save(difference_figure(maps, f"Ranks of {_short(found)} minus those of {_short(other)}"), path)


def draw_budget(found: RunCurves, path: Path) -> None:
    """Budget and live components over steps."""
    curve = budget_curve(found.ranks, found.metrics, found.log)
    if curve is None:
        raise no_budget(found)
    canvas.save(budget_figure(curve, _title("Budget", found.run), (found.ranks or {}).get("unit", "component")), path)


def draw_training(found: RunCurves, path: Path) -> None:
    """Training loss and metric over steps."""
    source = found.metrics if found.metrics is not None else found.log
    loss, metric = losses(found.log), metric_curve(source, _selecting(found))
    if not (loss.known or metric.known):
        raise CheckpointError(
            f"{found.run.folder} has recorded neither a loss nor a metric yet: there is nothing to draw. "
            "Wait for the first logged step (train.log_every) or the first evaluation."
        )
    known = phases(found.ranks, found.metrics, found.log)
    canvas.save(
        training_figure(loss, metric, known, _title("Training", found.run), selected=_selected_step(found.metrics)),
        path,
    )


def draw_scores(found: FoundRanks, path: Path) -> None:
    """The distribution of scores at the freeze."""
    scores = all_scores(found.record)
    if scores is None or not (scores.live or scores.pruned):
        raise no_scores(found)
    canvas.save(scores_figure(scores, _title("Scores", found.run, found.facts), found.record["unit"]), path)


def no_ranks(where: object) -> CheckpointError:
    """Said of a run whose method adapts no projection."""
    return CheckpointError(
        f"the method of {where} adapts no projection, or gives none a rank: there is nothing to show. Name a run of "
        "another method."
    )


def no_budget(found: RunCurves) -> CheckpointError:
    """Said of a run without a curve: of a method without ranks, without records of its steps, or just begun."""
    folder = found.run.folder
    if found.ranks is None and not found.log:
        return CheckpointError(f"the run in {folder} has not logged a step yet. Wait for the first (train.log_every).")
    if found.ranks is not None and found.ranks["layers"]:
        return CheckpointError(
            f"{folder} does not say how its budget went: its ranks.json lists no event and there is no log.jsonl. "
            "Copy the whole run folder, or train again."
        )
    return no_ranks(folder)


def no_scores(found: FoundRanks) -> CheckpointError:
    """Said of what has no scores: the mean of several runs, or a method that gives none."""
    if found.run is None and found.record["layers"]:
        return CheckpointError(
            f"{found.title}: the components of different runs are not the same ones, so their scores have no mean. "
            "Name one of the runs."
        )
    if not found.record["layers"]:
        return no_ranks(found.title)
    return CheckpointError(
        f"{found.title} has no scores: its ranks.json holds none, because its method gives none. Name another run."
    )


def _selecting(found: RunCurves) -> str | None:
    """The metric that the recipe names; None leaves it to the task, whose primary metric stands first."""
    try:
        name = settings(read_text(found.run.recipe), found.run.recipe).get("eval.metric", "null")
    except CheckpointError:  # a picture can do without
        return None
    names = [*(found.metrics or {}).get("metrics", ())]
    return name if name != "null" and (name in names or not names) else None


def _selected_step(metrics: Mapping[str, Any] | None) -> int | None:
    if metrics is None:
        return None
    return next((entry["step"] for entry in metrics["epochs"] if entry["epoch"] == metrics["best_epoch"]), None)


def _title(what: str, run: RunRecords | None, facts: Sequence[str] = ()) -> str:
    """What is drawn, of what: task, model (of a local folder its name alone), method and seed, or which runs are
    averaged.
    """
    if run is None:
        return f"{what}: {facts[0]}" if facts else what
    if not run.metrics.is_file():
        return f"{what}: {run.folder.name}"
    metrics = run.read_metrics()
    model = Path(metrics["model"])
    name = model.name if model.is_absolute() else metrics["model"]
    return f"{what}: {metrics['task']}, {name}, {metrics['method']}, seed {metrics['seed']}"


def _short(found: FoundRanks) -> str:
    return found.run.folder.name if found.run is not None else found.title
