"""What is tried, what is chosen and what is measured, by runs whose scores are a formula."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from dora_cli.compare.courses import CellResult
from dora_cli.compare.experiment import FIRST_TUNING_SEED
from dora_cli.compare.plan import Plan
from dora_cli.errors import DivergedError
from dora_cli.recipe import Recipe
from tests.compare.fakes import CONSTANT, EMERGED, FakePool, Told, Trainer, conduct, costs_of, plan_of, recipe_file

TUNE = "{{train.learning_rate: {{from: 1.0e-4, to: {to}, points: {points}}}, seeds: {seeds}{more}}}"
FIRST, SECOND, THIRD = (FIRST_TUNING_SEED + index for index in range(3))


@pytest.fixture
def make_plan(tmp_path: Path, tiny_model: Path) -> Callable[..., Plan]:
    """A plan of two methods without matching, or of others; rates 1e-4, 1e-3, 1e-2, ..."""

    def make(*, points: int = 5, seeds: int = 2, more: str = "", methods: str = "", match: str = "none") -> Plan:
        recipe = recipe_file(tmp_path, tiny_model)
        methods = methods or "head: {method.name: head}\n  lora: {method.name: lora}"
        tune = TUNE.format(to=10.0 ** (points - 5), points=points, seeds=seeds, more=more)
        return plan_of(
            tmp_path,
            f"tasks: [{recipe}]\nmethods:\n  {methods}\nbaseline: {methods.partition(':')[0]}\nmatch: {match}\n"
            f"tune: {tune}\nseeds: 3\n",
        )

    return make


def peak(best: float, height: float = 0.9) -> Callable[[Recipe], float]:
    """A score that falls by a tenth for each factor of ten away from the best rate."""

    def truth(recipe: Recipe) -> float:
        return height - 0.1 * abs(math.log10(recipe.train.learning_rate / best))

    return truth


def made(plan: Plan, folder: Path, truth: Callable[[Recipe], float | None], **options: object) -> CellResult:
    """What LoRA's cell came to."""
    train = Trainer(truth, costs_of(plan), **options)  # type: ignore[arg-type]
    return conduct(plan, folder / "out", FakePool(train))["lora"]


def seeds_tried(result: CellResult) -> Mapping[float, list[int]]:
    assert result.choice is not None
    return {tried.value: [score.seed for score in tried.scores] for tried in result.choice.tried}


def test_halving_gives_the_better_half_and_the_bests_neighbours_more_seeds(
    tmp_path: Path, make_plan: Callable[..., Plan]
) -> None:
    """1e-4 .. 1: the best is 1e-2; the better half of five are three, which its neighbours are among."""
    found = made(make_plan(seeds=3), tmp_path, peak(1e-2))
    assert found.choice is not None
    assert (found.choice.value, found.choice.exhausted) == (1e-2, False)
    assert seeds_tried(found) == {
        1e-4: [FIRST],
        1e-3: [FIRST, SECOND, THIRD],
        1e-2: [FIRST, SECOND, THIRD],
        1e-1: [FIRST, SECOND, THIRD],
        1.0: [FIRST],
    }
    assert [score.seed for score in found.scores] == [1, 2, 3]
    assert {score.job.recipe.train.learning_rate for score in found.scores} == {1e-2}
    assert {score.job.recipe.eval.held_out for score in found.scores} == {None}


def test_all_values_get_all_seeds(tmp_path: Path, make_plan: Callable[..., Plan]) -> None:
    found = made(make_plan(more=", keep: all"), tmp_path, peak(1e-2))
    assert set(map(tuple, seeds_tried(found).values())) == {(FIRST, SECOND)}


@pytest.mark.parametrize(
    ("best", "grown"),
    [(1e-5, [1e-6, 1e-5]), (1e-6, [1e-7, 1e-6, 1e-5]), (1e2, [10.0, 1e2, 1e3])],
)
def test_the_grid_grows_until_the_best_is_inside(
    tmp_path: Path, make_plan: Callable[..., Plan], best: float, grown: list[float]
) -> None:
    found = made(make_plan(), tmp_path, peak(best))
    assert found.choice is not None
    assert (found.choice.value, found.choice.exhausted) == (best, False)
    assert [tried.value for tried in found.choice.tried if tried.added] == grown
    tried = seeds_tried(found)
    assert all(tried[value] == [FIRST, SECOND] for value in grown)


@pytest.mark.parametrize(("extend", "value"), [(0, 1e-4), (2, 1e-6)])
def test_a_grid_that_may_not_grow_any_more(
    tmp_path: Path, make_plan: Callable[..., Plan], extend: int, value: float
) -> None:
    found = made(make_plan(more=f", extend: {extend}"), tmp_path, peak(1e-30, 5.0))
    assert found.choice is not None
    assert (found.choice.value, found.choice.exhausted) == (value, True)
    assert sum(tried.added for tried in found.choice.tried) == extend


