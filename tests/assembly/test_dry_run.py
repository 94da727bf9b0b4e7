"""What is said of a run before it is one."""

from __future__ import annotations

import pytest

from dora_cli.assembly.dry_run import dry_run
from tests.training.conftest import MakeRecipe

GUARD = "method={name: dora, rank: 2, guard: true}"


@pytest.mark.parametrize(
    ("changes", "examples", "said"),
    [
        ((), 100, None),
        (("eval.held_out=0.25",), 75, "0.25 of the training split, parted by text, by eval.held_out"),
        ((GUARD,), 90, "0.1 of the training split, for the method to choose by"),
        (
            (GUARD, "eval.held_out=0.2"),
            72,
            "0.2 of the training split, parted by text, by eval.held_out; 0.1 of the rest, for the method to choose by",
        ),
    ],
)
def test_what_is_not_learned_from_is_said(
    make_recipe: MakeRecipe, changes: tuple[str, ...], examples: int, said: str | None
) -> None:
    rows = dict(dry_run(make_recipe("data.max_train_samples=100", *changes)).rows)
    # of every class its share
    assert int(rows["training examples"]) == pytest.approx(examples, abs=3)
    assert rows.get("held out") == said
