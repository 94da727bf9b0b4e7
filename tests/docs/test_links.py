"""Links between the pages, and marks on them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import GUIDE, NEEDS, PAGES, RESULTS, ROOT, name

_FENCED = re.compile(r"^```.*?^```$", flags=re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", flags=re.MULTILINE)
_MARK = re.compile(r"<!--(.*?)-->", flags=re.DOTALL)


def prose(page: Path) -> str:
    return _FENCED.sub("", page.read_text(encoding="utf-8"))


def anchor(heading: str) -> str:
    """What a heading is called in a link: GitHub's rule, as far as our headings need it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in _LINK.findall(prose(page)):
        place, _, part = target.partition("#")
        file = (page.parent / place).resolve() if place else page
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        if part:
            assert part in [anchor(heading) for heading in _HEADING.findall(prose(file))], target


@pytest.mark.parametrize("pages", [GUIDE, RESULTS], ids=["guide", "results"])
def test_the_first_page_lists_all_others(pages: list[Path]) -> None:
    first = next(page for page in pages if page.name in ("README.md", "results.md"))
    listed = {(first.parent / target.partition("#")[0]).resolve() for target in _LINK.findall(prose(first))}
    assert set(pages) - {first} <= listed


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_mark_is_one_we_know(page: Path) -> None:
    """And stands right above a block, or a test would not see it."""
    text = page.read_text(encoding="utf-8")
    for found in _MARK.finditer(text):
        word, _, value = found[1].strip().partition(": ")
        assert (word == "needs" and value in NEEDS) or (word == "from" and (ROOT / value).is_file()), found[0]
        assert text[found.end() :].startswith("\n```"), found[0]


def test_headings_are_named_as_github_names_them() -> None:
    assert anchor("A busy machine (2026-11-28)") == "a-busy-machine-2026-11-28"
    assert anchor("Where we deviate from the published code, and why") == (
        "where-we-deviate-from-the-published-code-and-why"
    )
