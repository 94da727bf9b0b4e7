"""One variant on one task: its recipe, what is known of it before anything is trained, and the runs it is made of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dora_cli.assembly.build import targets_of
from dora_cli.assembly.dry_run import DryRun, dry_run
from dora_cli.assembly.resolve import resolve, selecting_metric, with_ranks
from dora_cli.assembly.warm import Warm
from dora_cli.compare.experiment import Experiment, Tuning
from dora_cli.compare.jobs import Job
from dora_cli.compare.sizes import ranks_of_size
from dora_cli.compare.variants import Design, Variant, override
from dora_cli.errors import DoraError, ExperimentError, RecipeError
from dora_cli.models import find_projections
from dora_cli.recipe import Recipe, dump_recipe, load_recipe, parse_recipe
from dora_cli.recipe.anchor import anchored
from dora_cli.recipe.fields import Section
from dora_cli.recipe.shipped_recipes import find_recipe
from dora_cli.tasks import Task
from dora_cli.wording import spelled

FIRST = (
    "eval.every=end",
    "save.every_epoch=false",
    "save.every_minutes=1",
    "save.keep=1",
    "train.fuse=off",
    "train.pack=off",
)
"""What the recipes of an experiment have unless it says otherwise in ``set``: the dev split is read once, a kill costs
a minute of a run, and all methods draw dropout alike, which ``auto`` does not where one method can be compiled, or
stand in rows, and another cannot.
"""
LAST = ("eval.select=last", "eval.held_out=null")
"""What they have in any case: an epoch that the dev split has chosen is no result, and all of the training split is
learned from where nothing is chosen."""
_SCALE_ITS_OWN = "data.scale=null"
"""What a run on a part of the training split has where it finds the scale of its numbers in that part."""
_REPLACED = re.compile(r", (set method\.name to \S+), or replace the whole section with --set '.*?'")
LONGEST = 60
"""Characters of a task's name."""


@dataclass(frozen=True)
class ComparedTask:
    """A recipe that everything is compared on.

    Attributes:
        name: the experiment's own; names a folder.
        file: where the recipe is.
        task: resolved.
        metric: what is compared.
        lower_is_better: of the metric.
    """

    name: str
    file: Path
    task: Task
    metric: str
    lower_is_better: bool


@dataclass(frozen=True)
class Cell:
    """One variant on one task.

    Attributes:
        recipe: resolved, with local paths made absolute; a run has its own seed, tuned value, ranks and share held out.
        ahead: what is known of it before anything is trained.
        costs: parameters of one component by projection; empty where the model's shapes are out of reach.
        in_tuning: what the recipes of tuning runs, and of others that the dev split plays no part in, have beside that,
            as overrides.
        measured_share: of the training split, that measured runs are scored on; None on the dev split.
    """

    task: ComparedTask
    variant: Variant
    recipe: Recipe
    ahead: DryRun
    costs: Mapping[str, int]
    in_tuning: tuple[str, ...] = ()
    measured_share: float | None = None

    @property
    def name(self) -> str:
        """Such as ``glue-rte / lora rank=2``."""
        return cell_name(self.task, self.variant)

    @property
    def planned(self) -> int | None:
        """Parameters that its adapter is going to store, where that is known before any run."""
        return None if self.ahead.parameters is None else self.ahead.parameters["final"]

    def tuning_job(
        self, output: Path, key: str, value: float, seed: int, held_out: float, more: Sequence[str] = ()
    ) -> Job:
        """A run that scores `value` on the held-out part of the training split."""
        changes = [override(key, value), *self._held_out(held_out)]
        place = Path("tuning", self.task.name, self.variant.slug, f"{value:g}", f"seed-{seed}")
        return self._job(output, place, [*changes, *more], seed)

    def _held_out(self, share: float) -> list[str]:
        """That a run is scored on a part of the training split, as overrides."""
        changes = [override("eval.held_out", share), "eval.every=end", *self.in_tuning]
        metric = self.recipe.eval.metric
        if metric is not None and metric not in self.task.task.held_out_metrics:
            changes.append(override("eval.metric", None))  # of one of several dev splits
        return changes

    def takes(self, key: str, value: float) -> bool:
        """Whether its recipe may have that value."""
        try:
            parse_recipe(self._text, overrides=[override(key, value)])
        except RecipeError:
            return False
        return True

    def measuring_job(self, output: Path, key: str | None, value: float | None, seed: int, more: Sequence[str]) -> Job:
        """A run on the whole training split, scored on the dev split; or, of an experiment that leaves that alone, by
        what is held out of the training split.
        """
        changes = [] if key is None else [override(key, value)]
        changes += [] if self.measured_share is None else self._held_out(self.measured_share)
        place = Path("runs", self.task.name, self.variant.slug, f"seed-{seed}")
        return self._job(output, place, [*changes, *more], seed)

    @cached_property
    def _text(self) -> str:
        return dump_recipe(self.recipe)

    def _job(self, output: Path, place: Path, changes: Sequence[str], seed: int) -> Job:
        recipe = parse_recipe(self._text, overrides=[*changes, override("train.seed", seed)])
        return Job(str(place), output / place, with_ranks(recipe))

    def earlier_ranks(self, output: Path) -> dict[str, int] | None:
        """The ranks of any run of the cell that is there, by projection; None where there is none, or of other ones."""
        for stage in ("tuning", "runs"):
            for path in sorted((output / stage / self.task.name / self.variant.slug).rglob("recipe.yaml")):
                if not path.stat().st_size:  # of a run that was killed before it began
                    continue
                ranks = getattr(load_recipe(path).method, "ranks", None)
                return ranks if ranks is not None and set(ranks) == set(self.costs) else None
        return None

    def as_begun(self, output: Path) -> Cell:
        """The cell whose runs on a part of the training split have the scale of numbers that such runs of its task have
        which are there: older ones counted what is held out too.
        """
        if _SCALE_ITS_OWN not in self.in_tuning:
            return self
        for stage in ("tuning", "runs"):
            for path in sorted((output / stage / self.task.name).rglob("recipe.yaml")):
                before = load_recipe(path) if path.stat().st_size else None  # an empty one was killed before it began
                if before is not None and before.eval.held_out is not None and before.data.scale is not None:
                    kept = override("data.scale", before.data.scale)
                    changes = (kept if change == _SCALE_ITS_OWN else change for change in self.in_tuning)
                    return replace(self, in_tuning=tuple(changes))
        return self

    def sized(self, target: float) -> list[str]:
        """The ranks by which it stores `target` parameters, as overrides."""
        if not self.costs:
            raise ExperimentError(
                f"{self.name}: the model's shapes are out of reach ({self.ahead.out_of_reach}), so no size can be "
                "matched; get the model, or set match: none"
            )
        return [override("method.ranks", ranks_of_size(self.costs, target))]


