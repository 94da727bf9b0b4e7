"""Which methods had the grid of the tuned key grow, in sentences."""

from __future__ import annotations

from dora_cli.reports.compare.results import Cell, Results
from dora_cli.runs.records.comparison import TunedRecord


def growths(results: Results) -> list[str]:
    """A sentence for each method whose grid grew on some task: from which values to which, where, and why."""
    plan = results.record.tuning
    if plan is None:
        return []
    found = []
    for method in results.methods:
        places: dict[str, list[str]] = {}
        for cell in results.of_method(method):
            if (tuned := _grown(cell)) is not None:
                places.setdefault(_to(tuned), []).append(cell.task.name)
        if places:
            grew = "; ".join(f"on {', '.join(tasks)} {to}" for to, tasks in places.items())
            found.append(f"{method.name}: the grid of {plan.key} ({_range(plan.grid)}) grew {grew}")
    return found


def _grown(cell: Cell) -> TunedRecord | None:
    tuned = None if cell.record is None else cell.record.tuned
    return tuned if tuned is not None and any(one.added for one in tuned.tried) else None


def _to(tuned: TunedRecord) -> str:
    """What it grew to, and why."""
    given = [one for one in tuned.tried if not one.added]
    lost = all(one.diverged == len(one.scores) or not any(score is not None for score in one.scores) for one in given)
    why = "no run in it had a score" if lost else "the best value lay at its edge"
    return f"({_range([one.value for one in tuned.tried])}), since {why}"


def _range(values: list[float]) -> str:
    return f"{min(values):g} to {max(values):g}"
