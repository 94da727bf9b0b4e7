"""What tables look like when they are printed, and ranks that are known by hand."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from tests.reports.examples import FakeAllocation, bert, exact


def text(parts: Sequence[Any] | None, width: int = 80, **options: Any) -> str:
    assert parts is not None
    file = io.StringIO()
    console = Console(file=file, width=width, **{"highlight": False, **options})
    for part in parts:
        console.print(part)
    return file.getvalue()


def ascii_text(parts: Sequence[Any]) -> str:
    buffer = io.BytesIO()
    console = Console(file=io.TextIOWrapper(buffer, encoding="ascii", write_through=True), width=80)
    for part in parts:
        console.print(part)
    return buffer.getvalue().decode("ascii")


def rows(shown: str) -> list[list[str]]:
    return [line.split() for line in shown.splitlines() if line and not set(line.strip()) <= {"\u2500", " "}]


def known(change: dict[int, int], rank: int = 2) -> dict[str, Any]:
    """Two blocks of BERT, rank 2 everywhere but where `change` says so (by position), start rank 4."""
    projections = bert(2)
    allocations = [
        FakeAllocation(p.name, shape, 4, change.get(i, 2), tuple(0.1 * (j + 1) for j in range(4)))
        for i, (p, shape) in enumerate(projections)
    ]
    return exact(projections, allocations, rank=rank, start_rank=4)
