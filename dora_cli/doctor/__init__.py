"""What ``dora doctor`` looks at: whether this machine can run dora, and what it lacks.

What may be broken is imported by processes of their own: see `dora_cli.doctor.imports`.
"""

from __future__ import annotations

import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dora_cli.doctor.caches import look_at_caches
from dora_cli.doctor.hub import ask_the_hub
from dora_cli.doctor.imports import MACHINE, answers, ask_side_by_side
from dora_cli.doctor.packages import changed, judged, look_at_extras, needed_packages, to_import
from dora_cli.doctor.threads import threads_without_torch
from dora_cli.metrics.e2e.java import look_for_java
from dora_cli.version import __version__

__all__ = ["examine"]


def examine() -> dict[str, Any]:
    """Everything there is to say, as plain data.

    Returns:
        ``dora, python, platform``; ``packages`` (what dora cannot run without), ``devices, threads, caches, extras,
        hub, java``; and ``problems``: what is broken of what is needed, one sentence each, empty where dora can run.
    """
    packages = needed_packages()
    with ThreadPoolExecutor() as pool:  # these wait: for imports, a server and a program
        imports = ask_side_by_side(pool, to_import(packages))
        hub, java = pool.submit(ask_the_hub), pool.submit(look_for_java)
        imports.append(pool.submit(answers, changed(packages)))
        extras, caches = look_at_extras(), look_at_caches()
        found = {name: answer for asked in imports for name, answer in asked.result().items()}
        said = judged(packages, found)
        machine = found[MACHINE] or {"devices": [], "threads": threads_without_torch()}
        problems = [f"{row['name']}: {row['problem']}" for row in said if row["problem"]]
        problems += [f"{cache['name']}: {cache['problem']}" for cache in caches if cache["needed"] and cache["problem"]]
        return {
            "dora": __version__,
            "python": {"version": platform.python_version(), "executable": sys.executable},
            "platform": platform.platform(),
            "packages": said,
            "devices": machine["devices"],
            "threads": machine["threads"],
            "caches": caches,
            "extras": extras,
            "hub": hub.result(),
            "java": java.result(),
            "problems": problems,
        }
