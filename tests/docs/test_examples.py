"""What a page shows of code and recipes is what the tests run, and what the program reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dora_cli.methods import Method
from dora_cli.recipe import FederatedSection, dump_recipe, parse_recipe
from tests.docs.pages import CONTRIBUTING, PAGES, ROOT, blocks, name
from tests.test_architecture import ORDER
from tests.test_new_packages import ENTRY_POINTS

RECIPES = ROOT / "docs" / "guide" / "recipes.md"


def keys(text: str) -> set[str]:
    return set(re.findall(r"^ *(\w+):", text, flags=re.MULTILINE))


def test_the_recipe_shown_lists_every_key_with_its_default() -> None:
    shown, decode = (block.text for block in blocks(RECIPES, "yaml"))
    smallest = "task: glue/rte\nmodel: {name: FacebookAI/roberta-base}\n"
    for text, like in ((shown, smallest), (smallest + decode, smallest + "decode: {}")):
        assert parse_recipe(text) == parse_recipe(like)
    assert keys(shown + decode) == keys(dump_recipe(parse_recipe(smallest + "decode: {}")))


def test_the_federated_section_shown_lists_every_key_with_its_default() -> None:
    (shown,) = (block.text for block in blocks(RECIPES.with_name("federated.md"), "yaml"))
    smallest = "task: glue/rte\nmodel: {name: FacebookAI/roberta-base}\nmethod: {name: lora}\n"
    assert parse_recipe(smallest + shown) == parse_recipe(smallest + "federated: {}")
    assert keys(shown) == {"federated", *FederatedSection.model_fields}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_examples_of_a_file_stand_in_it(page: Path) -> None:
    """In the order of the page, with nothing changed; what is between them may be left out."""
    at: dict[str, int] = {}
    for language in ("python", "text", "toml"):
        for block in blocks(page, language):
            if block.mark == "from":
                whole = (ROOT / block.value).read_text(encoding="utf-8")
                place = whole.find(block.text, at.get(block.value, 0))
                assert place >= 0, f"{block.value}:\n{block.text}"
                at[block.value] = place + len(block.text)


def test_the_examples_of_contributing_are_marked() -> None:
    """Or nobody would notice that they are no longer so."""
    assert all(block.mark == "from" for block in blocks(CONTRIBUTING, "python"))
    assert blocks(CONTRIBUTING, "python")


def groups(text: str) -> dict[str, dict[str, str]]:
    """Entry points, as a package's metadata or a pyproject.toml lists them."""
    found: dict[str, dict[str, str]] = {}
    for line in text.replace('"', "").split("\n"):
        if line.startswith("["):
            found[line.strip("[]").removeprefix("project.entry-points.")] = {}
        elif line:
            key, value = line.split(" = ")
            found[list(found)[-1]][key] = value
    return found


def test_the_entry_points_shown_are_those_of_the_tests() -> None:
    for block in blocks(CONTRIBUTING, "toml"):
        for group, entries in groups(block.text).items():
            assert entries
            assert entries.items() <= groups(ENTRY_POINTS)[group].items()


def test_the_rooms_are_those_of_the_house_in_their_order() -> None:
    listed = re.findall(r"^\| `(\w+)/` \|", CONTRIBUTING.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert tuple(listed) == ORDER


GIVEN = {"attach", "sites", "head", "generator", "references", "folded", "merge", "release", "name"}
"""What the base class does by itself, or gives."""


def test_the_guide_lists_all_that_a_method_may_say() -> None:
    page = (ROOT / "docs" / "guide" / "methods.md").read_text(encoding="utf-8")
    rows = [row for row in page.splitlines() if row.startswith("| ")]
    named = {word for row in rows for word in re.findall(r"`(?:self\.)?(\w+)[(`]", row)}
    public = {word for word in vars(Method) if not word.startswith("_")}
    assert public - GIVEN <= named
