"""The process that imports what may be broken, started by `dora_cli.doctor.imports`.

Reads a list of modules from stdin, as JSON, and writes a line of JSON for each as soon as it is known: ``{"module":
null}``, or what is wrong with it.
"""

from __future__ import annotations

import json
import os
import sys

from dora_cli.doctor.devices import look_at_devices
from dora_cli.doctor.imports import MACHINE
from dora_cli.doctor.threads import look_at_threads
from dora_cli.libraries import import_problem


def main() -> None:
    """Answers to everything that is asked for; what libraries print meanwhile goes nowhere."""
    items = json.load(sys.stdin)
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answer, open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        for item in items:
            said = (
                {"devices": look_at_devices(), "threads": look_at_threads()}
                if item == MACHINE
                else import_problem(item)
            )
            answer.write(json.dumps({item: said}) + "\n")
            answer.flush()
    os._exit(0)  # all is said, and what was imported would be taken down piece by piece for half a second
