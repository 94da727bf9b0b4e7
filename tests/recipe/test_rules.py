"""What is said of values that do not go together or that no arithmetic holds."""

from __future__ import annotations

import pytest

from dora_cli.errors import RecipeError
from dora_cli.recipe import parse_recipe


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ("method: {rank: 2147483648}", "method.rank: must be at most 2147483647"),
        (
            "method: {alpha: 1.0e+300}",
            "method.alpha: must be at most 1e+38, since the arithmetic's fp32 ends at 3.4e+38, got 1e+300",
        ),
        (
            "train: {adam_eps: 1.0e-300}",
            "train.adam_eps: must be at least 1e-37, since the arithmetic's fp32 begins at 1.2e-38",
        ),
        (
            "method: {name: lora, alpha: 524033}\ntrain: {precision: fp16}",
            "method.alpha: must be at most 65504 times the rank of 8",
        ),
        (
            "train: {lr_warmup_steps: 10, max_steps: 10}",
            "train.lr_warmup_steps: must be below train.max_steps = 10, got 10",
        ),
        ("train: {precision: fp16, device: cpu}", "train.precision: fp16 needs a GPU"),
        ("data: {source: glue-tsv}", "data.path: is missing: data.source glue-tsv needs it"),
        ("data: {path: x}", "data.path: is not read with data.source hub, got 'x'"),
        ("data: {columns: {sentence: text}}", "data.columns: is only read with data.source files, got data.source hub"),
    ],
)
def test_what_is_said(section: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(f"task: glue/rte\nmodel: {{name: some/model}}\n{section}", "r.yaml")
    assert says in str(caught.value)
