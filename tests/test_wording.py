"""Plain words: what prose of ours does not say, how no docstring begins, and which tests may ask for a sentence."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for room in ("dora_cli", "scripts", "tests") for path in (ROOT / room).rglob("*.py"))
PROSE = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
DATA = {"dora_cli/data/builtin/events.py", "scripts/pretraining_text.py"}
"""Their sentences are data, which the built-in models have learned: their verbs stay."""

OPENINGS = re.compile(r"\s*(Of|As|Likewise)\b")
"""Docstrings start with what a thing is or does."""
FIX = re.compile(r"\b_?m" + r"end(s|ed|ing)?\b", re.IGNORECASE)
"""The word for it is "fix"."""

IN_A_ROW = 5
"""Words that follow each other in a sentence and hardly ever by chance."""


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@dataclass
class Strings:
    """The strings of a source, each with its line: those that stand alone (of modules, classes, functions and
    attributes), and all others.
    """

    alone: list[tuple[int, str]] = field(default_factory=list)
    others: list[tuple[int, str]] = field(default_factory=list)


def strings(source: str) -> Strings:
    found, standing_alone = Strings(), set[int]()
    for node in ast.walk(ast.parse(source)):  # an expression comes before what it consists of
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            found.alone.append((node.lineno, node.value.value))
            standing_alone.add(node.lineno)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.lineno not in standing_alone:
            found.others.append((node.lineno, node.value))
    return found


@cache
def strings_of(path: Path) -> Strings:
    return strings(path.read_text(encoding="utf-8"))


def sentences(found: Strings) -> Iterator[tuple[int, str]]:
    """Line and text of every `IN_A_ROW` words between two signs, in strings that do not stand alone."""
    for line, text in found.others:
        if text.count(" ") + text.count("\n") < IN_A_ROW - 1:
            continue
        for part in re.split(r"[^a-z' \n]+", text.lower()):
            words = part.split()
            for start in range(len(words) - IN_A_ROW + 1):
                yield line, " ".join(words[start : start + IN_A_ROW])


def room(path: Path, root: str) -> str:
    """The folder of `path` right below `root`; empty for what lies in none."""
    first, *rest = path.relative_to(ROOT / root).parts
    return first if rest else ""


def test_a_sentence_is_asked_for_in_the_room_that_says_it_alone() -> None:
    """Other tests ask for the kind of error and what it names: who changes a message changes one room's tests."""
    said: dict[str, set[str]] = {}
    for path in (ROOT / "dora_cli").rglob("*.py"):
        if not path.is_relative_to(ROOT / "dora_cli" / "data" / "builtin"):  # generated texts, which are data
            for _, words in sentences(strings_of(path)):
                said.setdefault(words, set()).add(room(path, "dora_cli"))
    found = {
        f"{name(path)}:{line}: {words}"
        for path in (ROOT / "tests").rglob("*.py")
        for line, words in sentences(strings_of(path))
        if words in said and room(path, "tests") not in said[words]
    }
    assert sorted(found) == []


def test_no_docstring_begins_with_a_fragment() -> None:
    found = [
        f"{name(path)}:{line}: {text}"
        for path in SOURCES
        for line, text in strings_of(path).alone
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
    assert [line for line, text in strings(source).alone if OPENINGS.match(text)] == [2, 4]
    assert not OPENINGS.match("Asks the hub.")
    message = 'def f():\n    """Not a word of it is read."""\n    g("no, nothing is here to read; x")\n'
    assert list(sentences(strings(message))) == [(3, "nothing is here to read")]
    assert room(Path(__file__), "tests") == ""
    assert room(ROOT / "tests" / "data" / "sources" / "test_files.py", "tests") == "data"
    assert FIX.search("to be m" + "ended")
    assert not FIX.search("recommended")
