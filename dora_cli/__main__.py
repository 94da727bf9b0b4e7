"""The program: ``dora``, or ``python -m dora_cli``."""

from __future__ import annotations

from collections.abc import Sequence

from dora_cli.commands import program
from dora_cli.libraries import sleep_while_waiting


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command, of this process's arguments unless some are given, and ends the process."""
    sleep_while_waiting()
    program()(None if arguments is None else list(arguments), prog_name="dora")


if __name__ == "__main__":
    main()
