"""What is said of values of DoRA that do not go together."""

from __future__ import annotations

import pytest

from dora_cli.errors import RecipeError
from dora_cli.recipe import parse_recipe


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ("method: {start_rank: 7}", "method.start_rank: must be at least method.rank = 8, got 7"),
        (
            "method: {alpha: 786049}\ntrain: {precision: fp16}",
            "method.alpha: must be at most 65504 times the start rank of 12",
        ),
        ("method: {warmup_fraction: 0.5}", "must be below 1, got 0.5 + 0.5 = 1.0"),
    ],
)
def test_what_is_said(section: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(f"task: glue/rte\nmodel: {{name: some/model}}\n{section}", "r.yaml")
    assert says in str(caught.value)
