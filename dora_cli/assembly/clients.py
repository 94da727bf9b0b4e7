"""Which examples of the training split each client of a federated training has."""

from __future__ import annotations

from dora_cli.data import Examples
from dora_cli.data.batches import Indices
from dora_cli.data.parts import DRAWS, even_parts, parts_by_class
from dora_cli.errors import DataError
from dora_cli.recipe import Recipe
from dora_cli.wording import plural


def client_parts(recipe: Recipe, training: Examples) -> list[Indices]:
    """The examples of every client of `recipe` (resolved, federated), as ascending indices into `training`; decided by
    ``train.seed``.

    Raises:
        DataError: some client has no example.
    """
    federated = recipe.federated
    assert federated is not None
    clients = federated.clients
    if clients > len(training):
        raise DataError(
            f"federated.clients: {clients:,} are too many for the {plural(len(training), 'example')} of split train, "
            f"of which each needs one; lower it to {len(training):,} at the most, or give more examples"
        )
    if federated.split == "iid":
        return even_parts(len(training), clients, recipe.train.seed)
    assert federated.alpha is not None, "resolved"
    assert training.labels is not None, "only of what has classes"
    parts = parts_by_class([int(label) for label in training.labels], clients, federated.alpha, recipe.train.seed)
    if parts is None:
        raise DataError(
            f"federated.alpha: {DRAWS} draws at {federated.alpha:g} each left at least one of {clients:,} clients "
            "without an example; raise it, lower federated.clients, or set federated.split: iid"
        )
    return parts
