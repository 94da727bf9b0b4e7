"""The folders of official releases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dora_cli.data.sources.values import quoted
from dora_cli.errors import DataError


def find_official(
    task_name: str,
    source: str,
    folder: Path,
    files: Mapping[str, Sequence[str]],
    split: str,
    *,
    inner: str | None = None,
) -> Path:
    """The file of `split` in `folder`, or in the release's folder `inner` within it.

    Args:
        task_name: for messages.
        source: the ``data.source`` that reads the release.
        folder: the user's ``data.path``.
        files: names that each split's file may have; the first that exists is taken.
        split: the hub's name of the split.
        inner: name of the folder that the release keeps the files in, so that `folder` may also be that of the whole
            release.

    Raises:
        DataError: no such folder or file; says what is there.
    """
    names = files[split]
    for place in (folder, *(() if inner is None else (folder / inner,))):
        for name in names:
            if (place / name).is_file():
                return place / name
    if not folder.is_dir():
        wanted = quoted(sorted({name for alternatives in files.values() for name in alternatives}))
        raise DataError(
            f"data.path: {str(folder)!r} is not a folder; data.source {source} needs the folder that holds {wanted}"
            + ("" if inner is None else f", or the one above it, which holds {inner!r}")
        )
    present = quoted(sorted(entry.name for entry in folder.iterdir())[:20])
    wanted = " or ".join(map(repr, names))
    raise DataError(
        f"data.path: {str(folder)!r} has no {wanted} for the split {split} of {task_name}"
        + ("" if inner is None else f", and no {inner!r} that has it")
        + f"; it has {present}"
    )
