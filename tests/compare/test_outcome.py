"""comparison.json against the same numbers worked out by scipy."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
from scipy import stats

from dora_cli.compare.courses import CellResult
from dora_cli.compare.outcome import comparison_record
from dora_cli.compare.plan import Plan
from dora_cli.compare.statistics import pilot_spread, reach
from dora_cli.errors import StoppedError
from dora_cli.recipe import Recipe
from dora_cli.runs.run_folder import RunRecords
from tests.compare.fakes import CONSTANT, FakePool, Trainer, conduct, costs_of, plan_of, recipe_file

SEEDS = 4
GAIN = {"lora": 0.0, "dora": 0.01, "head": -0.05}


def truth(recipe: Recipe) -> float:
    """By task, method and seed; the seed's part is the same for all methods. The best rate is the middle one."""
    task, seed, method = recipe.data.max_length, recipe.train.seed, recipe.method.name
    noise = np.random.default_rng([task, seed]).normal(0, 0.02)
    own = np.random.default_rng([task, seed, len(method), ord(method[0])]).normal(0, 0.01)
    worse = 0.05 * abs(math.log10(recipe.train.learning_rate / 1e-2))
    return 0.8 + GAIN[method] * (1 + task / 64) + float(noise + own) - worse


def planned(folder: Path, model: Path, *, tasks: int = 2, more: str = "", tail: str = "") -> Plan:
    files = [recipe_file(folder, model, "ab"[place], max_length=16 * (1 + place)) for place in range(tasks)]
    for file in files:
        file.write_text(file.read_text() + tail)
    return plan_of(
        folder,
        f"tasks: [{', '.join(map(str, files))}]\nbaseline: lora\nseeds: {SEEDS}\n"
        "methods: {lora: {method.name: lora}, dora: {method.name: dora}, head: {method.name: head}}\n"
        "tune: {train.learning_rate: {from: 1.0e-3, to: 1.0e-1, points: 3}}\n" + more,
    )


def recorded(
    plan: Plan, output: Path, truth: Callable[[Recipe], float | None] = truth, **options: object
) -> dict[str, Any]:
    train = Trainer(truth, costs_of(plan), **options)  # type: ignore[arg-type]
    found = conduct(plan, output, FakePool(train, 4))
    results = {cell.name: found[cell.name] for cell in plan.cells}
    return written(plan, results, output)


def written(plan: Plan, results: Mapping[str, CellResult], output: Path) -> dict[str, Any]:
    """The record as it is read back from its file."""
    record = comparison_record(plan.experiment, plan.file, plan.design, plan.cells, results, output)
    RunRecords(output).write_comparison(record)
    return dict(RunRecords(output).read_comparison())


def scores(record: Mapping[str, Any], method: str) -> np.ndarray[Any, Any]:
    """Tasks by seeds."""
    cells = {cell["task"]: cell for cell in record["cells"] if cell["method"] == method}
    return np.array([[run["score"] for run in cells[task["name"]]["runs"]] for task in record["tasks"]])


def beside(record: Mapping[str, Any], method: str) -> Mapping[str, Any]:
    (found,) = (each for each in record["comparisons"] if each["method"] == method)
    return found


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """Straight from the definition."""
    found, worst = {}, 0.0
    for place, (name, p) in enumerate(sorted(values.items(), key=lambda item: item[1])):
        worst = max(worst, min(1.0, (len(values) - place) * p))
        found[name] = worst
    return found


@pytest.fixture(scope="module")
def of_two_tasks(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Any]:
    """The record of an experiment on two tasks."""
    folder = tmp_path_factory.mktemp("two-tasks")
    return recorded(planned(folder, tiny_model), folder / "out")


@pytest.fixture(scope="module")
def of_one_task(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Plan, Path, dict[str, Any]]:
    """An experiment on one task: its plan, folder and record."""
    folder = tmp_path_factory.mktemp("one-task")
    plan = planned(folder, tiny_model, tasks=1)
    return plan, folder / "out", recorded(plan, folder / "out")


