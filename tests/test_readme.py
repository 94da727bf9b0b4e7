"""The README says what the program does."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from dora_cli.commands import app
from dora_cli.recipe import dump_recipe, parse_recipe

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_recipe_shown_lists_every_key_with_its_default() -> None:
    shown, decode = blocks("yaml")
    smallest = "task: glue/rte\nmodel: {name: FacebookAI/roberta-base}\n"
    for text, like in ((shown, smallest), (smallest + decode, smallest + "decode: {}")):
        assert parse_recipe(text) == parse_recipe(like)
    assert _keys(shown + decode) == _keys(dump_recipe(parse_recipe(smallest + "decode: {}")))


def _keys(text: str) -> set[str]:
    return set(re.findall(r"^ *(\w+):", text, flags=re.MULTILINE))


@pytest.mark.parametrize(
    "line", [line for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines() if "dora " in line]
)
def test_the_commands_shown_parse(line: str) -> None:
    """Every `dora` command line of the README is accepted by the parser, and the recipes it names exist."""
    words = shlex.split(line, comments=True)
    if "-m" in words and "dora_cli" in words:
        words = words[words.index("dora_cli") + 1 :]
    else:
        words = words[next(index for index, word in enumerate(words) if word.split("/")[-1] == "dora") + 1 :]
    command = get_command(app).commands[words[0]]  # type: ignore[attr-defined]
    context = command.make_context(words[0], words[1:], resilient_parsing=False)
    recipe = context.params.get("recipe")
    assert recipe is None or (ROOT / recipe).is_file()


def test_the_files_it_links_exist() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