def test_a_grid_does_not_grow_to_what_the_recipe_refuses(tmp_path: Path, tiny_model: Path) -> None:
    """A dropout of 0.9 times the root of 9."""
    recipe = recipe_file(tmp_path, tiny_model)
    plan = plan_of(
        tmp_path,
        f"tasks: [{recipe}]\nmethods:\n  dora: {{method.name: dora}}\n  lora: {{method.name: lora}}\nbaseline: dora\n"
        "tune: {method.dropout: {from: 0.1, to: 0.9, points: 3}}\nseeds: 2\nmatch: none\n",
    )
    found = made(plan, tmp_path, lambda recipe: recipe.method.model_dump()["dropout"])
    assert found.choice is not None
    assert (found.choice.value, found.choice.exhausted) == (0.9, True)
    assert [tried.value for tried in found.choice.tried] == [0.1, 0.3, 0.9]


@pytest.mark.parametrize(("finished", "stand_in"), [(0.6, CONSTANT), (0.4, 0.4)])
def test_high_rates_that_diverge_lose(
    tmp_path: Path, make_plan: Callable[..., Plan], finished: float, stand_in: float
) -> None:
    """They count as a model that says the same of every example; where nothing can be learned, as the worst run."""
    found = made(make_plan(), tmp_path, lambda recipe: None if recipe.train.learning_rate > 5e-3 else finished)
    assert found.choice is not None
    scores = {tried.value: {score.value for score in tried.scores} for tried in found.choice.tried}
    assert scores[1e-1] == {stand_in}
    assert found.choice.value <= 1e-3
    assert sum(score.collapsed for tried in found.choice.tried for score in tried.scores) >= 3


@pytest.mark.parametrize(("metric", "chosen"), [("accuracy", 1e-3), ("loss", 1e-4)])
def test_where_nothing_is_known_of_saying_the_same_the_worst_stands_for_it(
    tmp_path: Path, tiny_model: Path, metric: str, chosen: float
) -> None:
    recipe = recipe_file(tmp_path, tiny_model)
    recipe.write_text(recipe.read_text() + f"eval: {{metric: {metric}}}\n")
    methods = "head: {method.name: head}\n  lora: {method.name: lora}"
    plan = plan_of(
        tmp_path,
        f"tasks: [{recipe}]\nmethods:\n  {methods}\nbaseline: head\nseeds: 1\n"
        "tune: {train.learning_rate: {from: 1.0e-4, to: 1, points: 5}, extend: 0, keep: all}\n",
    )

    def truth(recipe: Recipe) -> float | None:
        rate = recipe.train.learning_rate
        return None if rate > 5e-2 else {1e-4: 0.6, 1e-3: 0.8, 1e-2: 0.7}[rate]

    found = made(plan, tmp_path, truth, constant=None, metric=metric)
    assert found.choice is not None
    scores = {tried.value: {score.value for score in tried.scores} for tried in found.choice.tried}
    assert scores[1.0] == scores[1e-1] == ({0.6} if metric == "accuracy" else {0.8})
    assert found.choice.value == chosen
    assert found.choice.exhausted == (chosen == 1e-4)


def test_a_collapsed_run_counts_with_its_score(tmp_path: Path, make_plan: Callable[..., Plan]) -> None:
    """One seed of the best rate says the same of every example: its mean falls below the neighbour's."""

    def truth(recipe: Recipe) -> float:
        if recipe.train.learning_rate == 1e-2 and recipe.train.seed == SECOND:
            return CONSTANT
        return peak(1e-2)(recipe)

    found = made(make_plan(), tmp_path, truth)
    assert found.choice is not None
    assert found.choice.value == 1e-3  # (0.9 + 0.5) / 2 is less than 0.8; of equal ones the lower
    assert [score.collapsed for score in found.choice.scores_at(1e-2)] == [False, True]
    (point,) = [point for point in found.choice.points(lower_is_better=False) if point.rate == 1e-2]
    assert (point.mean, point.collapsed) == (0.7, 1)


def test_neighbours_that_were_dropped_are_caught_up(tmp_path: Path, make_plan: Callable[..., Plan]) -> None:
    """The first seed likes 1 best, the second 1e-3 among those that are left: its lower neighbour has one seed."""
    by_seed = {
        FIRST: {1e-4: 0.60, 1e-3: 0.80, 1e-2: 0.70, 1e-1: 0.81, 1.0: 0.82},
        SECOND: {1e-4: 0.60, 1e-3: 0.90, 1e-2: 0.10, 1e-1: 0.10, 1.0: 0.10},
    }

    def truth(recipe: Recipe) -> float:
        return by_seed[recipe.train.seed][recipe.train.learning_rate] if recipe.train.seed > 1000 else 0.9

    found = made(make_plan(), tmp_path, truth)
    assert found.choice is not None
    assert found.choice.value == 1e-3
    tried = seeds_tried(found)
    assert tried[1e-4] == tried[1e-2] == [FIRST, SECOND]


