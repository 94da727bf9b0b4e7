"""What is said of a value out of the bounds of its key."""

from __future__ import annotations

import pytest

from dora_cli.errors import RecipeError
from dora_cli.recipe import parse_recipe


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ("method: {rank: 0}", "method.rank: must be at least 1, got 0"),
        ("method: {name: lora, ranks: {}}", "method.ranks: must be a mapping of one or more patterns to ranks"),
        ("method: {dropout: 1}", "method.dropout: must be at least 0 and below 1, got 1"),
        ("method: {targets: []}", "method.targets: must be a list of one or more"),
        ("method: {targets: [ffn, '']}", "method.targets[1]: must be text that is not blank"),
        ("method: {dem_weight: -1}", "method.dem_weight: must be at least 0 and finite"),
        (
            "train: {adam_betas: [0.9]}",
            "train.adam_betas: must be a list of two numbers, such as [0.9, 0.999], got the list [0.9]",
        ),
        ("train: {lr_warmup_fraction: 1.1}", "train.lr_warmup_fraction: must be at least 0 and at most 1, got 1.1"),
        (
            "train: {device: gpu}",
            "train.device: must be auto, cpu, cuda or cuda:N, got the text 'gpu'; did you mean cuda?",
        ),
        ("train: {threads: 0}", "train.threads: must be auto or a whole number from 1 to 1024, got 0"),
        ("data: {source: files, path: x, columns: {}}", "data.columns: must be a mapping of one or more"),
        ("data: {source: files, path: x, labels: [a]}", "data.labels: must be a list of two or more"),
        ("data: {max_length: 4}", "data.max_length: must be at least 8 (special tokens and some text), got 4"),
    ],
)
def test_what_is_said(section: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(f"task: glue/rte\nmodel: {{name: some/model}}\n{section}", "r.yaml")
    assert says in str(caught.value)
