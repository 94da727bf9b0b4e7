"""The clients of a federated training before it begins: which examples of the training split each has, and what is said
of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dora_cli.assembly.build import AdaptedModel
from dora_cli.assembly.data import encode_split
from dora_cli.data import Encoded, Examples
from dora_cli.data.batches import Indices
from dora_cli.data.parts import DRAWS, even_parts, parts_by_class
from dora_cli.errors import DataError
from dora_cli.recipe import FederatedSection, Recipe
from dora_cli.tasks import Task
from dora_cli.wording import plural, span

_BYTES = 4
"""What an entry that trains takes up where it travels, as float32."""


@dataclass(frozen=True)
class ClientData:
    """What one client has to learn from.

    Attributes:
        train: its examples, encoded.
        examples: how many these are.
        labels: how many of each class, by name; None where there are no classes.
    """

    train: Encoded
    examples: int
    labels: Mapping[str, int] | None

    def record(self, number: int) -> dict[str, Any]:
        """What metrics.json holds of client `number`."""
        return {"client": number, "examples": self.examples, "labels": self.labels}


def client_data(
    recipe: Recipe, task: Task, training: Examples, parts: Sequence[Indices], adapted: AdaptedModel
) -> list[ClientData]:
    """What each client has, of the `training` split parted by `client_parts`."""
    found = []
    for part in (training.only(rows) for rows in parts):
        labels = None if part.labels is None or task.labels is None else counts_by_label(task.labels, part.labels)
        found.append(ClientData(encode_split(recipe, task, part, adapted), len(part), labels))
    return found


def counts_by_label(names: Sequence[str], labels: Sequence[float]) -> dict[str, int]:
    """How many of `labels` (class ids) there are of each class, by its name."""
    counts = Counter(labels)
    return {name: counts[index] for index, name in enumerate(names)}


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
