"""Ranks that cannot be: each layer by itself, and all together."""

from __future__ import annotations

import pytest

from dora_cli.errors import CheckpointError
from dora_cli.runs.records.ranks import validate_ranks
from tests.reports.examples import bert, ranks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": -1}, r"layers\[3\]\.rank is -1: .*greater than or equal to 0"),
        ({"rank": 13}, r"layers\[3\]: rank 13 is above its start rank 12"),
        ({"rank": 2.0}, r"layers\[3\]\.rank is 2\.0"),
        ({"scores": [1.0]}, r"layers\[3\]: 1 scores for 12 components"),
        ({"shape": [768]}, r"layers\[3\]\.shape is \[768\]"),
        ({"stack": "middle"}, r"layers\[3\]\.stack is 'middle'"),
        ({"name": "bert.encoder.layer.0.attention.self.query"}, "listed twice"),
    ],
)
def test_every_layer_is_checked(change: dict[str, object], message: str):
    record = ranks(bert(1))
    record["layers"][3] = {**record["layers"][3], **change}
    with pytest.raises(CheckpointError, match=message):
        validate_ranks(record)


def test_a_rank_may_grow_where_it_is_said_with_which_links() -> None:
    record = ranks(bert(1))
    layer = {**record["layers"][3], "scores": None, "start_rank": 1, "rank": 3, "links": [1, 1, 4]}
    record["live_components"] += 3 - record["layers"][3]["rank"]
    record["layers"][3] = layer
    assert validate_ranks(record).layers[3].links == [1, 1, 4]
    for wrong, message in (([1, 4], r"2 links for rank 3"), ([0, 1, 4], r"links\[0\] is 0"), (None, "rank 3 is above")):
        record["layers"][3] = {**layer, "links": wrong}
        with pytest.raises(CheckpointError, match=message):
            validate_ranks(record)


def test_ranks_must_add_up_to_the_live_components():
    record = ranks(bert(1))
    record["live_components"] += 1
    with pytest.raises(CheckpointError, match=r"live_components is 49, but the ranks of the layers add up to 48"):
        validate_ranks(record)


def test_live_components_are_as_many_as_the_rank_and_among_those_of_the_start() -> None:
    record = ranks(bert(1))
    layer = record["layers"][3]
    live = list(range(layer["rank"]))
    record["layers"][3] = {**layer, "live": live}
    assert validate_ranks(record).layers[3].live == live
    for wrong in (live[1:], [*live[1:], live[1]], [*live[1:], 12]):
        record["layers"][3] = {**layer, "live": wrong}
        with pytest.raises(CheckpointError, match=r"layers\[3\]: .* of 12 components"):
            validate_ranks(record)
