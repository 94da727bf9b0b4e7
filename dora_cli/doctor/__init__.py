"""What ``dora doctor`` looks at: whether this machine can run dora, and what it lacks.

No module here imports a package that may be broken before it has been looked at.
"""

from __future__ import annotations

import platform
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from dora_cli.doctor.caches import look_at_caches
from dora_cli.doctor.devices import look_at_devices
from dora_cli.doctor.hub import ask_the_hub
from dora_cli.doctor.packages import look_at_extras, look_at_packages
from dora_cli.doctor.threads import look_at_threads
from dora_cli.metrics.e2e.java import look_for_java
from dora_cli.version import __version__

__all__ = ["examine"]


def examine() -> dict[str, Any]:
    """Everything there is to say, as plain data.

    Returns:
        ``dora, python, platform``; ``packages`` (what dora cannot run without), ``devices, threads, caches, extras,
        hub, java``; and ``problems``: what is broken of what is needed, one sentence each, empty where dora can run.
    """
    with ThreadPoolExecutor() as pool:  # these wait, for a server and for a program, while packages are imported
        hub, java = pool.submit(ask_the_hub), pool.submit(look_for_java)
        return _examine(hub, java)


def _examine(hub: Future[dict[str, Any]], java: Future[dict[str, Any]]) -> dict[str, Any]:
    packages = look_at_packages()
    problems = [f"{package['name']}: {package['problem']}" for package in packages if package["problem"]]
    devices = look_at_devices()
    caches = look_at_caches()
    problems += [f"{cache['name']}: {cache['problem']}" for cache in caches if cache["needed"] and cache["problem"]]
    return {
        "dora": __version__,
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "platform": platform.platform(),
        "packages": packages,
        "devices": devices,
        "threads": look_at_threads(),
        "caches": caches,
        "extras": look_at_extras(),
        "hub": hub.result(),
        "java": java.result(),
        "problems": problems,
    }
