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


def test_ranks_must_add_up_to_the_live_components():
    record = ranks(bert(1))
    record["live_components"] += 1
    with pytest.raises(CheckpointError, match=r"live_components is 49, but the ranks of the layers add up to 48"):
        validate_ranks(record)
