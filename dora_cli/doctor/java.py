"""Java and the programs that METEOR needs."""

from __future__ import annotations

import subprocess
from typing import Any

from dora_cli.metrics.e2e.java import JavaError, find_java

_TIMEOUT = 20.0


def look_for_java() -> dict[str, Any]:
    """``path, version, problem``; `problem` says what to install, None if METEOR can be computed."""
    try:
        path = find_java()
    except JavaError as error:
        return {"path": None, "version": None, "problem": str(error)}
    try:
        done = subprocess.run(
            [path, "-version"], capture_output=True, encoding="utf-8", errors="replace", timeout=_TIMEOUT
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"path": path, "version": None, "problem": f"{path} cannot be run ({error})"}
    said = (done.stderr or done.stdout).strip().splitlines()
    if done.returncode:
        return {
            "path": path,
            "version": None,
            "problem": f"{path} fails ({said[-1] if said else 'it said nothing'}); install Java again",
        }
    return {"path": path, "version": said[0] if said else None, "problem": None}
