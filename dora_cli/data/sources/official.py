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
    """The file of `split` in `folder`.

    Args:
        task_name: for messages.
        source: the ``data.source`` that reads the release.
        folder: the user's ``data.path``.
        files: names that each split's file may have; the first that exists is taken.
        split: the hub's name of the split.
        inner: name of the folder that the release keeps the files in, which is suggested where they are found there.

    Raises:
        DataError: no such folder or file; says what is there.
    """
    names = files[split]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    if not folder.is_dir():
        wanted = quoted(sorted({name for alternatives in files.values() for name in alternatives}))
        raise DataError(
            f"data.path: {str(folder)!r} is not a folder; data.source {source} needs the folder that holds {wanted}"
        )
    within = None if inner is None else folder / inner
    hint = (
        f"; set data.path: {within}" if within is not None and any((within / name).is_file() for name in names) else ""
    )
    present = quoted(sorted(entry.name for entry in folder.iterdir())[:20])
    wanted = " or ".join(map(repr, names))
    raise DataError(
        f"data.path: {str(folder)!r} has no {wanted} for the split {split} of {task_name}; it has {present}{hint}"
    )
