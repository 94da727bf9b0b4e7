"""Seconds, on a clock that the test sets."""

from __future__ import annotations

import time

import pytest

from dora_cli.machine.stopwatch import Stopwatch


def test_it_counts_within_alone_and_not_while_it_is_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    watch = Stopwatch(total=5.0)
    now = 110.0
    assert watch.seconds == 5
    with watch:
        now = 111.0
        assert watch.seconds == 6
        with watch.paused():
            now = 120.0
            assert watch.seconds == 6
        now = 122.0
    now = 200.0
    assert watch.seconds == 8
    with watch.paused():
        now = 300.0
    assert watch.seconds == 8