def cell_name(task: ComparedTask, variant: Variant) -> str:
    """What the cell of a variant on a task is called; no two share a name."""
    return f"{task.name} / {variant.name}"


def find_tasks(experiment: Experiment) -> list[tuple[str, Path]]:
    """Names and files of the recipes; two of one name are told apart by a number.

    Raises:
        ExperimentError: a recipe that is not there, or is named twice; all of them.
    """
    found: dict[str, Path] = {}
    problems: list[str] = []
    for given in experiment.tasks:
        path = Path(given)
        try:
            file = find_recipe(path)
        except RecipeError as error:
            problems += [f"tasks: {problem}" for problem in error.problems]
            continue
        if file.resolve() in {other.resolve() for other in found.values()}:
            problems.append(f"tasks: {given} is a recipe that another one of them names too; each counts once")
        plain = re.sub(r"[^A-Za-z0-9_.+-]+", "-", "-".join(path.with_suffix("").parts[-2:])).strip("-.")[:LONGEST]
        name, number = plain or "task", 1
        while name.casefold() in {other.casefold() for other in found}:
            number += 1
            name = f"{plain or 'task'}-x{number}"
        found[name] = file
    if problems:
        raise ExperimentError(problems)
    return list(found.items())


def make_cells(experiment: Experiment, plan: Design, warm: Warm) -> list[Cell]:
    """Every variant on every task, checked as a dry run checks a recipe.

    Args:
        warm: keeps what the cells of a task have in common.

    Raises:
        ExperimentError: every problem of the recipes, of data and of models, once.
    """
    problems: dict[str, str] = {}  # where each was met first
    recipes: list[tuple[str, Path, Variant, Recipe]] = []
    for name, file in find_tasks(experiment):
        for variant in plan.variants:
            changes = _changes(experiment, variant)
            try:
                recipe = load_recipe(file, changes)
                if variant.ranks_of is not None:
                    load_recipe(file, [*changes, *variant.rank_overrides("a run that is to be made")])
                if experiment.tune is not None:
                    for value in (experiment.tune.grid.low, experiment.tune.grid.high):
                        load_recipe(file, [*changes, override(experiment.tune.key, value)])
            except RecipeError as error:
                for said, where in _explained(error.problems, name, variant, experiment.tune):
                    problems.setdefault(said, where)
            else:
                recipes.append((name, file, variant, recipe))
    if problems:
        raise ExperimentError([f"{said}{where}" for said, where in problems.items()])
    return _checked(recipes, experiment, warm)


def _changes(experiment: Experiment, variant: Variant) -> list[str]:
    """What the experiment and one of its variants change in a recipe, as overrides."""
    shared = [override(key, value) for key, value in experiment.set.items()]
    return [*FIRST, *shared, *variant.overrides(), *LAST]


def inherited(experiment: Experiment, plan: Design) -> list[str]:
    """What entries keep of recipes that are of their method already: an entry of another method has its defaults."""
    found: list[str] = []
    for task, file in find_tasks(experiment):
        for entry, keys in experiment.methods.items():
            variants = [variant for variant in plan.variants if variant.entry == entry]
            kept = {variant.name: _kept_of(file, variant, experiment) for variant in variants}
            said = kept if len(set(kept.values())) > 1 else {entry: kept[variants[0].name]}
            found += [
                f"{name} keeps what the recipe of {task} says of {keys['method.name']}: {words}"
                for name, words in said.items()
                if words
            ]
    return found


