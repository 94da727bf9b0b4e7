"""What is said of values of LoRA that do not go together."""

from __future__ import annotations

import pytest

from dora_cli.errors import RecipeError
from dora_cli.recipe import parse_recipe


@pytest.mark.parametrize(
    ("section", "says"),
    [
        (
            "method: {name: lora, rank: 4, alpha: 131009, scaling: rank-stabilised}\ntrain: {precision: fp16}",
            "method.alpha: must be at most 65504 times the square root of the rank of 4",
        ),
        ("method: {name: lora, ranks: {q: 2}, ranks_from: run}", "method.ranks: says ranks by pattern, and"),
        ("method: {name: lora, ranks_shuffle: 1}", "method.ranks_shuffle: exchanges ranks among projections, but all"),
    ],
)
def test_what_is_said(section: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(f"task: glue/rte\nmodel: {{name: some/model}}\n{section}", "r.yaml")
    assert says in str(caught.value)
