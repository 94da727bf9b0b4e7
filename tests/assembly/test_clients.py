"""Which examples the clients of a recipe have."""

from __future__ import annotations

import numpy as np
import pytest

from dora_cli.assembly.clients import client_parts, client_rows, client_sizes
from dora_cli.assembly.resolve import resolve
from dora_cli.data import Examples
from dora_cli.data.batches import Indices
from dora_cli.data.parts import even_parts, parts_by_class
from dora_cli.errors import DataError
from dora_cli.recipe import Recipe, parse_recipe

TRAINING = Examples(([str(i) for i in range(60)],), [int(i % 3 == 0) for i in range(60)])


def parts_of(section: str, *overrides: str, training: Examples = TRAINING) -> list[Indices]:
    text = f"task: glue/sst2\nmodel: {{name: m}}\nmethod: {{name: lora}}\nfederated: {section}"
    return client_parts(resolve(parse_recipe(text, overrides=overrides))[0], training)


def test_parts_follow_from_the_section_and_the_seed() -> None:
    for found, wanted in (
        (parts_of("{}"), even_parts(60, 8, seed=1)),
        (parts_of("{clients: 3}", "train.seed=5"), even_parts(60, 3, seed=5)),
        (parts_of("{clients: 3, split: dirichlet}"), parts_by_class(TRAINING.labels, 3, 0.3, seed=1)),  # type: ignore[arg-type]
        (parts_of("{clients: 3, split: dirichlet, alpha: 2}"), parts_by_class(TRAINING.labels, 3, 2.0, seed=1)),  # type: ignore[arg-type]
    ):
        assert wanted is not None
        assert len(found) == len(wanted)
        assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_what_has_no_classes_is_parted_evenly() -> None:
    generated = Examples((["a"] * 9, ["b"] * 9), None)
    assert [len(part) for part in parts_of("{clients: 3}", training=generated)] == [3, 3, 3]


def test_every_client_needs_an_example() -> None:
    says = (
        r"^federated\.clients: 61 are too many for the 60 examples of split train, of which each needs one; lower "
        r"it to 60 at the most, or give more examples$"
    )
    assert len(parts_of("{clients: 60}")) == 60
    for split in ("iid", "dirichlet"):
        with pytest.raises(DataError, match=says):
            parts_of(f"{{clients: 61, split: {split}}}")


def test_shares_that_are_never_enough_are_refused_with_what_to_change() -> None:
    says = (
        r"^federated\.alpha: 100 draws at 1e-06 each left at least one of 3 clients without an example; raise it, "
        r"lower federated\.clients, or set federated\.split: iid$"
    )
    with pytest.raises(DataError, match=says):
        parts_of("{clients: 3, split: dirichlet, alpha: 1.0e-6}")


# In a dry run ---------------------------------------------------------------------------------------------------------


def federated(section: str) -> Recipe:
    text = f"task: glue/sst2\nmodel: {{name: m}}\nmethod: {{name: lora}}\nfederated: {section}"
    return resolve(parse_recipe(text))[0]


def test_sizes_are_known_without_data_where_classes_do_not_decide_them() -> None:
    assert client_sizes(federated("{clients: 4}"), 10) == [3, 3, 2, 2]
    assert client_sizes(federated("{clients: 4, split: dirichlet}"), 10) is None
    with pytest.raises(DataError, match=r"federated\.clients"):
        client_sizes(federated("{clients: 11, split: dirichlet}"), 10)
    assert client_sizes(parse_recipe("task: glue/sst2\nmodel: {name: m}"), 10) is None


def test_what_is_said_of_clients() -> None:
    section = federated("{clients: 4, split: dirichlet, aggregation: exact}").federated
    assert section is not None
    assert client_rows(section, None, None) == [
        ("clients", "4, dirichlet, alpha 0.3, with as many examples as their classes decide; all take part in a round"),
        ("rounds", "10 of 50 local steps; aggregation exact"),
        ("a round's traffic", "follows from the model's configuration"),
    ]
    said = dict(client_rows(section, [3, 5, 4, 3], 100))
    assert said["clients"] == "4, dirichlet, alpha 0.3, with 3 to 5 examples each; all take part in a round"
    assert said["a round's traffic"] == (
        "1,600 bytes up and as many down: 100 entries of float32 for each of 4 clients"
    )
