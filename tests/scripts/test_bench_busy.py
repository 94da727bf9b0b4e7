"""The benchmark beside busy processes: what it calls fair, and that nothing stays busy."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest


def test_a_fair_share_of_the_cores() -> None:
    from bench_busy import compare

    # One thread on two cores shares them with one other without loss; three make two thirds, five two fifths of a core
    # each.
    rows = compare({0: 10.0, 1: 11.0, 2: 15.0, 4: 50.0}, cores=2, threads=1)
    assert [row["fair"] for row in rows] == [1.0, 1.0, 3 / 2, 5 / 2]
    assert [row["over"] for row in rows] == pytest.approx([1.0, 1.1, 1.0, 2.0])
    # Two threads on two cores have two thirds of them beside one other, half beside two.
    assert [row["fair"] for row in compare({0: 1.0, 1: 1.0, 2: 1.0}, cores=2, threads=2)] == [1.0, 3 / 2, 2.0]
    # more threads than cores are no more alone either
    assert compare({0: 1.0, 1: 1.0}, cores=2, threads=64)[1]["fair"] == 3 / 2


def test_busy_processes_end_with_what_they_are_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    import bench_busy

    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: Any, **others: Any) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(*arguments, **others))
        return started[-1]

    def stopped() -> None:
        with bench_busy.beside(2):
            assert [process.poll() for process in started] == [None, None]
            raise KeyboardInterrupt

    monkeypatch.setattr(bench_busy, "_COUNT", "import time; time.sleep(600)")
    monkeypatch.setattr(bench_busy, "start", start)
    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert [process.poll() is not None for process in started] == [True, True]
