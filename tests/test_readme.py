"""The README is short, and says of commands and methods what is so."""

from __future__ import annotations

import re

from dora_cli.recipe.methods import method_catalogue
from tests.docs.pages import README, ROOT, blocks

TEXT = README.read_text(encoding="utf-8")
MOST = 12_000
"""Bytes: what somebody reads who does not know yet whether to go on."""


def test_it_is_short() -> None:
    assert len(README.read_bytes()) <= MOST


def test_its_first_two_commands_are_those_of_the_continuous_integration() -> None:
    """Which installs the same, trains the same recipe and starts the same tests."""
    first, second = (block for block in blocks(README, "sh")[:2])
    checked = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for word in ("dora train configs/demo/sst2.yaml", "pip install -e .", "python -m pytest -n auto --dist loadfile"):
        shown = first.text + second.text
        assert word in shown.replace("/bin/", " "), word
    for word in ('/dora" train configs/demo/sst2.yaml', "-e '.[test]'", '/python" -m pytest -n auto --dist loadfile'):
        assert word in checked, word


def test_the_table_of_methods_is_that_of_the_program() -> None:
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in TEXT.splitlines() if row.startswith("| `")]
    shown = [(re.findall(r"`([\w-]+)`", row[0])[0], "default" in row[0], row[2], row[3], row[4]) for row in rows]
    assert shown == [
        (
            known["name"],
            known["default"],
            known["ranks"],
            "yes" if known["mergeable"] else "no",
            "yes" if known["lora"] else "no",
        )
        for known in method_catalogue()
    ]
    for row, known in zip(rows, method_catalogue(), strict=True):
        assert known["paper"] in row[1]
        assert known["summary"].partition(" on the")[0] in row[1]
