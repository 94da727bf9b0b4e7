"""The pages that readers are given, and what is fenced off on them.

A block may have a mark on the line above it: ``<!-- needs: network -->`` (or ``gpu``, ``processes``, ``time``) for
commands that a test cannot run, ``<!-- from: tests/FILE -->`` for an example that stands in a file which tests run.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
GUIDE = sorted((ROOT / "docs" / "guide").glob("*.md"))
RESULTS = [ROOT / "docs" / "results.md", *sorted((ROOT / "docs" / "results").glob("*.md"))]
PAGES = [README, CONTRIBUTING, ROOT / "CHANGELOG.md", ROOT / "docs" / "decisions.md", *GUIDE, *RESULTS]

NEEDS = {"network", "gpu", "processes", "time"}

_BLOCK = re.compile(r"(?:^<!-- (\w+): (\S+) -->\n)?^```(\w+)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
_HERE = re.compile(r"<<'(\w+)'\n.*?^\1$", flags=re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """What is between two fences.

    Attributes:
        language: what the first fence says.
        text: the lines, without the fences.
        mark: the word of the mark above it, ``""`` without one.
        value: what the mark says.
    """

    language: str
    text: str
    mark: str = ""
    value: str = ""

    @property
    def needs(self) -> str | None:
        """What keeps a test from running its commands."""
        return self.value if self.mark == "needs" else None

    @property
    def lines(self) -> list[str]:
        """Its commands: lines that a backslash continues are one, what is fed to a command is left out."""
        text = _HERE.sub("", self.text).replace("\\\n", " ")
        return [line for line in text.splitlines() if shlex.split(line, comments=True)]


def blocks(page: Path, language: str) -> list[Block]:
    """The blocks of a page that are written in `language`."""
    found = _BLOCK.findall(page.read_text(encoding="utf-8"))
    return [Block(word, text, mark, value) for mark, value, word, text in found if word == language]


def name(page: Path) -> str:
    """What a page is called in a test's name."""
    return page.relative_to(ROOT).as_posix()