def test_differences_and_tests_are_those_of_scipy(of_two_tasks: dict[str, Any]) -> None:
    record = of_two_tasks
    assert record["complete"]
    base = scores(record, "lora").mean(axis=0)
    p, p_equivalent, p_non_inferior = {}, {}, {}
    margin = record["margin"]
    for method in ("dora", "head"):
        found = beside(record, method)
        ours = scores(record, method).mean(axis=0)
        test = stats.ttest_rel(ours, base)
        interval = test.confidence_interval(0.95)
        assert found["differences"] == pytest.approx(ours - base)
        assert found["mean"] == pytest.approx(fmean(ours - base))
        assert found["sd"] == pytest.approx(stdev(ours - base))
        assert (found["p"], found["low"], found["high"]) == pytest.approx((test.pvalue, *interval))
        assert (found["of_seeds"], found["dropped"]) == (list(range(1, SEEDS + 1)), [])
        p[method] = test.pvalue
        p_non_inferior[method] = stats.ttest_1samp(ours - base, -margin, alternative="greater").pvalue
        p_equivalent[method] = max(
            p_non_inferior[method], stats.ttest_1samp(ours - base, margin, alternative="less").pvalue
        )
        for row, (one, other) in zip(
            found["by_task"], zip(scores(record, method), scores(record, "lora"), strict=True), strict=True
        ):
            assert row["p"] == pytest.approx(stats.ttest_rel(one, other).pvalue)
        by_task = holm({row["task"]: row["p"] for row in found["by_task"]})
        assert {row["task"]: row["p_holm"] for row in found["by_task"]} == pytest.approx(by_task)
    for key, values in (("p_holm", p), ("p_equivalent", p_equivalent), ("p_non_inferior", p_non_inferior)):
        assert {method: beside(record, method)[key] for method in p} == pytest.approx(holm(values))
    assert beside(record, "head")["verdict"] == "worse"
    assert len(record["notes"]) == 4  # of the head, of the margin, of what dora keeps of two recipes


def test_the_margin_is_the_pilots(of_two_tasks: dict[str, Any]) -> None:
    record = of_two_tasks
    groups: dict[str, list[list[float]]] = {task["name"]: [] for task in record["tasks"]}
    for cell in record["cells"]:
        assert cell["tuned"]["chosen"] == 1e-2
        groups[cell["task"]] += [tried["scores"] for tried in cell["tuned"]["tried"]]  # the best and both beside it
    spread = pilot_spread(groups)
    assert (record["margin"], record["margin_source"]) == (pytest.approx(spread.sd), "pilot")
    found = beside(record, "dora")
    planned_reach = reach(SEEDS, difference_sd=found["sd"], margin=spread.sd, comparisons=2)
    assert found["detectable"] == pytest.approx(planned_reach.detectable)
    assert found["power_equivalent"] == pytest.approx(planned_reach.power_of_equivalence)
    assert found["seeds_needed"] == planned_reach.seeds_needed
    assert record["power"]["detectable"] == pytest.approx(reach(SEEDS, comparisons=2).detectable)
    assert record["margin"] == pytest.approx(float(record["notes"][-1].split("tuning, ")[1].split(" ")[0]), rel=1e-3)


@pytest.mark.parametrize("seeds", [3, 4])
def test_a_value_beside_the_best_that_fails_now_and_then_is_no_spread(
    tmp_path: Path, tiny_model: Path, seeds: int
) -> None:
    """Three methods and four seeds have nine degrees of freedom at the chosen values alone, of three seeds six."""

    def failing(recipe: Recipe) -> float:
        rate, seed = recipe.train.learning_rate, recipe.train.seed
        return 0.9 + 0.001 * (seed % 5) if rate == 1e-2 else 0.8 - 0.2 * (seed % 2)

    plan = planned(tmp_path, tiny_model, tasks=1)
    text = plan.file.read_text()
    plan.file.write_text(text.replace("points: 3}", f"points: 3}}, seeds: {seeds}, keep: all"))
    record = recorded(Plan.of(plan.file), tmp_path / "out", failing)
    assert (record["margin"] < 0.01) == (seeds == 4)


