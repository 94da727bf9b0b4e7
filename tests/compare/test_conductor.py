"""Which runs are made when, and what happens when one ends badly or everything begins anew."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from dora_cli.compare.conductor import runs_of
from dora_cli.compare.plan import Plan
from dora_cli.errors import CheckpointError, DataError, ExperimentError, StoppedError
from dora_cli.recipe import Recipe
from tests.compare.fakes import FakePool, Told, Trainer, conduct, costs_of, plan_of, recipe_file

METHODS = """\
  lora: {method.name: lora}
  dora: {method.name: dora}
  head: {method.name: head}
  same: {method.name: lora, ranks_from: {method: dora}}
"""


def planned(folder: Path, model: Path, tasks: str) -> Plan:
    """Four methods, of which two wait for a third; three rates."""
    files = [recipe_file(folder, model, name, max_length=16 * (1 + place)) for place, name in enumerate(tasks)]
    return plan_of(
        folder,
        f"tasks: [{', '.join(map(str, files))}]\nmethods:\n{METHODS}baseline: lora\nseeds: 2\n"
        "tune: {train.learning_rate: {from: 1.0e-3, to: 1.0e-1, points: 3}, extend: 1}\n",
    )


@pytest.fixture
def plan(tmp_path: Path, tiny_model: Path) -> Plan:
    return planned(tmp_path, tiny_model, "a")


def truth(recipe: Recipe) -> float:
    """A different number for each run, the best rate at the end that grows for one method."""
    rate, method = recipe.train.learning_rate, recipe.method.name
    best = {"dora": 1e-2, "lora": 1e-1, "head": 1e-2}[method]
    return 0.9 - 0.1 * abs(rate - best) - 0.001 * (recipe.train.seed % 1000) - recipe.data.max_length / 1000


@pytest.fixture
def train(plan: Plan) -> Trainer:
    return Trainer(truth, costs_of(plan))


def names(trainer: Trainer, output: Path) -> list[str]:
    return [folder.relative_to(output).as_posix() for folder in trainer.trained]


def test_runs_are_made_in_the_order_of_the_cells_and_nobody_before_what_it_waits_for(
    tmp_path: Path, tiny_model: Path
) -> None:
    plan = planned(tmp_path, tiny_model, "ab")
    told, pool = Told(), FakePool(Trainer(truth, costs_of(plan)), 3)
    found = conduct(plan, tmp_path / "out", pool, told)
    assert len(pool.submitted) == len(set(pool.submitted)) == len(told.ended)
    assert pool.most == 3
    assert told.began == pool.submitted
    place = {name: index for index, name in enumerate(pool.submitted)}
    for task in ("a", "b"):
        (ours,) = {name.split("/")[1] for name in pool.submitted if name.split("/")[1].endswith(f"-{task}")}
        last = max(place[name] for name in pool.submitted if name.startswith(f"runs/{ours}/dora/"))
        for variant in ("lora", "same"):
            first = min(place[name] for name in pool.submitted if f"/{ours}/{variant}" in name)
            assert first > last
    firsts = list(dict.fromkeys(tuple(name.split("/")[1:3]) for name in pool.submitted))
    assert [variant for _, variant in firsts[:4]] == ["dora", "head", "dora", "head"]
    total = sum(runs_of(result) for name, result in found.items() if " / " in name)
    assert told.totals[-1] == total == len(pool.submitted)
    assert told.totals[0] == plan.runs or told.totals[0] <= total
    ends = [name for name, what in told.stages if what == "is done"]
    assert sorted(ends) == sorted(cell.name for cell in plan.cells)


def test_what_comes_out_does_not_depend_on_how_many_run_at_once(tmp_path: Path, plan: Plan) -> None:
    found = []
    for number, (size, last_first) in enumerate([(1, False), (2, True), (100, True)]):
        folder = tmp_path / f"out-{number}"
        results = conduct(plan, folder, FakePool(Trainer(truth, costs_of(plan)), size, last_first=last_first))
        found.append(
            {
                name: (
                    result.choice and result.choice.value,
                    [(score.job.name, score.value) for score in result.scores],
                    [
                        (tried.value, [(score.job.name, score.value) for score in tried.scores])
                        for tried in (result.choice.tried if result.choice else ())
                    ],
                )
                for name, result in results.items()
            }
        )
    assert found[0] == found[1] == found[2]


def test_one_that_goes_on_makes_no_finished_run_again_and_takes_the_same_turns(tmp_path: Path, plan: Plan) -> None:
    straight = Trainer(truth, costs_of(plan))
    conduct(plan, tmp_path / "straight", FakePool(straight))
    wanted = sorted(names(straight, tmp_path / "straight"))
    again = Trainer(truth, costs_of(plan))
    told = Told()
    conduct(plan, tmp_path / "straight", FakePool(again), told)
    assert again.trained == []
    assert (told.found, told.began) == (len(wanted), [])
    for stop in (1, len(wanted) // 2):
        output = tmp_path / f"stopped-{stop}"
        made: list[str] = []

        def until(recipe: Recipe, made: list[str] = made, stop: int = stop) -> float:
            if len(made) == stop:
                raise StoppedError("stopped by SIGTERM", signal.SIGTERM)
            made.append("")
            return truth(recipe)

        with pytest.raises(StoppedError):
            conduct(plan, output, FakePool(Trainer(until, costs_of(plan))))
        rest = Trainer(truth, costs_of(plan))
        conduct(plan, output, FakePool(rest))
        assert len(rest.trained) == len(wanted) - stop
        folders = {path.parent.relative_to(output).as_posix() for path in output.rglob("metrics.json")}
        assert sorted(folders) == wanted


def test_a_diverged_run_is_not_made_again(tmp_path: Path, plan: Plan) -> None:
    def sometimes(recipe: Recipe) -> float | None:
        return None if recipe.train.learning_rate > 5e-2 else truth(recipe)

    first, second = (Trainer(sometimes, costs_of(plan)) for _ in range(2))
    told = Told()
    one = conduct(plan, tmp_path / "out", FakePool(first))
    two = conduct(plan, tmp_path / "out", FakePool(second), told)
    assert second.trained == []
    assert {name: result.choice for name, result in one.items()} == {
        name: result.choice for name, result in two.items()
    }


def test_a_run_that_fails_stops_the_experiment_and_loses_nothing(tmp_path: Path, plan: Plan) -> None:
    output = tmp_path / "out"

    def broken(recipe: Recipe) -> float:
        if recipe.method.name == "head" and recipe.train.learning_rate == 1e-2:
            raise DataError("the disk is full")
        return truth(recipe)

    told = Told()
    pool = FakePool(Trainer(broken, costs_of(plan)), 4)
    with pytest.raises(ExperimentError) as found:
        conduct(plan, output, pool, told)
    for words in ("head/0.01/seed-", "the disk is full", "call it again"):
        assert words in str(found.value)
    assert len(told.ended) == len(list(output.rglob("metrics.json"))) == len(pool.submitted) - 1
    assert pool.free == 4, "what was under way has ended"
    whole = Trainer(truth, costs_of(plan))
    conduct(plan, output, FakePool(whole))
    assert len(whole.trained) == len(list(output.rglob("metrics.json"))) - len(told.ended)


def test_a_signal_stops_it(tmp_path: Path, plan: Plan) -> None:
    def stopped(recipe: Recipe) -> float:
        raise StoppedError("stopped by SIGINT after step 3", signal.SIGINT)

    with pytest.raises(StoppedError) as found:
        conduct(plan, tmp_path / "out", FakePool(Trainer(stopped, costs_of(plan))))
    assert found.value.exit_code == 130
    assert "call it again" in str(found.value)


def test_a_run_of_another_recipe_is_refused_by_name(tmp_path: Path, plan: Plan, train: Trainer) -> None:
    output = tmp_path / "out"
    conduct(plan, output, FakePool(train))
    other = plan_of(tmp_path, plan.file.read_text() + "set: {train.batch_size: 8}\n")
    with pytest.raises(CheckpointError, match=r"train\.batch_size was 16 and is 8"):
        conduct(other, output, FakePool(train))


def test_a_run_that_was_killed_as_it_began_is_made_anew(tmp_path: Path, plan: Plan, train: Trainer) -> None:
    output = tmp_path / "out"
    conduct(plan, output, FakePool(train))
    run = train.trained[0]
    wanted = (run / "metrics.json").read_bytes()
    for left in ("nothing", "an empty recipe", "a recipe alone"):
        shutil.rmtree(run)
        run.mkdir()
        if left != "nothing":
            (run / "recipe.yaml").write_text("" if left == "an empty recipe" else dump(plan, run, output))
        again = Trainer(truth, costs_of(plan))
        conduct(plan, output, FakePool(again))
        assert again.trained == [run]
        assert (run / "metrics.json").read_bytes() == wanted


def dump(plan: Plan, run: Path, output: Path) -> str:
    from dora_cli.recipe import dump_recipe

    cell = next(cell for cell in plan.cells if cell.variant.slug == run.parts[-3] and cell.task.name == run.parts[-4])
    job = cell.tuning_job(output, "train.learning_rate", float(run.parts[-2]), int(run.name[5:]), 0.1)
    assert job.folder == run
    return dump_recipe(job.recipe)


def test_more_seeds_make_only_their_own_runs(tmp_path: Path, plan: Plan, train: Trainer) -> None:
    output = tmp_path / "out"
    conduct(plan, output, FakePool(train))
    more = plan_of(tmp_path, plan.file.read_text().replace("seeds: 2", "seeds: 3"))
    again = Trainer(truth, costs_of(more))
    conduct(more, output, FakePool(again))
    assert all(name.startswith("runs/") and name.endswith("seed-3") for name in names(again, output))
    assert len(again.trained) == len(more.cells)
