"""Over which steps weights are averaged, known before a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from dora_cli import dump_recipe, train
from dora_cli.assembly.averaged import AveragedSteps
from dora_cli.errors import BudgetError
from dora_cli.methods.base import PlainSchedule
from tests.commands.conftest import dora
from tests.runs.test_resume import Cut
from tests.training.conftest import MakeRecipe
from tests.training.test_every_method import SETTINGS
from tests.training.test_run import read

TINY = ("data.max_train_samples=30", "data.max_eval_samples=16", "train.batch_size=8", "train.epochs=2")
"""8 steps."""


@pytest.mark.parametrize(
    ("share", "total", "first"),
    # 0.07 x 100 is 7.000000000000001 in binary, and 7 as what was written
    [(0.25, 10, 8), (0.07, 100, 94), (1e-9, 10, 10), (0.99, 10, 1)],
)
def test_the_share_is_rounded_up_as_a_decimal(share: float, total: int, first: int) -> None:
    steps = AveragedSteps.of(share, PlainSchedule.of(total), "lora")
    assert steps is not None
    assert (steps.first, steps.last, steps.note) == (first, total, None)
    assert [steps.done(step) for step in (first - 1, first, total)] == [0, 1, total - first + 1]


def test_none_are_averaged_unless_asked_for() -> None:
    assert AveragedSteps.of(0.0, PlainSchedule.of(10), "lora") is None


def test_an_average_begins_after_the_last_event_and_the_run_says_so(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """DoRA freezes at step 11 of 24."""
    recipe = make_recipe("train.average_last=0.75", "eval.select=last")
    listener = Cut()
    train(recipe, tmp_path / "run", listener=listener)
    (note,) = [note for note in listener.notes if "average_last" in note]
    assert note == (
        "train.average_last 0.75 asks for the last 18 steps, but the method changes what trains after step 11: weights "
        "are averaged over the last 13 steps, from step 12 on"
    )
    assert read(tmp_path / "run" / "metrics.json")["averaged_steps"] == 13
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    dry = dora("train", tmp_path / "recipe.yaml", "--dry-run")
    assert dry.code == 0
    assert note in " ".join(dry.out.split())
    assert "over the weights after each of the last 13 steps; their mean is evaluated and kept, from step 12 on" in (
        " ".join(dry.out.split())
    )


@pytest.mark.parametrize("name", ["sora", "xgblora"])
def test_a_method_that_changes_what_trains_until_the_end_is_refused(
    make_recipe: MakeRecipe, tmp_path: Path, name: str
) -> None:
    recipe = make_recipe(f"method={{name: {name}, {SETTINGS[name]}}}", *TINY, "train.average_last=0.7")
    with pytest.raises(BudgetError) as caught:
        train(recipe, tmp_path / "run")
    assert str(caught.value) == (
        f"train.average_last is 0.7, but the method {name} changes what trains until the end of the run, at the latest "
        "after step 8 of 8, so no weights are left to average; set train.average_last: 0, or have the method's last "
        "event come earlier where its keys allow that"
    )
    assert not (tmp_path / "run").exists()
