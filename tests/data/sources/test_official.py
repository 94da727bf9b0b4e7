"""Folders of official releases: what is looked for, and what to set where it is elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dora_cli.data.sources.official import find_official
from dora_cli.errors import DataError

FILES = {"train": ("train.tsv", "train.old.tsv"), "test": ("test.tsv",)}


def find(folder: Path) -> Path:
    return find_official("glue/rte", "glue-tsv", folder, FILES, "train", inner="RTE")


def test_where_a_release_is_not(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    says = (
        f"data.path: '{absent}' is not a folder; data.source glue-tsv needs the folder that holds 'test.tsv', "
        "'train.old.tsv', 'train.tsv', or the one above it, which holds 'RTE'"
    )
    with pytest.raises(DataError, match=f"^{re.escape(says)}$"):
        find(absent)
    inner = tmp_path / "RTE"
    inner.mkdir()
    says = (
        f"data.path: '{tmp_path}' has no 'train.tsv' or 'train.old.tsv' for the split train of glue/rte, and no 'RTE' "
        "that has it; it has 'RTE'"
    )
    with pytest.raises(DataError, match=f"^{re.escape(says)}$"):
        find(tmp_path)
    (inner / "train.old.tsv").touch()
    assert find(tmp_path) == inner / "train.old.tsv"  # of the whole release
    assert find(inner) == inner / "train.old.tsv"