def _kept_of(file: Path, variant: Variant, experiment: Experiment) -> str:
    """What a variant keeps of the method's section in `file`, such as ``rank=2, dropout=0.0``."""
    own = {**experiment.set, **variant.keys}
    if experiment.tune is not None:
        own[experiment.tune.key] = experiment.tune.grid.low
    kept = _kept(load_recipe(file, _changes(experiment, variant)).method, _keys_of_method(own))
    return ", ".join(f"{key}={spelled(value)}" for key, value in kept.items())


def _keys_of_method(keys: Mapping[str, Any]) -> dict[str, Any]:
    """The section that the keys of a method make by themselves."""
    made: dict[str, Any] = {}
    for key, value in keys.items():
        if key.startswith("method."):
            _, *above, last = key.split(".")
            node = made
            for part in above:
                node = node.setdefault(part, {})
            node[last] = deepcopy(value)
    return made


def _kept(section: Section, own: Mapping[str, Any]) -> dict[str, Any]:
    """The fewest keys that, beside its `own`, give a section its other values: none that these would fill in."""
    values = section.model_dump(mode="json")
    rest = {key: value for key, value in values.items() if key not in own}
    kept, before = rest, -1
    while len(kept) != before:  # whether a key is filled in may depend on which others are there
        before = len(kept)
        for key in list(kept):
            fewer = {other: value for other, value in kept.items() if other != key}
            made = type(section).model_validate({**own, **fewer}).model_dump(mode="json")
            if all(made[other] == value for other, value in rest.items()):
                kept = fewer
    return kept


def _explained(problems: Sequence[str], task: str, variant: Variant, tune: Tuning | None) -> Iterator[tuple[str, str]]:
    """Problems of a recipe, in which what the experiment changed stands as a flag, and where each was met."""
    for problem in problems:
        flag = problem.removeprefix("--set ")
        flag = _REPLACED.sub(r", or \1", flag)  # an entry replaces the section anyway
        key = flag.partition("=")[0]
        _, _, message = flag.partition(f": {key}: ")
        said = f"{key}: {message}" if message else flag
        if flag == problem:
            yield problem, ""
        elif tune is not None and key == tune.key:
            yield f"tune.{said}", f" (task {task}, {variant.name})"
        elif key in variant.keys:
            yield f"methods.{variant.entry}.{said}", f" (task {task})"
        else:
            yield f"set.{said}", f" (task {task}, {variant.name})"


def _checked(recipes: Sequence[tuple[str, Path, Variant, Recipe]], experiment: Experiment, warm: Warm) -> list[Cell]:
    """The cells of recipes that are well-formed, each looked at as a dry run does."""
    settled: dict[str, tuple[Recipe, Task]] = {}
    found: list[Cell] = []
    problems: dict[tuple[str, str], str] = {}
    for name, file, variant, recipe in recipes:
        try:
            key = f"{name} {recipe.data.model_dump_json()}"
            if key not in settled:  # data of one's own are looked at once
                settled[key] = resolve(recipe)
            told = recipe.model_copy(update={"data": settled[key][0].data})
            cell = _cell(name, file, variant, told, experiment, warm)
            if recipe.data.scale is None and cell.recipe.data.scale is not None:
                cell = replace(cell, in_tuning=(*cell.in_tuning, _SCALE_ITS_OWN))
            found.append(cell)
        except DoraError as error:
            for problem in error.problems if isinstance(error, RecipeError) else (str(error),):
                problems.setdefault((name, problem), f"{name} / {variant.name}: {problem}")
    devices = dict.fromkeys(cell.recipe.train.device for cell in found)
    if len(devices) > 1:
        problems["", "train.device"] = (
            f"the recipes compute on {' and '.join(devices)}; all runs of an experiment need one device: "
            "set: {train.device: ...}"
        )
    if problems:
        raise ExperimentError(list(problems.values()))
    return found


def _cell(name: str, file: Path, variant: Variant, recipe: Recipe, experiment: Experiment, warm: Warm) -> Cell:
    recipe, task = resolve(recipe)
    recipe = anchored(recipe)
    if recipe.train.threads == "auto":  # else digits would depend on how many runs are made at once
        recipe = parse_recipe(dump_recipe(recipe), overrides=["train.threads=1"])
    metric = selecting_metric(recipe, task)
    compared = ComparedTask(name, file, task, metric, task.lower_is_better(metric))
    ahead = dry_run(recipe, warm=warm)
    costs: dict[str, int] = {}
    if ahead.parameters is not None and variant.can_be_sized:
        projections = find_projections(warm.shapes(recipe, task), targets_of(recipe))
        costs = {projection.name: sum(projection.shape) for projection in projections}
    # what a finished run writes, nothing is chosen by: by loss, or by what is written greedily after an epoch
    in_tuning = () if recipe.decode is None else ("decode.split=none",)
    return Cell(compared, variant, recipe, ahead, costs, in_tuning, experiment.measured_share)