def test_every_run_diverges(tmp_path: Path, make_plan: Callable[..., Plan]) -> None:
    told = Told()
    plan = make_plan()
    pool = FakePool(Trainer(lambda recipe: None, costs_of(plan)))
    with pytest.raises(DivergedError, match=r"train\.learning_rate from 1e-0\d to 1; "):
        conduct(plan, tmp_path / "out", pool, told)
    assert {outcome for _, outcome, _ in told.ended} == {"diverged"}


def test_without_tuning_the_recipes_rate_is_measured(tmp_path: Path, tiny_model: Path) -> None:
    recipe = recipe_file(tmp_path, tiny_model)
    methods = "methods: {head: {method.name: head}, lora: {method.name: lora}}"
    plan = plan_of(tmp_path, f"tasks: [{recipe}]\n{methods}\nbaseline: head\nseeds: [4, 2]\n")
    found = made(plan, tmp_path, peak(5e-3))
    assert found.choice is None
    assert [(score.seed, score.value) for score in found.scores] == [(4, 0.9), (2, 0.9)]


# -- what one takes from another ---------------------------------------------------------------------------------------

LORA = "lora: {method.name: lora}\n  dora: {method.name: dora}"


def test_the_baseline_is_given_the_mean_size_of_the_others_runs(tmp_path: Path, make_plan: Callable[..., Plan]) -> None:
    plan = make_plan(methods=LORA, match="stored-parameters")
    costs = costs_of(plan)

    def emerged(recipe: Recipe) -> Mapping[str, int]:
        """One component more of each with every seed."""
        more = recipe.train.seed if recipe.train.seed < 1000 else 0
        return {name: EMERGED[name.rpartition(".")[2]] + more for name in costs}

    found = made(plan, tmp_path, peak(1e-2), emerged=emerged)
    every = sum(costs.values())
    base = sum(cost * EMERGED[name.rpartition(".")[2]] for name, cost in costs.items())
    target = base + 2 * every  # the mean of seeds 1 to 3
    assert found.stored() is not None
    assert abs((found.stored() or 0) - target) <= max(costs.values()) / 2
    assert found.choice is not None
    ranks = {str(score.job.recipe.method.model_dump()["ranks"]) for score in found.scores}
    tuned = {
        str(score.job.recipe.method.model_dump()["ranks"]) for tried in found.choice.tried for score in tried.scores
    }
    assert ranks == tuned, "what is tuned has the size that is measured"
    assert len(ranks) == 1


def test_ranks_are_those_of_the_run_of_the_same_seed(tmp_path: Path, make_plan: Callable[..., Plan]) -> None:
    """That diverged with seed 2: there those of the first seed that did not."""
    methods = LORA + "\n  same: {method.name: lora, ranks_from: {method: dora}}"
    plan = make_plan(methods=methods, match="stored-parameters")
    costs = costs_of(plan)

    def emerged(recipe: Recipe) -> Mapping[str, int]:
        return dict.fromkeys(costs, 1 + recipe.train.seed % 1000)

    def truth(recipe: Recipe) -> float | None:
        return None if recipe.method.name == "dora" and recipe.train.seed == 2 else peak(1e-2)(recipe)

    train = Trainer(truth, costs, emerged=emerged)
    found = conduct(plan, tmp_path / "out", FakePool(train))["same"]
    ranks = [set(score.job.recipe.method.model_dump()["ranks"].values()) for score in found.scores]
    assert ranks == [{2}, {2}, {4}]
    assert found.choice is not None
    for tried in found.choice.tried:
        for score in tried.scores:
            assert set(score.job.recipe.method.model_dump()["ranks"].values()) == {1 + score.seed % 1000}


@pytest.mark.parametrize("entry", ["", "\n  same: {method.name: lora, ranks_from: {method: dora}}"])
def test_sizes_and_ranks_of_runs_that_all_diverged(tmp_path: Path, make_plan: Callable[..., Plan], entry: str) -> None:
    plan = make_plan(methods=LORA + entry, match="stored-parameters" if not entry else "none")

    def truth(recipe: Recipe) -> float | None:
        return None if recipe.method.name == "dora" and recipe.train.seed < 1000 else peak(1e-2)(recipe)

    with pytest.raises(DivergedError, match="dora, all of whose runs diverged"):
        conduct(plan, tmp_path / "out", FakePool(Trainer(truth, costs_of(plan))))
