"""Lines of Python as text, for model cards."""

from __future__ import annotations

import json
from collections.abc import Sequence

from dora_cli.printable import escape_json


def literal(text: str) -> str:
    """`text` as Python source, in double quotes."""
    return escape_json(json.dumps(text, ensure_ascii=False))


def call(function: str, arguments: Sequence[str]) -> list[str]:
    """A call on one line, or with an argument a line where it would be too long."""
    line = f"{function}({', '.join(arguments)})"
    return [line] if len(line) <= 120 else [f"{function}(", *(f"    {argument}," for argument in arguments), ")"]
