"""Plain words: what prose of ours does not say, and how no docstring begins."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for room in ("dora_cli", "scripts", "tests") for path in (ROOT / room).rglob("*.py"))
PROSE = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
DATA = {"dora_cli/data/builtin/events.py", "scripts/pretraining_text.py"}
"""Their sentences are data, which the built-in models have learned: their verbs stay."""

OPENINGS = re.compile(r"\s*(Of|As|Likewise)\b")
"""Docstrings start with what a thing is or does."""
FIX = re.compile(r"\b_?m" + r"end(s|ed|ing)?\b", re.IGNORECASE)
"""The word for it is "fix"."""


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of every string that stands alone: of modules, classes, functions and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def test_no_docstring_begins_with_a_fragment() -> None:
    found = [
        f"{name(path)}:{line}: {text}"
        for path in SOURCES
        for line, text in docstrings(ast.parse(path.read_text(encoding="utf-8")))
        if OPENINGS.match(text)
    ]
    assert found == []


def test_what_is_broken_is_fixed() -> None:
    files = [path for path in (*SOURCES, *PROSE) if name(path) not in DATA]
    found = [
        f"{name(path)}:{number}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if FIX.search(line)
    ]
    assert found == []


def test_the_rules_find_what_they_are_for() -> None:
    source = 'A = 1\n"""Of the letter."""\ndef f():\n    """As before."""\n'
    assert [line for line, text in docstrings(ast.parse(source)) if OPENINGS.match(text)] == [2, 4]
    assert not OPENINGS.match("Asks the hub.")
    assert FIX.search("to be m" + "ended")
    assert not FIX.search("recommended")
