"""What commands that write a file have in common."""

from __future__ import annotations

from pathlib import Path

from dora_cli.errors import OptionError


def check_overwrite(output: str | Path | None, *, overwrite: bool, option: str = "--output") -> None:
    """Refuses ``--overwrite`` where no file is named that it could replace. Raises OptionError."""
    if overwrite and output is None:
        raise OptionError(f"--overwrite needs a file to replace; name it: {option} FILE")
