"""Reading the examples of a task as a recipe says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dora_cli.data.sources.load import load_examples

if TYPE_CHECKING:
    from dora_cli.data.examples import Examples
    from dora_cli.data.sources.fields import Fields
    from dora_cli.recipe import Recipe


def read_split(recipe: Recipe, fields: Fields, split: str, *, training: bool, tied: bool = False) -> Examples:
    """Examples of one split from the recipe's source, cut to the recipe's limit; `tied` as for `load_examples`. Raises
    DataError.
    """
    data = recipe.data
    return load_examples(
        fields,
        data.source,
        split,
        path=data.path,
        columns=data.columns,
        labels=data.labels,
        validation=data.validation,
        skip=data.invalid == "skip",
        separator=data.separator,
        max_samples=data.max_train_samples if training else data.max_eval_samples,
        seed=0,  # which examples are kept must not depend on the seed of the run
        tied=tied,
    )
