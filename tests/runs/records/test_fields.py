"""What all records have in common: known keys, none absent, a version that can be read."""

from __future__ import annotations

import math

import pytest

from dora_cli.errors import CheckpointError
from dora_cli.runs.records.metrics import metrics_record, validate_metrics
from tests.reports.examples import metrics


def test_metrics_may_be_undefined_but_not_absent():
    record = metrics_record(
        **{
            **{key: value for key, value in metrics().items() if key != "schema_version"},
            "metrics": {"pearson": math.nan},
            "last": {"pearson": 0.5},
        }
    )
    assert record["metrics"] == {"pearson": None}
    validate_metrics(record)
    del record["last"]
    with pytest.raises(CheckpointError, match=r"^m\.json is damaged or was not written by dora: last is missing"):
        validate_metrics(record, "m.json")


def test_a_key_that_no_version_wrote_is_refused():
    """A version that adds one raises schema_version."""
    with pytest.raises(CheckpointError, match=r"m\.json .*: carbon is 1\.0: no key that this version of dora knows"):
        validate_metrics({**metrics(), "carbon": 1.0}, "m.json")


def test_a_record_of_a_later_version_is_not_read():
    with pytest.raises(CheckpointError, match=r"^m\.json has schema_version 2; this dora reads 1\. "):
        validate_metrics({**metrics(), "schema_version": 2}, "m.json")
