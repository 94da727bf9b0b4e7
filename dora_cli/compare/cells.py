"""One variant on one task: its recipe, what is known of it before anything is trained, and the runs it is made of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dora_cli.assembly.build import base_from_config, targets_of
from dora_cli.assembly.dry_run import DryRun, dry_run
from dora_cli.assembly.resolve import resolve, selecting_metric, with_ranks
from dora_cli.compare.experiment import Experiment
from dora_cli.compare.jobs import Job
from dora_cli.compare.sizes import ranks_of_size
from dora_cli.compare.variants import Design, Variant, override
from dora_cli.errors import ExperimentError, RecipeError
from dora_cli.models import find_projections
from dora_cli.recipe import Recipe, dump_recipe, load_recipe, parse_recipe
from dora_cli.recipe.anchor import anchored
from dora_cli.recipe.shipped_recipes import find_recipe
from dora_cli.tasks import Task

FIRST = ("eval.every=end",)
"""What the recipes of an experiment have unless they or the experiment say otherwise: the dev split is read once."""
LAST = ("eval.select=last",)
"""What they have in any case: an epoch that the dev split has chosen is no result."""


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
    """

    task: ComparedTask
    variant: Variant
    recipe: Recipe
    ahead: DryRun
    costs: Mapping[str, int]

    @property
    def name(self) -> str:
        """Such as ``glue-rte / lora rank=2``."""
        return f"{self.task.name} / {self.variant.name}"

    @property
    def planned(self) -> int | None:
        """Parameters that its adapter is going to store, where that is known before any run."""
        return None if self.ahead.parameters is None else self.ahead.parameters["final"]

    def tuning_job(
        self, output: Path, key: str, value: float, seed: int, held_out: float, more: Sequence[str] = ()
    ) -> Job:
        """A run that scores `value` on the held-out part of the training split."""
        changes = [override(key, value), override("eval.held_out", held_out), "eval.every=end"]
        metric = self.recipe.eval.metric
        if metric is not None and metric not in self.task.task.held_out_metrics:
            changes.append(override("eval.metric", None))  # of one of several dev splits
        place = Path("tuning", self.task.name, self.variant.slug, f"{value:g}", f"seed-{seed}")
        return self._job(output, place, [*changes, *more], seed)

    def measuring_job(self, output: Path, key: str | None, value: float | None, seed: int, more: Sequence[str]) -> Job:
        """A run on the whole training split, scored on the dev split."""
        changes = [] if key is None else [override(key, value)]
        place = Path("runs", self.task.name, self.variant.slug, f"seed-{seed}")
        return self._job(output, place, [*changes, *more], seed)

    def _job(self, output: Path, place: Path, changes: Sequence[str], seed: int) -> Job:
        recipe = parse_recipe(dump_recipe(self.recipe), overrides=[*changes, override("train.seed", seed)])
        return Job(str(place), output / place, with_ranks(recipe))

    def sized(self, target: float) -> list[str]:
        """The ranks by which it stores `target` parameters, as overrides."""
        if not self.costs:
            raise ExperimentError(
                f"{self.name}: the model's shapes are out of reach ({self.ahead.out_of_reach}), so no size can be "
                "matched; get the model, or set match: none"
            )
        return [override("method.ranks", ranks_of_size(self.costs, target))]


def find_tasks(experiment: Experiment) -> list[tuple[str, Path]]:
    """Names and files of the recipes; two of one name are told apart by a number."""
    found: list[tuple[str, Path]] = []
    for given in experiment.tasks:
        path = Path(given)
        name = re.sub(r"[^A-Za-z0-9_.+-]+", "-", "-".join(path.with_suffix("").parts[-2:])).strip("-") or "task"
        same = sum(other == name or other.startswith(f"{name}-x") for other, _ in found)
        found.append((f"{name}-x{same + 1}" if same else name, find_recipe(path)))
    return found


def make_cells(experiment: Experiment, plan: Design) -> list[Cell]:
    """Every variant on every task, checked as a dry run checks a recipe.

    Raises:
        ExperimentError: every problem of the recipes, once.
        DoraError: data or model cannot be used.
    """
    tasks, problems = find_tasks(experiment), list[str]()
    recipes: list[tuple[str, Path, Variant, Recipe]] = []
    for name, file in tasks:
        for variant in plan.variants:
            shared = [override(key, value) for key, value in experiment.set.items()]
            try:
                recipe = load_recipe(file, [*FIRST, *shared, *variant.overrides(), *LAST])
            except RecipeError as error:
                problems += _explained(error.problems, name, variant)
            else:
                recipes.append((name, file, variant, recipe))
    if problems:
        raise ExperimentError(list(dict.fromkeys(problems)))
    return list(_checked(recipes))


def _explained(problems: Sequence[str], task: str, variant: Variant) -> Iterator[str]:
    """Problems of a recipe, in which what the experiment changed stands as a flag."""
    for problem in problems:
        key = problem.removeprefix("--set ").partition("=")[0]
        if not problem.startswith("--set "):
            yield problem
        elif key in variant.keys:
            yield f"methods.{variant.entry}: {problem.removeprefix('--set ')} (task {task})"
        else:
            yield f"set: {problem.removeprefix('--set ')} (task {task})"


def _checked(recipes: Sequence[tuple[str, Path, Variant, Recipe]]) -> Iterator[Cell]:
    settled: dict[str, tuple[Recipe, Task]] = {}
    for name, file, variant, recipe in recipes:
        key = f"{name} {recipe.data.model_dump_json()}"
        if key not in settled:  # data of one's own are looked at once
            settled[key] = resolve(recipe)
        known, _ = settled[key]
        recipe, task = resolve(recipe.model_copy(update={"data": known.data}))
        recipe = anchored(recipe)
        if recipe.train.threads == "auto":  # else digits would depend on how many runs are made at once
            recipe = parse_recipe(dump_recipe(recipe), overrides=["train.threads=1"])
        metric = selecting_metric(recipe, task)
        compared = ComparedTask(name, file, task, metric, task.lower_is_better(metric))
        ahead = dry_run(recipe)
        costs: dict[str, int] = {}
        if ahead.parameters is not None and variant.can_be_sized:
            projections = find_projections(base_from_config(recipe, task), targets_of(recipe))
            costs = {projection.name: sum(projection.shape) for projection in projections}
        yield Cell(compared, variant, recipe, ahead, costs)
