"""The files that commands write for their users: one rule for all of them.

A file that is there is replaced only where ``--overwrite`` says so, a record of a run never. ``-`` is stdout, for what
is text; a device or a pipe (``/dev/null``, ``>(...)``) takes what is written, and is not replaced.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dora_cli.atomic import cannot_write, write_bytes
from dora_cli.errors import OutputError
from dora_cli.files import real_path
from dora_cli.printable import pour
from dora_cli.runs.run_folder import RunRecords

STDOUT = "-"
_ALIASES = (STDOUT, "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


def is_stdout(output: str | Path | None) -> bool:
    """Whether `output` stands for stdout."""
    return output is not None and str(output) in _ALIASES


def check_output_file(
    output: Path,
    *,
    overwrite: bool,
    option: str = "--output",
    example: str = "result.json",
    endings: Sequence[str] = (),
) -> None:
    """Refuses a file that must not or cannot be written, before the work whose result it is to hold. Writes nothing.

    Args:
        overwrite: whether a file that is there may be replaced.
        option: by which it was named.
        example: a name it could have.
        endings: those it may have, such as ``.html``; none: any.

    Raises:
        OutputError: what it says.
    """
    if is_stdout(output):
        return
    if output.is_dir():
        raise OutputError(f"{option} {output} is a folder; name a file in it, such as {output / example}")
    if endings and output.suffix.lower() not in endings:
        given = f"ends in {output.suffix}" if output.suffix else "has no ending"
        raise OutputError(
            f"{option} {output} {given}; name a file that ends in {' or '.join(endings)}, such as {example}"
        )
    if is_record(output):
        raise OutputError(f"{option} {output} is a record of the run itself; name another file")
    if (output.is_file() or output.is_symlink()) and not _takes_a_stream(output) and not overwrite:
        raise OutputError(f"{option} {output} exists already; choose another name, or pass --overwrite to replace it")
    check_place(output, option=option)


def check_no_stdout(output: str | Path | None, what: str, *, option: str = "--output") -> None:
    """Refuses ``-`` where `what` is written, which is no text. Raises OutputError."""
    if is_stdout(output):
        raise OutputError(f"{option} {output} is stdout, but {what}; name one (a file or folder of that name is ./-)")


def check_place(output: Path, *, option: str = "--output") -> None:
    """Refuses a path below which nothing can be made. Writes nothing; raises OutputError."""
    place = next(path for path in (output, *output.parents) if path.exists())
    if place != output and not place.is_dir():
        raise OutputError(
            f"{option} {output} cannot be written: {place} is a file, not a folder; choose another {option}"
        )
    if not os.access(place, os.W_OK | os.X_OK if place.is_dir() else os.W_OK):
        raise OutputError(f"{option} {output} cannot be written: no permission in {place}; choose another {option}")


def is_record(path: Path) -> bool:
    """Whether `path` is, or lies in, a part of a run folder that dora writes."""
    whole = real_path(path)
    for folder in whole.parents:
        run = RunRecords(folder)
        records = (run.recipe, run.metrics, run.ranks, run.environment, run.log, run.predictions, run.summary)
        parts = (run.adapter, run.checkpoints, run.trackers)
        if is_run(folder) and (whole in records or any(part in whole.parents for part in parts)):
            return True
    return False


def is_run(folder: Path) -> bool:
    """Whether `folder` looks like a run folder, or like the parent of runs over several seeds."""
    return RunRecords(folder).recipe.is_file() or any(seed.recipe.is_file() for seed in RunRecords(folder).seed_runs())


def write_output(output: Path, content: str | bytes) -> None:
    """Writes a result to where `check_output_file` let it go. Raises OutputError."""
    if is_stdout(output):
        assert isinstance(content, str)
        pour(content)
        return
    raw = content.encode("utf-8") if isinstance(content, str) else content
    if not _takes_a_stream(output):
        write_bytes(output, raw)
        return
    try:
        output.write_bytes(raw)
    except OSError as error:
        raise cannot_write(output, error) from error


def _takes_a_stream(path: Path) -> bool:
    """Whether `path` is a device or a pipe, beside which nothing is written and in whose place nothing is moved."""
    return path.exists() and not path.is_file() and not path.is_dir()
