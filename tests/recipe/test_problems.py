"""What is said of a value of the wrong kind and of a key that is none."""

from __future__ import annotations

import pytest

from dora_cli.errors import RecipeError
from dora_cli.recipe import parse_recipe
from dora_cli.recipe.methods import METHODS


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ("method: {rank: 2.0}", "method.rank: must be a whole number, got 2.0; write 2"),
        ("method: {rank: '8'}", "method.rank: must be a whole number, got the text '8'; remove the quotes"),
        ("method: {rank: true}", "method.rank: must be a whole number, got true"),
        ("method: {rank: null}", "method.rank: must be a whole number, got null"),
        ("method: {targets: attention}", "method.targets: must be a list, such as [a, b], got the text 'attention'"),
        ("method: {curve: cubic}", "method.curve: must be one of published, adalora, got the text 'cubic'"),
        ("method: {compact: yes}", "method.compact: must be true or false, got the text 'yes'; write true"),
        (
            "method: {name: loar}",
            f"method.name: must be one of {', '.join(METHODS)}, got the text 'loar'; did you mean lora?",
        ),
        ("method: {name: head, rank: 2}", "method.rank: unknown key: method head has no such key (dora and lora and "),
        ("method: {name: head, x: 2}", "method.x: unknown key; the keys here are name"),
        ("method: {rnak: 2}", "method.rnak: unknown key; did you mean method.rank?"),
        (
            "eval: {held_out_by: txt}",
            "eval.held_out_by: must be one of text, rows, null, got the text 'txt'; did you mean",
        ),
        (
            "eval: {held_out_by: nul}",
            "eval.held_out_by: must be one of text, rows, null, got the text 'nul'; did you mean",
        ),
        (
            "data: {separator: dot}",
            "data.separator: must be one of comma, semicolon, tab, bar, null, got the text 'dot'",
        ),
        ("eval: {select: none}", "eval.select: must be one of best-after-freeze, best, last, got the text 'none'"),
        ("train:", "train: has no keys below it"),
        ("data: {source: files, path: x, columns: [a]}", "data.columns: must be a mapping of names to names"),
    ],
)
def test_what_is_said(section: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(f"task: glue/rte\nmodel: {{name: some/model}}\n{section}", "r.yaml")
    assert says in str(caught.value)
