"""What a report is about: runs, grouped by their recipe, so that a group's runs differ in their seed alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

from dora_cli.errors import CheckpointError
from dora_cli.recipe.changes import keys_of
from dora_cli.recipe.effects import Effect
from dora_cli.reports.curves import Phase, Series, losses, metric_curve, metric_names, phases
from dora_cli.reports.html.paths import shared
from dora_cli.reports.ranks.table import mean_ranks
from dora_cli.reports.runs import RunCurves, find_curves, find_ranks
from dora_cli.reports.settings import settings
from dora_cli.runs.reading import read_text
from dora_cli.runs.run_folder import RunRecords

WITHOUT_EFFECT = frozenset(keys_of(Effect.SEED, Effect.RECORDS, Effect.BATCHING))
"""Keys in which runs of one group may differ: the seed, and those that change what is written down and nothing that is
trained.
"""


@dataclass(frozen=True)
class Run:
    """One run and its records.

    Attributes:
        folder: as it was named.
        name: last parts of its path, as many as tell all runs of the report apart.
        curves: what it recorded over its steps.
        recipe: the text of recipe.yaml; None if it is gone.
        settings: its keys, ``train.seed`` and so on, with their values as YAML.
        environment: environment.json; None if it is gone.
    """

    folder: Path
    name: str
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
    def rounds(self) -> Sequence[Mapping[str, Any]]:
        """Those of a federated run that are over, as metrics.json holds them; empty of any other run."""
        if self.metrics:
            return list(self.metrics.get("rounds") or ())
        return [entry for entry in self.curves.log if entry.get("type") == "round"]

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
    def selected(self) -> Mapping[str, Any] | None:
        """The evaluation whose weights were selected."""
        chosen = self.metrics["best_epoch"] if self.metrics else None
        return next((entry for entry in self.evaluations if entry.get("epoch") == chosen), None)

    @property
    def selected_step(self) -> int | None:
        """After which the selected weights were taken."""
        return None if self.selected is None else self.selected["step"]

    def result(self, name: str, kind: str) -> float | None:
        """A metric of the selected weights (`kind` is ``metrics``) or of the last epoch's (``last``), or None.

        Metrics that are measured between epochs alone, such as those of greedy outputs, are found in the selected
        evaluation.
        """
        found: Mapping[str, float | None] = self.metrics[kind] if self.metrics else {}
        if name not in found and kind == "metrics" and self.selected is not None:
            found = self.selected["metrics"]
        return found.get(name)


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
        """The base model; a local folder by its name."""
        record = self.finished[0].metrics if self.finished else None
        return shared(str(record["model"]) if record else self.of("model.name"))

    @property
    def method(self) -> str:
        return (
            str(self.finished[0].metrics["method"])
            if self.finished and self.finished[0].metrics
            else self.of("method.name")
        )

    @cached_property
    def metric_names(self) -> tuple[str, ...]:
        """The evaluations' metrics, the one that selects first."""
        names: dict[str, None] = {}
        for run in self.runs:
            names.update(dict.fromkeys(metric_names(run.evaluations)))
        wanted = self.of("eval.metric")
        return tuple(sorted(names, key=lambda name: name != wanted))

    @cached_property
    def result_names(self) -> tuple[str, ...]:
        """The metrics of the finished runs, which may be more than those of the evaluations; the one that
        selects first.
        """
        names = dict.fromkeys(
            name for run in self.finished if run.metrics for kind in ("metrics", "last") for name in run.metrics[kind]
        )
        order = {name: index for index, name in enumerate(self.metric_names)}
        return tuple(sorted(names, key=lambda name: order.get(name, len(order))))

    @cached_property
    def final_names(self) -> tuple[str, ...]:
        """The metrics of outputs that were written at the end: no evaluation between epochs has them."""
        return tuple(name for name in self.result_names if name not in self.metric_names)

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


# Finding --------------------------------------------------------------------------------------------------------------


def find_groups(folders: Sequence[Path]) -> tuple[Group, ...]:
    """The runs in `folders`, each a run folder or the parent folder of several seeds, by recipe.

    Raises CheckpointError.
    """
    found = [run for folder in folders for run in _runs(folder)]
    seen: dict[Path, Path] = {}
    for records in found:
        place = records.folder.resolve()
        if place in seen:
            raise CheckpointError(
                f"{records.folder} is named twice (the first time as {seen[place]}): its numbers would count twice. "
                "Name it once."
            )
        seen[place] = records.folder
    names = _unique([[records.folder] for records in found])
    runs = [_read(records, name) for records, name in zip(found, names, strict=True)]
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


def _read(run: RunRecords, name: str) -> Run:
    begun = run.ranks.is_file() or run.log.is_file()
    curves = find_curves(run.folder) if begun else RunCurves(run, ("not begun",), None, None, ())
    recipe = read_text(run.recipe) if run.recipe.is_file() else None
    environment = run.read_environment() if run.environment.is_file() else None
    return Run(run.folder, name, curves, recipe, settings(recipe or "", run.recipe), environment)


def _kind(run: Run) -> tuple[object, ...]:
    """What runs of one group have in common."""
    kept = tuple((key, value) for key, value in run.settings.items() if key not in WITHOUT_EFFECT)
    known = run.environment
    fingerprints = [part["fingerprint"] for part in (known["model"], *known["data"].values())] if known else []
    record = run.metrics
    return (
        kept,
        tuple(fingerprints),
        None if kept or not record else (record["task"], record["model"], record["method"]),
    )


# Names ----------------------------------------------------------------------------------------------------------------


def _label(folders: Sequence[Path]) -> list[Path]:
    """The folder whose name says what the runs are: that of the seeds, or each run's own."""
    parents = {folder.parent for folder in folders}
    if len(parents) == 1 and all(folder.name.startswith("seed-") for folder in folders) and len(folders) > 1:
        return [folders[0].parent]
    return list(folders)


def _unique(labels: Sequence[Sequence[Path]]) -> list[str]:
    """A name for each list of folders: last parts of their paths, as many as tell it from the others and no more."""
    lengths = [1] * len(labels)
    while True:
        cut = list(zip(labels, lengths, strict=True))
        names = [", ".join(_last(path, length) for path in paths) for paths, length in cut]
        wanted = [
            length < max(len(path.parts) for path in paths) and (names.count(name) > 1 or _says_nothing(paths, length))
            for (paths, length), name in zip(cut, names, strict=True)
        ]
        if not any(wanted):
            return names
        lengths = [length + more for length, more in zip(lengths, wanted, strict=True)]


def _says_nothing(paths: Sequence[Path], length: int) -> bool:
    """Whether a name is that of a seed alone."""
    return length == 1 and any(path.name.startswith("seed-") for path in paths)


def _last(path: Path, length: int) -> str:
    return "/".join(part for part in path.parts[-length:] if part != path.anchor) or str(path)