@pytest.mark.parametrize(("said", "margin", "source"), [("0.5", 0.5, "given"), ("none", None, "none")])
def test_another_margin(tmp_path: Path, tiny_model: Path, said: str, margin: float | None, source: str) -> None:
    record = recorded(planned(tmp_path, tiny_model, tasks=1, more=f"margin: {said}\n"), tmp_path / "out")
    assert (record["margin"], record["margin_source"]) == (margin, source)
    found = beside(record, "dora")
    assert found["margin"] == margin
    assert (found["p_equivalent"] is None) == (margin is None)
    if margin is not None:
        assert found["verdict"] == "equivalent"


def test_a_pilot_without_spread_makes_no_margin(tmp_path: Path, tiny_model: Path) -> None:
    record = recorded(planned(tmp_path, tiny_model, tasks=1), tmp_path / "out", lambda recipe: 0.8)
    assert (record["margin"], record["margin_source"]) == (None, "none")
    assert any("no margin" in note for note in record["notes"])
    assert beside(record, "dora")["verdict"] == "withheld"


def test_of_a_loss_the_lower_is_the_better(tmp_path: Path, tiny_model: Path) -> None:
    plan = planned(tmp_path, tiny_model, tasks=1, tail="eval: {metric: loss}\n")
    record = recorded(plan, tmp_path / "out", lambda recipe: 1 - truth(recipe), metric="loss")
    assert record["tasks"][0]["lower_is_better"]
    found = beside(record, "head")
    assert found["verdict"] == "worse"
    assert found["mean"] == pytest.approx(float((scores(record, "lora") - scores(record, "head")).mean()))
    assert found["mean"] < 0
    assert {cell["tuned"]["chosen"] for cell in record["cells"]} == {1e-2}


def test_a_diverged_run_counts_as_one_that_says_the_same_of_every_example(tmp_path: Path, tiny_model: Path) -> None:
    def diverging(recipe: Recipe) -> float | None:
        return None if (recipe.method.name, recipe.train.seed) == ("dora", 2) else truth(recipe)

    record = recorded(planned(tmp_path, tiny_model, tasks=1), tmp_path / "out", diverging)
    (run,) = (run for cell in record["cells"] for run in cell["runs"] if run["outcome"] == "diverged")
    assert (run["score"], run["collapsed"], run["stored_parameters"]) == (CONSTANT, True, None)
    found = beside(record, "dora")
    assert found["differences"][1] == pytest.approx(CONSTANT - scores(record, "lora")[0][1])
    assert found["dropped"] == []
    (note,) = found["notes"]
    assert f"1 of {SEEDS} runs collapsed, 0 of {SEEDS} of the baseline" in note
    assert beside(record, "head")["notes"] == []


def test_runs_of_the_tuning_that_diverged_are_counted(tmp_path: Path, tiny_model: Path) -> None:
    def diverging(recipe: Recipe) -> float | None:
        lost = recipe.method.name == "dora" and recipe.eval.held_out and recipe.train.learning_rate == 1e-1
        return None if lost else truth(recipe)

    record = recorded(planned(tmp_path, tiny_model, tasks=1), tmp_path / "out", diverging)
    found = {cell["method"]: cell["tuned"]["tried"] for cell in record["cells"]}
    counts = {
        name: {one["value"]: one["diverged"] for one in tried if one["diverged"]} for name, tried in found.items()
    }
    (of_dora,) = (one for one in found["dora"] if one["value"] == 1e-1)
    assert counts == {"lora": {}, "dora": {1e-1: len(of_dora["scores"])}, "head": {}}
    assert None not in of_dora["scores"], "what stands for them hides how they ended"


def test_a_diverged_run_is_not_better_than_one_that_finished(tmp_path: Path, tiny_model: Path) -> None:
    """A task on which there is nothing to learn: every finished run is behind saying the same of every example."""

    def behind(recipe: Recipe) -> float | None:
        if (recipe.method.name, recipe.train.seed) == ("dora", 2):
            return None
        return truth(recipe) - 10

    record = recorded(planned(tmp_path, tiny_model, tasks=1), tmp_path / "out", behind)
    finished = [run["score"] for cell in record["cells"] for run in cell["runs"] if run["outcome"] == "finished"]
    assert max(finished) < CONSTANT
    assert scores(record, "dora")[0][1] == min(finished)


