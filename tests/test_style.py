"""What keeps the code readable and can be counted: short functions, rooms of few files."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "dora_cli"

LONGEST = 80
"""Lines of a function, from ``def`` to its last one, its docstring included: what can be read without losing one's
place.
"""
FILES_OF_TRAINING = 15
"""In the room itself and in each of its folders."""


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def test_lines_are_counted_from_def_to_the_last_one() -> None:
    source = "@decorated\ndef one(\n    a: int,\n) -> int:\n    '''Doc.'''\n    return (\n        a\n    )\n\n\nx = 1\n"
    (function,) = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    assert lines(function) == 7


def test_no_function_is_longer_than_a_reader_can_hold() -> None:
    long = {
        f"{path.relative_to(PACKAGE)}:{function.lineno} {function.name}": lines(function)
        for path in PACKAGE.rglob("*.py")
        for function in functions(path)
        if lines(function) > LONGEST
    }
    assert not long


def test_the_room_of_training_has_few_files() -> None:
    counts = Counter(path.parent for path in (PACKAGE / "training").rglob("*.py"))
    assert max(counts.values()) <= FILES_OF_TRAINING
