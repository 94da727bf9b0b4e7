"""The clients of a federated training before it begins: which examples of the training split each has, and what is said
of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from dora_cli.data import Examples
from dora_cli.data.batches import Indices
from dora_cli.data.parts import DRAWS, even_parts, parts_by_class
from dora_cli.errors import DataError
from dora_cli.recipe import FederatedSection, Recipe
from dora_cli.tasks import Task
from dora_cli.wording import plural, span

_BYTES = 4
"""What an entry that trains takes up where it travels, as float32."""


def client_parts(recipe: Recipe, training: Examples) -> list[Indices]:
    """The examples of every client of `recipe` (resolved, federated), as ascending indices into `training`; decided by
    ``train.seed``.

    Raises:
        DataError: some client has no example.
    """
    federated = recipe.federated
    assert federated is not None
    clients = federated.clients
    _check_enough(clients, len(training))
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


def clients_held(parts: Sequence[Indices], training: Examples, task: Task) -> list[dict[str, Any]]:
    """What every client has, as metrics.json holds it: its number from 1, its examples, and how many are of each class,
    None where there are no classes.
    """
    found = []
    for number, part in enumerate(parts, start=1):
        labels = None
        if training.labels is not None and task.labels is not None:
            counts = Counter(training.labels[row] for row in part)
            labels = {name: counts[index] for index, name in enumerate(task.labels)}
        found.append({"client": number, "examples": len(part), "labels": labels})
    return found


def client_sizes(recipe: Recipe, examples: int) -> list[int] | None:
    """How many of so many training examples every client of `recipe` (resolved) has; None where it has no clients, and
    where that follows from the classes of the examples. Raises DataError as `client_parts` does.
    """
    federated = recipe.federated
    if federated is None:
        return None
    _check_enough(federated.clients, examples)
    if federated.split != "iid":
        return None
    return [len(part) for part in even_parts(examples, federated.clients, recipe.train.seed)]


def _check_enough(clients: int, examples: int) -> None:
    if clients > examples:
        raise DataError(
            f"federated.clients: {clients:,} are too many for the {plural(examples, 'example')} of split train, "
            f"of which each needs one; lower it to {examples:,} at the most, or give more examples"
        )


def client_rows(federated: FederatedSection, sizes: Sequence[int] | None, trained: int | None) -> list[tuple[str, str]]:
    """Clients, rounds and what travels in words: ``(what, value)``.

    Args:
        federated: of a resolved recipe.
        sizes: examples of every client; None where that is not known.
        trained: entries that a client trains, the head included; None where that is not known.
    """
    split = federated.split if federated.alpha is None else f"{federated.split}, alpha {federated.alpha:g}"
    each = "as many examples as their classes decide" if sizes is None else f"{span(sizes)} examples each"
    drawn = "all take part in" if federated.drawn == federated.clients else f"{federated.drawn:,} are drawn for"
    server = federated.aggregation if federated.residual is None else f"lora-fair, residual {federated.residual:g}"
    if trained is None:
        travels = "follows from the model's configuration"
    else:
        travels = (
            f"{federated.drawn * trained * _BYTES:,} bytes up and as many down: {trained:,} entries of float32 for "
            f"each of {plural(federated.drawn, 'client')}"
        )
    return [
        ("clients", f"{federated.clients:,}, {split}, with {each}; {drawn} a round"),
        ("rounds", f"{federated.rounds:,} of {plural(federated.local_steps, 'local step')}; aggregation {server}"),
        ("a round's traffic", travels),
    ]
