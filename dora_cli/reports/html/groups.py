"""What a report is about: runs, grouped by their recipe, so that a group's runs differ in their seed alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

from dora_cli.errors import CheckpointError
from dora_cli.reports.curves import Phase, Series, losses, metric_curve, metric_names, phases
from dora_cli.reports.ranks import mean_ranks
from dora_cli.reports.records import RunRecords, read_json, read_text
from dora_cli.reports.runs import RunCurves, find_curves, find_ranks
from dora_cli.reports.settings import settings

WITHOUT_EFFECT = frozenset(
    {"train.seed", "train.log_every", "train.log_with", "eval.batch_size", "decode.batch_size"}
    | {"save.every_steps", "save.every_minutes", "save.keep"}
)
"""Keys in which runs of one group may differ: the seed, and those that change what is written down and nothing that is trained."""


@dataclass(frozen=True)
class Run:
    """One run and its records.

    Attributes:
        folder: as it was named.
        curves: what it recorded over its steps.
        recipe: the text of recipe.yaml; None if it is gone.
        settings: its keys, ``train.seed`` and so on, with their values as YAML.
        environment: environment.json; None if it is gone.
    """

    folder: Path
    curves: RunCurves
    recipe: str | None
    settings: Mapping[str, str]
    environment: Mapping[str, Any] | None

    @property
    def metrics(self) -> Mapping[str, Any] | None:
        """metrics.json; None while the run has not finished."""
        return self.curves.metrics

    @property
    def finished(self) -> bool:
        return self.metrics is not None and self.curves.ranks is not None

    @property
    def seed(self) -> str:
        return str(self.metrics["seed"]) if self.metrics else self.settings.get("train.seed", "?")

    @property
    def evaluations(self) -> Sequence[Mapping[str, Any]]:
        """One for each epoch that is over: ``epoch, step, phase, train_loss, metrics``."""
        if self.metrics:
            return list(self.metrics["epochs"])
        return [entry for entry in self.curves.log if entry.get("type") == "eval" and "metrics" in entry]

    @property
    def phases(self) -> tuple[Phase, ...]:
        return phases(self.curves.ranks, self.metrics, self.curves.log)

    @property
    def steps(self) -> int:
        """The last step that a record speaks of."""
        return self.phases[-1][2] if self.phases else 0

    @property
    def loss(self) -> Series:
        return losses(self.curves.log)

    def metric(self, name: str) -> Series:
        return metric_curve(self.evaluations, name)

    @property
    def selected_step(self) -> int | None:
        """After which the selected weights were taken."""
        chosen = self.metrics["best_epoch"] if self.metrics else None
        return next((entry["step"] for entry in self.evaluations if entry.get("epoch") == chosen), None)


@dataclass(frozen=True)
class Group:
    """Runs of one recipe.

    Attributes:
        name: unique in the report.
        runs: in the order of the command line, seeds ascending within a folder.
    """

    name: str
    runs: tuple[Run, ...]

    @cached_property
    def finished(self) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if run.finished)

    def of(self, key: str) -> str:
        """A setting, or what metrics.json says in its place."""
        for run in self.runs:
            if key in run.settings:
                return run.settings[key]
        return "?"

    @property
    def task(self) -> str:
        return str(self.finished[0].metrics["task"]) if self.finished and self.finished[0].metrics else self.of("task")

    @property
    def model(self) -> str:
        return str(self.finished[0].metrics["model"]) if self.finished and self.finished[0].metrics else self.of("model.name")

    @property
    def method(self) -> str:
        return str(self.finished[0].metrics["method"]) if self.finished and self.finished[0].metrics else self.of("method.name")

    @cached_property
    def metric_names(self) -> tuple[str, ...]:
        """Of the evaluations, the one that selects first."""
        names: dict[str, None] = {}
        for run in self.runs:
            names.update(dict.fromkeys(metric_names(run.evaluations)))
        wanted = self.of("eval.metric")
        return tuple(sorted(names, key=lambda name: name != wanted))

    @cached_property
    def result_names(self) -> tuple[str, ...]:
        """Of the finished runs' results, which may be more than those of the evaluations; the one that selects first."""
        names = dict.fromkeys(name for run in self.finished if run.metrics for kind in ("metrics", "last") for name in run.metrics[kind])
        order = {name: index for index, name in enumerate(self.metric_names)}
        return tuple(sorted(names, key=lambda name: order.get(name, len(order))))

    @cached_property
    def ranks(self) -> Mapping[str, Any] | None:
        """ranks.json, of several runs the mean; None before one has finished."""
        records = {run.folder.name: run.curves.ranks for run in self.finished if run.curves.ranks is not None}
        if len(records) < len(self.finished):  # folders of one name
            records = {str(run.folder): run.curves.ranks for run in self.finished if run.curves.ranks is not None}
        if not records:
            return None
        return next(iter(records.values())) if len(records) == 1 else mean_ranks(records)

    @property
    def varied(self) -> tuple[str, ...]:
        """Settings that differ between its runs."""
        return differing([run.settings for run in self.runs])