def test_where_nothing_is_known_of_that_a_diverged_run_is_the_worst_one(tmp_path: Path, tiny_model: Path) -> None:
    def diverging(recipe: Recipe) -> float | None:
        return None if (recipe.method.name, recipe.train.seed) == ("dora", 2) else truth(recipe)

    record = recorded(planned(tmp_path, tiny_model, tasks=1), tmp_path / "out", diverging, constant=None)
    worst = min(run["score"] for cell in record["cells"] for run in cell["runs"] if run["outcome"] == "finished")
    assert scores(record, "dora")[0][1] == worst
    assert beside(record, "dora")["seeds"] == SEEDS
    assert record["tasks"][0]["majority"] is None


def test_collapse_that_both_sides_share_is_no_note(tmp_path: Path, tiny_model: Path) -> None:
    def collapsing(recipe: Recipe) -> float:
        return CONSTANT if recipe.train.seed == 3 else truth(recipe)

    record = recorded(planned(tmp_path, tiny_model, tasks=1), tmp_path / "out", collapsing)
    assert [beside(record, method)["notes"] for method in ("dora", "head")] == [[], []]
    assert [run["collapsed"] for run in record["cells"][0]["runs"]] == [seed == 3 for seed in range(1, SEEDS + 1)]


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_means_over_units_that_differ(tmp_path: Path, tiny_model: Path, metric: str) -> None:
    """Another metric of the other task, as good or bad the other way or not."""
    plan = planned(tmp_path, tiny_model)
    other = Path(plan.experiment.tasks[1])
    other.write_text(other.read_text() + f"eval: {{metric: {metric}}}\n")
    plan = Plan.of(plan.file)

    class Both(Trainer):
        def record(self, recipe: Recipe, score: float, stored: int) -> dict[str, Any]:
            self.metric = recipe.eval.metric or "accuracy"
            return super().record(recipe, score, stored)

    found = conduct(plan, tmp_path / "out", FakePool(Both(truth, costs_of(plan))))
    results = {cell.name: found[cell.name] for cell in plan.cells}
    record = written(plan, results, tmp_path / "out")
    assert any("different units" in note for note in record["notes"]) == (metric == "loss")


def test_sizes(of_one_task: tuple[Plan, Path, dict[str, Any]], tmp_path: Path, tiny_model: Path) -> None:
    _, _, record = of_one_task
    stored = {cell["method"]: {run["stored_parameters"] for run in cell["runs"]} for cell in record["cells"]}
    (dora,), (lora,) = stored["dora"], stored["lora"]
    assert beside(record, "dora")["size_ratio"] == pytest.approx(dora / lora)
    assert beside(record, "dora")["notes"] == []
    assert beside(record, "head")["size_ratio"] == 0
    matched = {method["name"]: method["matched_to"] for method in record["methods"]}
    assert matched == {"dora": None, "lora": "dora", "head": None}
    unmatched = recorded(planned(tmp_path, tiny_model, tasks=1, more="match: none\n"), tmp_path / "free")
    (note,) = beside(unmatched, "dora")["notes"]
    assert f"{dora:,} parameters" in note


def test_a_grid_that_ends_too_early_is_a_note(tmp_path: Path, tiny_model: Path) -> None:
    plan = planned(tmp_path, tiny_model, tasks=1)
    text = plan.file.read_text().replace("points: 3}", "points: 3}, extend: 1")
    plan.file.write_text(text)
    plan = Plan.of(plan.file)
    record = recorded(plan, tmp_path / "out", lambda recipe: truth(recipe) + recipe.train.learning_rate)
    (note,) = (note for note in record["notes"] if "edge" in note and "head" in note.split(":")[0])
    assert "grew by 1 value" in note
    tuned = next(cell["tuned"] for cell in record["cells"] if cell["method"] == "head")
    assert (tuned["interior"], tuned["tried"][-1]["added"]) == (False, True)


def test_an_experiment_that_was_stopped_says_what_is_there(
    of_one_task: tuple[Plan, Path, dict[str, Any]], tmp_path: Path
) -> None:
    """A comparison that is done is tested as one of all that were declared."""
    plan, straight, whole = of_one_task
    output = shutil.copytree(straight, tmp_path / "out")
    found = conduct(plan, output, FakePool(Trainer(_never, costs_of(plan))))
    results = {cell.name: found[cell.name] for cell in plan.cells if cell.variant.name != "head"}
    record = written(plan, results, output)
    assert not record["complete"]
    assert [each["method"] for each in record["comparisons"]] == ["dora"]
    assert beside(record, "dora")["p_holm"] == pytest.approx(min(1.0, 2 * beside(whole, "dora")["p"]))


