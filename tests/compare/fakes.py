"""What stands for training and for worker processes: run folders with the scores that a formula gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dora_cli.atomic import write_text
from dora_cli.compare.cells import Cell
from dora_cli.compare.conductor import Conductor
from dora_cli.compare.courses import CellResult, course
from dora_cli.compare.jobs import Ended, Job, run_job
from dora_cli.compare.plan import Plan
from dora_cli.errors import DivergedError
from dora_cli.recipe import Recipe, dump_recipe
from dora_cli.runs.records.metrics import metrics_record
from dora_cli.runs.records.ranks import ranks_record
from dora_cli.runs.run_folder import RunRecords
from tests.reports.examples import FakeAllocation, FakeProjection

Truth = Callable[[Recipe], float | None]
"""What a run scores; None where it diverges."""
CONSTANT = 0.5
EMERGED = {"query": 3, "key": 1, "value": 2, "dense": 2}
"""Ranks that a run of DoRA ends with, by the last part of a projection's name."""


def recipe_file(folder: Path, model: Path, name: str = "small", **data: object) -> Path:
    """A recipe of 24 steps."""
    file = folder / f"{name}.yaml"
    more = "".join(f", {key}: {value}" for key, value in data.items())
    file.write_text(
        f"task: glue/sst2\nmodel: {{name: {model}}}\n"
        f"data: {{source: builtin, max_train_samples: 94, max_eval_samples: 40{more}}}\n"
        "method: {name: dora, rank: 2, prune_interval: 3, dropout: 0.0}\n"
        "train: {epochs: 4, batch_size: 16, learning_rate: 5.0e-3, log_every: 5, device: cpu}\n"
    )
    return file


def plan_of(folder: Path, text: str) -> Plan:
    """The plan of an experiment file."""
    file = folder / "experiment.yaml"
    file.write_text(text)
    return Plan.of(file)


class Trainer:
    """Stands for `dora_cli.training.run.train`; `truth` may also raise what ends a run.

    Args:
        costs: parameters of one component by projection.
        constant: the score of a model that says the same of every example; None where the task knows none.
        emerged: ranks of a run of DoRA; `EMERGED` by default.
    """

    def __init__(
        self,
        truth: Truth,
        costs: Mapping[str, int],
        *,
        constant: float | None = CONSTANT,
        metric: str = "accuracy",
        emerged: Callable[[Recipe], Mapping[str, int]] | None = None,
    ) -> None:
        self.truth, self.costs, self.constant, self.metric = truth, dict(costs), constant, metric
        self.emerged = emerged or (lambda recipe: {name: EMERGED[name.rpartition(".")[2]] for name in self.costs})
        self.trained: list[Path] = []

    def __call__(self, recipe: Recipe, folder: Path, **options: object) -> None:
        self.trained.append(folder)
        records = RunRecords(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(records.recipe, dump_recipe(recipe))
        score = self.truth(recipe)
        if score is None:
            raise DivergedError("the loss is not finite")
        ranks = self.ranks(recipe)
        write_ranks(records, ranks)
        records.write_metrics(self.record(recipe, score, sum(self.costs[name] * rank for name, rank in ranks.items())))

    def ranks(self, recipe: Recipe) -> Mapping[str, int]:
        method = recipe.method
        if not hasattr(method, "rank"):
            return {}
        if method.name == "dora":
            return self.emerged(recipe)
        return method.ranks or dict.fromkeys(self.costs, method.rank)

    def record(self, recipe: Recipe, score: float, stored: int) -> dict[str, Any]:
        metrics = {self.metric: score}
        baseline = None
        if self.constant is not None:
            beaten = score < self.constant if self.metric == "loss" else score > self.constant
            baseline = {"metrics": {self.metric: self.constant}, "metric": self.metric, "beaten": beaten}
        return metrics_record(
            task=recipe.task,
            model=recipe.model.name,
            method=recipe.method.name,
            seed=recipe.train.seed,
            metrics=metrics,
            last=metrics,
            best_epoch=1,
            selection="last",
            epochs=[{"epoch": 1, "step": 24, "phase": "final", "train_loss": 0.1, "metrics": metrics}],
            budget={
                "start_components": 1,
                "final_components": 1,
                "live_components": 1,
                "trainable_parameters_start": stored,
                "trainable_parameters_final": stored,
                "adapter_parameters_final": stored,
                "adapter_bytes": 4 * stored,
            },
            timing={
                "train_seconds": 1.0,
                "samples_per_second": 1.0,
                "steps_per_second": 1.0,
                "peak_memory_bytes": 1,
            },
            baseline=baseline,
        )


def write_ranks(records: RunRecords, ranks: Mapping[str, int]) -> None:
    names = list(ranks)
    records.write_ranks(
        ranks_record(
            [FakeProjection(name, "encoder", 0, None, name.rpartition(".")[2], "ffn") for name in names],
            [FakeAllocation(name, (16, 16), max(ranks[name], 1), ranks[name]) for name in names],
            unit="component",
            start_rank=None,
            target_rank=None,
            live_components=sum(ranks.values()),
            phases=[("final", 1, 24)],
            history=[],
        )
    )


class FakePool:
    """Makes runs in this process: one ends at each `wait`, the first that was started or the last one."""

    def __init__(self, train: Callable[..., object], size: int = 2, *, last_first: bool = False) -> None:
        self._train, self._size, self._last_first = train, size, last_first
        self._running: list[Job] = []
        self.submitted: list[str] = []
        self.most = 0

    @property
    def free(self) -> int:
        return self._size - len(self._running)

    def submit(self, job: Job) -> None:
        assert self.free > 0
        self.submitted.append(job.name)
        self._running.append(job)
        self.most = max(self.most, len(self._running))

    def wait(self) -> list[tuple[Job, Ended]]:
        assert self._running, "nobody waits for nothing"
        job = self._running.pop(-1 if self._last_first else 0)
        return [(job, run_job(job, self._train))]

    def close(self) -> None:
        self._running.clear()


class Told:
    """A `Progress` that remembers."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, str]] = []
        self.began: list[str] = []
        self.ended: list[tuple[str, str, float | None]] = []
        self.found = 0
        self.totals: list[int] = []
        self.notes: list[str] = []

    def planned(self, total_runs: int, note: str) -> None:
        self.totals.append(total_runs)

    def stage(self, cell_name: str, what: str) -> None:
        self.stages.append((cell_name, what))

    def started(self, run_name: str) -> None:
        self.began.append(run_name)

    def finished(self, run_name: str, outcome: str, score: float | None, seconds: float) -> None:
        self.ended.append((run_name, outcome, score))

    def kept(self, runs: int) -> None:
        self.found += runs

    def total(self, runs: int) -> None:
        self.totals.append(runs)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def close(self) -> None:
        pass


def costs_of(plan: Plan) -> Mapping[str, int]:
    """The plan's model."""
    return next(cell.costs for cell in plan.cells if cell.costs)


def conduct(plan: Plan, output: Path, pool: FakePool, told: Told | None = None) -> Mapping[str, CellResult]:
    """Makes the experiment by the pool; results by variant and, where there are several tasks, by the cell's name."""

    def begin(cell: Cell, done: Mapping[str, CellResult]) -> Any:
        return course(cell, plan.experiment, output, done)

    conductor = Conductor(
        plan.cells, begin, pool, told or Told(), expected=plan.runs_of, how_to_resume="call it again"
    )  # fmt: skip
    found = conductor.run()
    return {**found, **{result.cell.variant.name: result for result in found.values()}}
