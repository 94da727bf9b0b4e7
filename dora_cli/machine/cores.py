"""The cores that there are for this process; asked without PyTorch."""

from __future__ import annotations

import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_of_quota(path: Path = QUOTA) -> int | None:
    """The whole cores that a container may keep busy; None without a limit. PyTorch sees all cores of the machine."""
    try:
        allowed, period = (int(part) for part in path.read_text(encoding="ascii").split())
    except (OSError, ValueError):  # no control groups, or "max"
        return None
    return max(1, allowed // period) if period > 0 else None