def _never(recipe: Recipe) -> float:
    raise StoppedError("no run is made again", 2)


def test_folders_are_named_relative_to_the_experiments(
    of_one_task: tuple[Plan, Path, dict[str, Any]], tmp_path: Path
) -> None:
    _, output, record = of_one_task
    shutil.copytree(output, tmp_path / "elsewhere")
    runs = [run["folder"] for cell in record["cells"] for run in cell["runs"]]
    runs += [run for cell in record["cells"] for tried in cell["tuned"]["tried"] for run in tried["runs"]]
    assert runs
    assert all((tmp_path / "elsewhere" / run / "metrics.json").is_file() for run in runs)


def test_ranks_of_another_seed_are_a_note(tmp_path: Path, tiny_model: Path) -> None:
    recipe = recipe_file(tmp_path, tiny_model)
    plan = plan_of(
        tmp_path,
        f"tasks: [{recipe}]\nbaseline: lora\nseeds: 3\nmethods: {{lora: {{method.name: lora}}, dora: {{method.name: "
        "dora}, same: {method.name: lora, ranks_from: {method: dora}}}\n",
    )

    def diverging(recipe: Recipe) -> float | None:
        return None if (recipe.method.name, recipe.train.seed) == ("dora", 2) else 0.8 + recipe.train.seed / 100

    record = recorded(plan, tmp_path / "out", diverging)
    (note,) = (note for note in record["notes"] if "same" in note)
    assert "seed 2 has the ranks of seed 1" in note


# -- pooled keys -------------------------------------------------------------------------------------------------------

GAINS = {
    ("a", 1): (0.02, 0.04, 0.00),
    ("a", 2): (0.00, 0.04, 0.08),
    ("b", 1): (0.03, 0.05, 0.02),
    ("b", 2): (-0.01, 0.03, 0.06),
}
"""By how much DoRA is better than LoRA: by task and rank, one a seed. The mean of each seed over the four: 0.01, 0.04,
0.04."""


def gaining(recipe: Recipe) -> float:
    task, rank, seed = {16: "a", 32: "b"}[recipe.data.max_length], recipe.method.rank, recipe.train.seed
    base = 0.6 + 0.1 * (task == "b") + 0.02 * rank + 0.003 * seed
    gain = GAINS[task, rank][seed - 1]
    if recipe.method.name == "dora":
        return base + gain
    return base if recipe.method.learning_rate_ratio == 1 else base - gain / 2


def sweeping(folder: Path, model: Path, more: str = "", methods: str = "", *, tail: str = "") -> Plan:
    """Two tasks, ``on-a`` and ``on-b``, two ranks, three seeds; nothing is tuned."""
    recipes = folder / "on"
    recipes.mkdir()
    files = [recipe_file(recipes, model, name, max_length=16 * (1 + place)) for place, name in enumerate("ab")]
    for file in files:
        file.write_text(file.read_text() + tail)
    return plan_of(
        folder,
        f"tasks: [{', '.join(map(str, files))}]\nbaseline: lora\nseeds: 3\n"
        "methods:\n  lora: {method.name: lora, method.rank: [1, 2]}\n"
        f"  dora: {{method.name: dora, method.rank: [1, 2]}}\n{methods}{more}",
    )


POOL = "pool: [method.rank]\n"


def emerging(costs: Mapping[str, int]) -> Callable[[Recipe], Mapping[str, int]]:
    """Every projection of DoRA ends with the target rank."""
    return lambda recipe: dict.fromkeys(costs, recipe.method.rank)


