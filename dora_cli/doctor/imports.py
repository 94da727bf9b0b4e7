"""Importing what may be broken: in processes of their own, two of them side by side.

An import takes seconds that two cores can share, and a broken library may do worse than raise: where an import ends its
process, that is a finding like any other.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, Future
from typing import Any

MACHINE = "the machine"
"""What is asked for beside modules: devices and threads, which PyTorch knows."""
_ON_TORCH = ("torch", "torchvision", "accelerate")
"""What loads PyTorch, which takes as long as all the rest: one process for them."""
_START = """\
import sys
sys.path[:] = sys.argv[1:]  # before anything is imported: a program does not look among the files of the current folder
from dora_cli.doctor.probe import main
main()
"""


def ask_side_by_side(pool: Executor, modules: Iterable[str]) -> list[Future[dict[str, Any]]]:
    """Begins to import `modules` and to look at the machine; the answers of all together are those of `answers`."""
    modules = list(modules)
    first = [module for module in modules if module in _ON_TORCH]
    return [
        pool.submit(answers, [*first, MACHINE]),
        pool.submit(answers, [module for module in modules if module not in first]),
    ]


def answers(items: Sequence[str]) -> dict[str, Any]:
    """What importing each module came to: None, or what is wrong with it; for `MACHINE` what `dora_cli.doctor.probe`
    says, or None.

    A process answers in order, so the one that it does not live to answer has ended it, and the rest is asked again.
    """
    found: dict[str, Any] = {}
    while left := [item for item in items if item not in found]:
        done = subprocess.run(
            [sys.executable, "-c", _START, *sys.path],
            input=json.dumps(left),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        )
        for line in done.stdout.splitlines():
            found.update(json.loads(line))
        if fatal := next((item for item in left if item not in found), None):
            found[fatal] = None if fatal == MACHINE else _ended(done.returncode)
    return found


def _ended(code: int) -> str:
    how = f"signal {-code}, {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"
    return f"is installed but importing it ends the process ({how}); install it again"
