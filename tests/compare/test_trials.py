"""What a plan's checks and trials share, and how the time of runs is made of few trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dora_cli.assembly import dry_run as ahead
from dora_cli.assembly import warm as shared
from dora_cli.assembly.data import load_data
from dora_cli.assembly.dry_run import dry_run
from dora_cli.assembly.resolve import resolve
from dora_cli.compare import trials
from dora_cli.compare.plan import Plan, forecast
from dora_cli.compare.trials import FEWEST_STEPS, TRIAL_EXAMPLES, TRIAL_STEPS, Parts
from dora_cli.errors import DataError
from dora_cli.evaluation.measuring import DECODING
from dora_cli.recipe import Recipe
from dora_cli.runs.run_folder import RunRecords
from dora_cli.training.run import train
from tests.compare.fakes import Trainer, costs_of, plan_of, recipe_file


@pytest.fixture
def plan(tmp_path: Path, tiny_model: Path) -> Plan:
    """Three methods on two tasks of 24 steps, one of which evaluates 40 examples and the other 80."""
    first = recipe_file(tmp_path, tiny_model)
    other = tmp_path / "other.yaml"
    other.write_text(first.read_text().replace("max_eval_samples: 40", "max_eval_samples: 80"))
    return plan_of(
        tmp_path,
        f"tasks: [{first}, {other}]\nmethods:\n  lora: {{method.name: lora, method.rank: [1, 2]}}\n"
        "  full: {method.name: full}\n  bitfit: {method.name: bitfit}\nbaseline: lora\nmatch: none\n",
    )


class Timed:
    """Stands for training, whose steps take the seconds that `seconds` gives by task and method, and what is written at
    the end eight times as long.
    """

    def __init__(self, plan: Plan, seconds: Callable[[str, str], float]) -> None:
        self.trainer = Trainer(lambda recipe: 0.5, {name: 1 for cell in plan.cells for name in cell.costs})
        self.limits = {cell.recipe.data.max_eval_samples: cell.task.name for cell in plan.cells}
        self.seconds = seconds
        self.began: list[tuple[str, str]] = []
        self.trained: list[tuple[str, str, int]] = []
        self.task = ""

    def __call__(self, recipe: Recipe, folder: Path, *, listener: Any, **options: object) -> None:
        method, steps = recipe.method.name, recipe.train.max_steps
        if steps is None:  # a whole one, which is to begin and no more; a short one is of the same task
            self.task = self.limits[recipe.data.max_eval_samples]
            self.began.append((self.task, method))
        listener.start(None)
        assert steps is not None, "it was stopped"
        assert recipe.data.max_eval_samples == TRIAL_EXAMPLES
        self.trained.append((self.task, method, steps))
        self.trainer(recipe, folder)
        records = RunRecords(folder)
        record = records.read_metrics()
        seconds = self.seconds(self.task, method)
        timing = {**record["timing"], "train_seconds": seconds * steps, "decoding_seconds": 8 * seconds}
        records.write_metrics({**record, "timing": timing})


def seconds(task: str, method: str) -> float:
    """The second task takes a quarter of the first."""
    return {"lora": 8.0, "full": 12.0, "bitfit": 4.0}[method] / (4 if task.endswith("other") else 1)


def test_the_baseline_is_timed_on_every_task_and_every_method_on_the_quickest(plan: Plan) -> None:
    small, other = (task for task in dict.fromkeys(cell.task.name for cell in plan.cells))
    timed = Timed(plan, seconds)
    found = forecast(plan, timed)
    assert [task_and_method for *task_and_method, _ in timed.trained] == [
        [small, "lora"], [other, "lora"], [other, "full"], [other, "bitfit"],
    ]  # fmt: skip
    assert Counter(timed.began) == Counter(
        (task, name) for task in (small, other) for name in ("lora", "full", "bitfit")
    )
    evaluated = {small: 40 / TRIAL_EXAMPLES, other: 80 / TRIAL_EXAMPLES}
    for cell in plan.cells:
        once = seconds(cell.task.name, cell.variant.method)
        expected = once * 24 + once * 8 * evaluated[cell.task.name]
        assert found.seconds[cell.name] == pytest.approx(expected, abs=0.2), cell.name
    assert found.made_of == (
        f"{FEWEST_STEPS} trial steps of lora on every task and of every method on {other}; the others in proportion"
    )


def test_steps_that_take_no_time_are_timed_in_a_longer_trial(plan: Plan) -> None:
    timed = Timed(plan, lambda task, method: 0.001)
    found = forecast(plan, timed)
    assert [steps for *_, steps in timed.trained] == 4 * [FEWEST_STEPS, TRIAL_STEPS]
    assert found.made_of.startswith(f"{TRIAL_STEPS} trial steps of ")


def test_a_longer_trial_is_no_longer_than_it_takes(plan: Plan) -> None:
    """Steps of 0.3 s: one after the first is too little, four are about a second."""
    timed = Timed(plan, lambda task, method: 0.3)
    forecast(plan, timed)
    assert [steps for *_, steps in timed.trained] == 4 * [FEWEST_STEPS, 5]


def test_a_run_that_is_not_timed_has_to_begin_all_the_same(plan: Plan) -> None:
    timed = Timed(plan, seconds)

    def broken(recipe: Recipe, folder: Path, **options: Any) -> None:
        if recipe.method.name == "full" and recipe.data.max_eval_samples == 40:
            raise DataError("it does not begin")
        timed(recipe, folder, **options)

    with pytest.raises(DataError, match="it does not begin"):
        forecast(plan, broken)
    assert len(timed.trained) == 4, "all of which were good"


def test_what_is_timed_is_a_run(plan: Plan) -> None:
    found = forecast(plan, train)
    assert found.made_of.startswith(f"{TRIAL_STEPS} trial steps of lora on every task and of every method on ")
    assert all(0 < taken < 60 for taken in found.seconds.values())
    assert found.total == pytest.approx(sum(10 * taken for taken in found.seconds.values()))


def test_steps_and_evaluation_are_taken_in_proportion() -> None:
    task, other, base = Parts(1.0, 3.0, 10.0), Parts(1.0, 1.0, 4.0), Parts(9.0, 0.5, 2.0)
    assert task.like(other, base, once=7.0) == Parts(7.0, 6.0, 20.0)
    assert task.like(other, Parts(9.0, 0.5, 0.0), once=7.0) == Parts(7.0, 6.0, 10.0), "where nothing is evaluated"
    assert Parts(7.0, 6.0, 20.0).whole(10) == 87.0


def test_methods_of_a_task_share_its_data_and_the_models_shapes(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()

    def counted(module: Any, name: str) -> None:
        known = getattr(module, name)

        def call(*arguments: Any, **options: Any) -> Any:
            calls[f"{module.__name__.rpartition('.')[2]}.{name}"] += 1
            return known(*arguments, **options)

        monkeypatch.setattr(module, name, call)

    for module, name in ((shared, "load_data"), (shared, "base_from_config"), (ahead, "base_from_config")):
        counted(module, name)
    again = Plan.of(plan.file)
    # a task's data once; a model's shapes once for both, and once for each that `full` and `bitfit` train
    assert calls == {"warm.load_data": 2, "warm.base_from_config": 1, "dry_run.base_from_config": 4}
    monkeypatch.undo()
    for cell in again.cells:
        assert cell.ahead == dry_run(cell.recipe), "what it says by itself"


def test_what_is_written_greedily_is_no_more_for_more_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sources are written about in a trial and in a run, whose examples are more."""
    generation = tmp_path / "e2e.yaml"
    generation.write_text(
        'task: e2e\nmodel: {name: "builtin:tiny-decoder"}\ndata: {source: builtin, max_train_samples: 48}\n'
        "decode: {epoch_samples: 2, split: none}\ntrain: {max_steps: 2, batch_size: 16, device: cpu}\n"
    )
    entries = "{lora: {method.name: lora}, dora: {method.name: lora, method.rank: 4}}"
    plan = plan_of(tmp_path, f"tasks: [{generation}]\nmethods: {entries}\nbaseline: lora\n")
    clock = Clock()
    monkeypatch.setattr(trials, "time", clock)
    examples: dict[int | None, int] = {}

    def train(recipe: Recipe, folder: Path, *, listener: Any, **options: object) -> None:
        steps = recipe.train.max_steps
        listener.start(None)
        for _ in range(steps or 0):
            clock.now += 0.5
            listener.logged(None)
        clock.now += 1.0
        listener.evaluating("validation", 1, 1)
        clock.now += 8.0
        listener.evaluating(f"validation{DECODING}", 1, 1)
        listener.evaluated(None)
        Trainer(lambda recipe: 0.5, costs_of(plan), metric="loss")(recipe, folder)
        examples[recipe.data.max_eval_samples] = len(load_data(*resolve(recipe)).evaluated["validation"])

    found = forecast(plan, train)
    assert list(examples) == [TRIAL_EXAMPLES]
    whole = len(load_data(*resolve(plan.cells[0].recipe)).evaluated["validation"])
    share = whole / examples[TRIAL_EXAMPLES]
    assert share > 1.5
    (evaluation,) = {taken - 0.5 * 2 - (10.0 - 1.0) for taken in found.seconds.values()}
    assert evaluation == pytest.approx(share * 1.0 + 8.0)


class Clock:
    """Goes on where it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now