def test_a_pooled_comparison_is_the_mean_over_tasks_and_values_within_a_seed(tmp_path: Path, tiny_model: Path) -> None:
    """By hand: the mean of 0.01, 0.04, 0.04 is 0.03, their deviation sqrt(0.0003), its error 0.01, and t = 3, whose p
    with two degrees of freedom is 1 - 3 / sqrt(11); its 97.5 % point there is sqrt(2) 0.95 / sqrt(1 - 0.95^2).
    """
    record = recorded(sweeping(tmp_path, tiny_model, POOL + "match: none\nmargin: 0.5\n"), tmp_path / "out", gaining)
    (found,) = record["comparisons"]
    assert (record["pool"], record["power"]["comparisons"]) == (["method.rank"], 1)
    assert record["power"]["detectable"] == pytest.approx(reach(3).detectable)
    assert (found["method"], found["baseline"], found["seeds"]) == ("dora", "lora", 3)
    assert found["pairs"] == [{"method": f"dora rank={rank}", "baseline": f"lora rank={rank}"} for rank in (1, 2)]
    assert found["differences"] == pytest.approx([0.01, 0.04, 0.04])
    assert (found["mean"], found["sd"]) == pytest.approx((0.03, math.sqrt(0.0003)))
    half = 0.01 * math.sqrt(2) * 0.95 / math.sqrt(1 - 0.95**2)
    assert (found["low"], found["high"]) == pytest.approx((0.03 - half, 0.03 + half))
    p = 1 - 3 / math.sqrt(11)
    assert (found["p"], found["p_holm"]) == pytest.approx((p, p)), "there is one comparison"
    assert found["p_non_inferior"] == pytest.approx(stats.t.sf((0.03 + 0.5) / 0.01, 2))
    assert found["detectable"] == pytest.approx(reach(3, difference_sd=found["sd"], margin=0.5).detectable)
    assert [(one["task"], one["pooled"]) for one in found["by_task"]] == [
        (f"on-{task}", {"method.rank": rank}) for task, rank in GAINS
    ]
    alone = {place: stats.ttest_1samp(gains, 0.0).pvalue for place, gains in GAINS.items()}
    for one, (place, gains) in zip(found["by_task"], GAINS.items(), strict=True):
        assert (one["mean"], one["sd"], one["p"]) == pytest.approx((fmean(gains), stdev(gains), alone[place]))
    by_place = holm({f"on-{task} {rank}": p for (task, rank), p in alone.items()})
    assert {f"{one['task']} {one['pooled']['method.rank']}": one["p_holm"] for one in found["by_task"]} == (
        pytest.approx(by_place)
    )


def test_without_a_pool_each_value_is_compared_by_itself(tmp_path: Path, tiny_model: Path) -> None:
    record = recorded(sweeping(tmp_path, tiny_model, "match: none\n"), tmp_path / "out", gaining)
    assert (record["pool"], record["power"]["comparisons"]) == ([], 2)
    for found, rank in zip(record["comparisons"], (1, 2), strict=True):
        of_seeds = [fmean(pair) for pair in zip(GAINS["a", rank], GAINS["b", rank], strict=True)]
        assert (found["method"], found["baseline"]) == (f"dora rank={rank}", f"lora rank={rank}")
        assert found["pairs"] == [{"method": found["method"], "baseline": found["baseline"]}]
        assert found["differences"] == pytest.approx(of_seeds)
        assert [(one["task"], one["pooled"]) for one in found["by_task"]] == [("on-a", {}), ("on-b", {})]
    assert {found["method"]: found["p_holm"] for found in record["comparisons"]} == pytest.approx(
        holm({found["method"]: found["p"] for found in record["comparisons"]})
    )


def test_pooled_comparisons_are_counted_once_each(tmp_path: Path, tiny_model: Path) -> None:
    methods = "  plus: {method.name: lora, method.rank: [1, 2], method.learning_rate_ratio: 4}\n"
    record = recorded(sweeping(tmp_path, tiny_model, POOL + "match: none\n", methods), tmp_path / "out", gaining)
    assert record["power"]["comparisons"] == 2
    assert [found["method"] for found in record["comparisons"]] == ["dora", "plus"]
    p = 1 - 3 / math.sqrt(11)
    for found, mean in zip(record["comparisons"], (0.03, -0.015), strict=True):
        assert (found["mean"], found["p"], found["p_holm"]) == pytest.approx((mean, p, 2 * p))


