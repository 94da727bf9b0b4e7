"""A run comes to the same, bit for bit, whatever its worker has made before."""

from __future__ import annotations

from pathlib import Path

import pytest

from dora_cli import train
from dora_cli.compare.jobs import Job
from dora_cli.compare.workers.local import LocalPool
from dora_cli.compare.workers.places import Place
from dora_cli.recipe import Recipe
from tests.compare.workers.test_local import run_all
from tests.processes import CONTEXT
from tests.runs.test_resume import assert_equal_runs
from tests.training.conftest import MakeRecipe

pytestmark = pytest.mark.slow


def recipes(make_recipe: MakeRecipe) -> dict[str, Recipe]:
    """Runs that leave different things behind: threads, precision, random states, flags."""
    short = ("train.epochs=2", "data.max_train_samples=46", "data.max_eval_samples=20", "train.batch_size=8")
    lora = "method={name: lora, rank: 2, dropout: 0.1}"
    return {
        "dora": make_recipe(*short, "method.dropout=0.2", "train.threads=1", "train.seed=3"),
        "lora": make_recipe(*short, lora, "train.threads=1", "train.seed=4"),
        "other": make_recipe(*short, lora, "train.threads=2", "train.precision=bf16", "train.deterministic=true"),
    }


def made(tmp_path: Path, folder: str, names: list[str], found: dict[str, Recipe]) -> list[Path]:
    """The runs of one worker, in this order."""
    jobs = [
        Job(f"{place}-{name}", tmp_path / folder / f"{place}-{name}", found[name]) for place, name in enumerate(names)
    ]
    pool = LocalPool(places=[Place(None, 1, 1)], context=CONTEXT)
    try:
        ended = run_all(pool, jobs)
    finally:
        pool.close()
    assert {end.outcome for end in ended.values()} == {"finished"}, [end.message for end in ended.values()]
    return [job.folder for job in jobs]


def test_runs_do_not_depend_on_those_before_them(tmp_path: Path, make_recipe: MakeRecipe) -> None:
    found = recipes(make_recipe)
    dora, lora, other, dora_again = made(tmp_path, "a", ["dora", "lora", "other", "dora"], found)
    for name in ("other", "lora", "dora"):  # in another order, in another process
        train(found[name], tmp_path / name)
    for one in (dora, dora_again):
        assert_equal_runs(one, tmp_path / "dora")
    assert_equal_runs(lora, tmp_path / "lora")
    assert_equal_runs(other, tmp_path / "other")
