"""What every key is for, read from where it is said: the ``Attributes:`` of the section's docstring.

Comments of a written recipe and the JSON Schema both come from here, so a key that is added to `dora_cli.recipe.schema`
appears in them.
"""

from __future__ import annotations

import inspect
import re
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from dora_cli.recipe.fields import Section

_ATTRIBUTE = re.compile(r"    (\w+): (.*)")
_CONTINUED = re.compile(r" {8}\s*(\S.*)")


def summary(section: type[Section]) -> str:
    """The first paragraph of a section's docstring."""
    return _plain(" ".join(inspect.cleandoc(section.__doc__ or "").partition("\n\n")[0].split()))


def key_descriptions(section: type[Section]) -> dict[str, str]:
    """What each key of `section` is for, by key, in the words of a recipe (null, not None); of a section that is
    another's with other defaults, what that one says of the keys that it does not name.

    Empty where Python keeps no docstrings.
    """
    found: dict[str, str] = {}
    for described in reversed(section.__mro__):
        if issubclass(described, Section):
            found |= _attributes(described.__doc__ or "")
    return {key: _plain(text) for key, text in found.items() if key in section.model_fields}


def _attributes(doc: str) -> dict[str, str]:
    found: dict[str, str] = {}
    _, _, attributes = inspect.cleandoc(doc).partition("Attributes:\n")
    last = None
    for line in attributes.splitlines():
        if match := _ATTRIBUTE.fullmatch(line):
            last = match[1]
            found[last] = match[2]
        elif last is not None and (match := _CONTINUED.fullmatch(line)):
            found[last] += f" {match[1]}"
    return found


def choices(section: type[Section], key: str) -> tuple[str, ...]:
    """The words that `key` takes, one or several of them; empty where it takes any text, or none."""
    return tuple(dict.fromkeys(_choices(section.model_fields[key].annotation)))


def _choices(annotation: Any) -> tuple[str, ...]:
    origin = get_origin(annotation)
    if origin is Literal:
        return tuple(value for value in get_args(annotation) if isinstance(value, str))
    if origin is Annotated:
        return _choices(get_args(annotation)[0])
    if origin in (Union, UnionType, tuple):
        return tuple(choice for member in get_args(annotation) for choice in _choices(member))
    return ()


def _plain(text: str) -> str:
    """Without reStructuredText's quotes, and with YAML's word for nothing."""
    return re.sub(r"\bNone\b", "null", re.sub(r"`+([^`]*)`+", r"\1", text))