def test_of_a_pooled_loss_the_lower_is_the_better(tmp_path: Path, tiny_model: Path) -> None:
    plan = sweeping(tmp_path, tiny_model, POOL + "match: none\n", tail="eval: {metric: loss}\n")
    record = recorded(plan, tmp_path / "out", lambda recipe: 2 - gaining(recipe), metric="loss")
    assert record["comparisons"][0]["differences"] == pytest.approx([0.01, 0.04, 0.04])


def test_every_pooled_baseline_has_its_own_methods_size(tmp_path: Path, tiny_model: Path) -> None:
    plan = sweeping(tmp_path, tiny_model, POOL)
    record = recorded(plan, tmp_path / "out", gaining, emerged=emerging(costs_of(plan)))
    assert {method["name"]: method["matched_to"] for method in record["methods"]} == {
        "dora rank=1": None, "lora rank=1": "dora rank=1", "dora rank=2": None, "lora rank=2": "dora rank=2",
    }  # fmt: skip
    one = sum(costs_of(plan).values())
    for cell in record["cells"]:
        assert {run["stored_parameters"] for run in cell["runs"]} == {int(cell["method"][-1]) * one}
    (found,) = record["comparisons"]
    assert (found["size_ratio"], found["notes"]) == (1.0, [])
    assert found["differences"] == pytest.approx([0.01, 0.04, 0.04])


def test_sizes_that_differ_are_said_of_each_place(tmp_path: Path, tiny_model: Path) -> None:
    """DoRA ends with two components a projection at either rank."""
    plan = sweeping(tmp_path, tiny_model, POOL + "match: none\n")
    costs = costs_of(plan)
    record = recorded(plan, tmp_path / "out", gaining, emerged=lambda recipe: dict.fromkeys(costs, 2))
    (found,) = record["comparisons"]
    one = sum(costs.values())
    assert found["size_ratio"] == pytest.approx(2 / 1.5)
    assert found["notes"] == [
        f"On on-{task}, rank=1: it stores {2 * one:,} parameters, its baseline {one:,}." for task in "ab"
    ]


def test_what_collapsed_is_said_of_its_place(tmp_path: Path, tiny_model: Path) -> None:
    plan = sweeping(tmp_path, tiny_model, POOL)

    def collapsing(recipe: Recipe) -> float:
        where = (recipe.method.name, recipe.method.rank, recipe.data.max_length, recipe.train.seed)
        return CONSTANT if where == ("dora", 2, 32, 3) else gaining(recipe)

    record = recorded(plan, tmp_path / "out", collapsing, emerged=emerging(costs_of(plan)))
    (note,) = record["comparisons"][0]["notes"]
    assert note.startswith("On on-b, rank=2: 1 of 3 runs collapsed, 0 of 3 of the baseline")


def test_a_seed_without_a_score_at_one_value_is_left_out_everywhere(tmp_path: Path, tiny_model: Path) -> None:
    plan = sweeping(tmp_path, tiny_model, POOL + "match: none\n")
    train = Trainer(gaining, costs_of(plan), emerged=emerging(costs_of(plan)))
    done = dict(conduct(plan, tmp_path / "out", FakePool(train, 4)))
    for name in ("on-a / lora rank=2", "on-b / dora rank=1"):
        done[name] = CellResult(done[name].cell, done[name].choice, done[name].scores[:2])
    record = written(plan, done, tmp_path / "out")
    (found,) = record["comparisons"]
    assert (found["seeds"], found["of_seeds"], found["dropped"]) == (2, [1, 2], [3])
    assert found["differences"] == pytest.approx([0.01, 0.04])
    assert [one["seeds"] for one in found["by_task"]] == [2] * 4
    assert "seed 3 is left out: it has no score on on-a, rank=2; on-b, rank=1" in found["notes"]


def test_a_pooled_comparison_waits_for_every_value(tmp_path: Path, tiny_model: Path) -> None:
    plan = sweeping(tmp_path, tiny_model, POOL + "match: none\n")
    done = dict(conduct(plan, tmp_path / "out", FakePool(Trainer(gaining, costs_of(plan)), 4)))
    results = {cell.name: done[cell.name] for cell in plan.cells if cell.name != "on-b / lora rank=2"}
    assert len(results) == len(plan.cells) - 1
    record = written(plan, results, tmp_path / "out")
    assert (record["comparisons"], record["complete"], record["power"]["comparisons"]) == ([], False, 1)
