"""Which evaluation of a run counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Rule = Literal["best-after-freeze", "best", "last"]


@dataclass
class Selection:
    """Keeps the evaluation that `rule` selects by the metric `primary`; of equals the first.

    ``best-after-freeze``, as published, looks only at evaluations made when ranks are final. The run's last evaluation
    always is.
    """

    rule: Rule
    primary: str
    lower_is_better: bool = False
    epoch: int | None = None
    step: int | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    frozen: bool = False

    def offer(self, *, epoch: int, step: int, metrics: Mapping[str, float | None], frozen: bool) -> bool:
        """Whether the evaluation replaces the one selected so far."""
        if self.rule == "best-after-freeze" and not frozen:
            return False
        if self.rule != "last" and self.epoch is not None and self._value(metrics) <= self._value(self.metrics):
            return False
        self.epoch, self.step, self.metrics, self.frozen = epoch, step, dict(metrics), frozen
        return True

    def state(self) -> dict[str, Any]:
        """The evaluation selected so far, as plain values."""
        return {"epoch": self.epoch, "step": self.step, "metrics": self.metrics, "frozen": self.frozen}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes back to what `state` gave."""
        self.epoch, self.step = state["epoch"], state["step"]
        self.metrics, self.frozen = state["metrics"], state["frozen"]

    def _value(self, metrics: Mapping[str, float | None]) -> float:
        """What the best evaluation has most of."""
        value = metrics[self.primary]
        if value is None or math.isnan(value):
            return -math.inf
        return -value if self.lower_is_better else value
