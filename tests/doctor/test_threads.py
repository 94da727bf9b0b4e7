"""Threads and the load of this machine."""

from __future__ import annotations

import os

import pytest
import torch

from dora_cli.doctor.threads import look_at_threads
from dora_cli.machine.threads import most_threads


def test_threads_and_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    monkeypatch.setattr(os, "getloadavg", lambda: (3.14159, 2.0, 1.0))
    for name in ("MKL_NUM_THREADS", "LOCAL_WORLD_SIZE", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    found = look_at_threads()
    assert (found["cores"], found["torch"], found["load"]) == (len(os.sched_getaffinity(0)), 6, [3.14, 2.0, 1.0])
    assert found["large"] == found["most"] == most_threads()  # RoBERTa-base takes what there is
    assert found["environment"] == {"OMP_NUM_THREADS": "6"}
    monkeypatch.delattr(os, "getloadavg")  # Windows
    assert look_at_threads()["load"] is None
