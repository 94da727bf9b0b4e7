"""An evaluation beside what the run recorded."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from dora_cli.reports.evaluation import print_evaluation

RESULT: dict[str, Any] = {
    "task": "glue/sst2", "model": "m", "method": "dora", "splits": {"validation": 1000}, "epoch": 2, "step": 9,
    "checkpoint": "run/adapter", "metrics": {"accuracy": 0.5},
}  # fmt: skip


@pytest.mark.parametrize(
    ("more", "last"),
    [
        ({"recorded": {"accuracy": 0.5}, "identical": True}, "identical to the run's record"),
        (
            {"recorded": {"accuracy": 0.25}, "identical": False},
            "NOT identical to the run's record (another device or precision?)",
        ),
        ({}, "accuracy  0.5000"),
    ],
)
def test_what_is_printed(more: dict[str, Any], last: str) -> None:
    file = io.StringIO()
    print_evaluation(Console(file=file, width=80, highlight=False), {**RESULT, **more})
    lines = file.getvalue().splitlines()
    assert lines[:2] == ["glue/sst2, m, dora: validation (1,000 examples)", "weights of epoch 2, step 9: run/adapter"]
    assert lines[-1].rstrip() == last
