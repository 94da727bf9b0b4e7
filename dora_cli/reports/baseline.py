"""Whether a run came to more than saying the same of every example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dora_cli.reports.units import number


def baseline_note(metrics: Mapping[str, Any]) -> str | None:
    """What is to be said of a run's metrics.json; None where it came to more, or nothing is known."""
    baseline = metrics.get("baseline")
    if not baseline or baseline["beaten"]:
        return None
    name = baseline["metric"]
    found, constant = number(metrics["metrics"].get(name)), number(baseline["metrics"][name])
    return (
        f"{name} {found} is no better than {constant}, which saying the same of every example gets: the model has "
        "learned nothing that helps; look at what it sees (dora data RECIPE), train longer, or try other values of "
        "train.learning_rate"
    )
