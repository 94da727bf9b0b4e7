"""The program: ``dora``, or ``python -m dora_cli``."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Sequence

from dora_cli.commands import app
from dora_cli.libraries import leave_out, sleep_while_waiting


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command, of this process's arguments unless some are given, and ends the process.

    Python looks for garbage among all modules before it ends, more than a second's work after a training. Frozen, they
    are left alone.
    """
    atexit.register(gc.freeze)
    sleep_while_waiting()
    leave_out()
    app(None if arguments is None else list(arguments), prog_name="dora")


if __name__ == "__main__":
    main()
