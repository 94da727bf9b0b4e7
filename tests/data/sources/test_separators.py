"""A table whose name says another separator than its fields have: what to do is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from dora_cli.data.sources.separators import separator_fault


@pytest.mark.parametrize(
    ("name", "header", "fix"),
    [
        (
            "a.csv",
            "sentence;label",
            "semicolons, those of a .csv by commas; semicolon; save it with commas",
        ),
        ("a.csv", "sentence|label", "bars, those of a .csv by commas; bar; save it with commas"),
        (
            "a.csv",
            "sentence\tlabel",
            "tabs, those of a .csv by commas; tab; give its name the ending .tsv",
        ),
        (
            "a.csv",
            '"sentence"\t"label"',
            "tabs, those of a .csv by commas; tab; save it with commas",
        ),  # no tsv: it is quoted
        (
            "a.tsv",
            "sentence,label",
            "commas, those of a .tsv by tabs; comma; give its name the ending .csv",
        ),
        (
            "a.tsv",
            "sentence;label",
            "semicolons, those of a .tsv by tabs; semicolon; save it with tabs",
        ),
    ],
)
def test_what_to_do_is_said(name: str, header: str, fix: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(f"{header}\n")
    fault, key, rest = fix.split("; ")
    said = f"{path}: its fields are separated by {fault}; set data.separator: {key}, or {rest}"
    assert separator_fault(path) == said


@pytest.mark.parametrize(
    ("name", "header"),
    [("a.csv", "sentence,label"), ("a.csv", "sentence,a;b"), ("a.tsv", "a\tb"), ("a.csv", "a")],
)
def test_a_table_as_it_should_be(name: str, header: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(f"{header}\n")
    assert separator_fault(tmp_path / name) is None
