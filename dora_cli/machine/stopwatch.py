"""Seconds on a clock that is never set back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Stopwatch:
    """Counts seconds within ``with``, and goes on from `total` each time."""

    total: float = 0.0
    _began: float | None = None

    @property
    def seconds(self) -> float:
        return self.total + (0.0 if self._began is None else time.perf_counter() - self._began)

    def __enter__(self) -> Stopwatch:
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.total, self._began = self.seconds, None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stands still within, if it runs."""
        running = self._began is not None
        self.total, self._began = self.seconds, None
        try:
            yield
        finally:
            self._began = time.perf_counter() if running else None
