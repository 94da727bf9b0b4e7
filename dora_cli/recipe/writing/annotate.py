"""A recipe with a comment at every key, for people who will change it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence

from dora_cli.recipe.fields import Section
from dora_cli.recipe.schema import Recipe, section_keys
from dora_cli.recipe.writing.descriptions import choices, key_descriptions
from dora_cli.recipe.writing.dump import dump_recipe

_COLUMN = 34  # where comments begin
_WIDTH = 120
_KEY = re.compile(r"(  )?(\w+):(?: |$)")


def annotated(recipe: Recipe, heading: Sequence[str] = ()) -> str:
    """`recipe` as YAML, every key with its value and what it is for; `parse_recipe` reads back an equal recipe.

    Args:
        recipe: the recipe.
        heading: lines of the comment at the top.
    """
    lines = [f"# {line}".rstrip() for line in heading]
    section: type[Section] | None = None
    for line in dump_recipe(recipe).splitlines():
        match = _KEY.match(line)
        if match is None:  # an item of a value of several lines
            lines.append(line)
        elif match[1] is None:
            section = section_keys(match[2], {"name": recipe.method.name})
            lines += ["", *_with_comment(line, key_descriptions(Recipe).get(match[2], ""))]
        else:
            assert section is not None, "a key that is indented is in a section"
            lines += _with_comment(line, _comment(section, match[2]))
    return "\n".join(lines).lstrip("\n") + "\n"


def _comment(section: type[Section], key: str) -> str:
    """What the key is for, and which words it takes where that does not name them all."""
    text = key_descriptions(section).get(key, "")
    words = choices(section, key)
    if len(words) < 2 or all(re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text) for word in words):
        return text
    return f"{', '.join(words[:-1])} or {words[-1]}: {text}" if text else " or ".join(words)


def _with_comment(line: str, comment: str) -> Iterator[str]:
    """`line` with `comment` to its right, which goes on below where it is long."""
    column = max(_COLUMN, len(line) + 1)
    first, *rest = textwrap.wrap(comment.removesuffix("."), max(_WIDTH - column - 2, 40), break_long_words=False) or [
        ""
    ]
    yield f"{line:<{column}}# {first}" if first else line
    for more in rest:
        yield f"{'':<{column}}# {more}"