def differing(settings: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """The keys that have not the same value everywhere, in the order of the recipes."""
    keys = dict.fromkeys(key for one in settings for key in one)
    return tuple(key for key in keys if len({one.get(key) for one in settings}) > 1)


# Finding ------------------------------------------------------------------------------------------------------------------------


def find_groups(folders: Sequence[Path]) -> tuple[Group, ...]:
    """The runs in `folders`, each a run folder or the parent folder of several seeds, by recipe. Raises CheckpointError."""
    runs = [_read(run) for folder in folders for run in _runs(folder)]
    seen: dict[Path, Path] = {}
    for run in runs:
        place = run.folder.resolve()
        if place in seen:
            raise CheckpointError(
                f"{run.folder} is named twice (the first time as {seen[place]}): its numbers would count twice. Name it once."
            )
        seen[place] = run.folder
    members: dict[tuple[object, int], list[Run]] = {}
    for run in runs:
        # a seed that is there already is another run of the same recipe: their mean would count the seed twice
        again = next(n for n in count() if run.seed not in {other.seed for other in members.get((_kind(run), n), ())})
        members.setdefault((_kind(run), again), []).append(run)
    named = [_label([run.folder for run in group]) for group in members.values()]
    return tuple(Group(name, tuple(group)) for name, group in zip(_unique(named), members.values(), strict=True))


def _runs(folder: Path) -> list[RunRecords]:
    run = RunRecords(folder)
    if any(path.is_file() for path in (run.recipe, run.metrics, run.ranks, run.log)):
        return [run]
    seeds = run.seed_runs()
    if not seeds:
        find_ranks(folder)  # says what is wrong with any other folder
    return seeds


def _read(run: RunRecords) -> Run:
    begun = run.ranks.is_file() or run.log.is_file()
    curves = find_curves(run.folder) if begun else RunCurves(run, ("not begun",), None, None, ())
    curves = replace(curves, log=tuple(entry for entry in curves.log if _whole(entry)))
    recipe = read_text(run.recipe) if run.recipe.is_file() else None
    environment = read_json(run.environment) if run.environment.is_file() else None
    if environment is not None and not isinstance(environment, Mapping):
        raise CheckpointError(f"{run.environment} is damaged: it holds no JSON object. Copy the run folder again, or train again.")
    return Run(run.folder, curves, recipe, settings(recipe or "", run.recipe), environment)


def _whole(entry: Mapping[str, Any]) -> bool:
    """Whether a line of the log, which anybody may have written, has counts that can be drawn and listed."""
    keys = {"train": ("step", "budget", "live"), "eval": ("step", "epoch")}.get(str(entry.get("type")), ("step",))
    loss = entry.get("train_loss")
    return all(isinstance(entry.get(key), int) and 0 <= entry[key] < 2**53 for key in keys) and isinstance(loss, int | float | None)


def _kind(run: Run) -> tuple[object, ...]:
    """What runs of one group have in common."""
    kept = tuple((key, value) for key, value in run.settings.items() if key not in WITHOUT_EFFECT)
    model = (run.environment or {}).get("model")
    fingerprint = model.get("fingerprint") if isinstance(model, Mapping) else None
    record = run.metrics
    return kept, str(fingerprint), None if kept or not record else (record["task"], record["model"], record["method"])


# Names --------------------------------------------------------------------------------------------------------------------------


def _label(folders: Sequence[Path]) -> list[Path]:
    """The folder whose name says what the runs are: that of the seeds, or each run's own."""
    parents = {folder.parent for folder in folders}
    if len(parents) == 1 and all(folder.name.startswith("seed-") for folder in folders) and len(folders) > 1:
        return [folders[0].parent]
    return list(folders)


def _unique(labels: Sequence[Sequence[Path]]) -> list[str]:
    """A name for each list of folders: last parts of their paths, as many as tell all lists apart."""
    for length in range(1, max(len(path.parts) for paths in labels for path in paths) + 1):
        names = [", ".join("/".join(path.parts[-length:]) or str(path) for path in paths) for paths in labels]
        bare = any(path.name.startswith("seed-") and length == 1 for paths in labels for path in paths)  # a seed says nothing of the run
        if len(set(names)) == len(names) and not bare:
            return names
    return names
