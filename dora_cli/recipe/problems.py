"""What is wrong with a recipe, in words: where, which key, what was given, what it must be."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic_core import ErrorDetails

from dora_cli.recipe.document import Path
from dora_cli.recipe.hints import nearest, nearest_device
from dora_cli.recipe.methods import METHODS, method_name
from dora_cli.recipe.schema import Recipe, section_keys

_KINDS = {
    "int_type": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "string_unicode": "text of valid Unicode characters",
    "tuple_type": "a list, such as [a, b]",
    "dict_type": "a mapping of names to names, such as {sentence: text}",
}

_DEVICE = ("train", "device")


class Origins:
    """Where each value of a recipe was given: a line of the file, or a flag."""

    def __init__(self, name: str, lines: Mapping[Path, int]) -> None:
        """Starts with the `lines` of the file `name`."""
        self._name = name
        self._of: dict[Path, int | str] = dict(lines)

    def set(self, path: Path, flag: str) -> None:
        """The value at `path`, with all below it, now comes from `flag`."""
        self._of = {known: origin for known, origin in self._of.items() if known[: len(path)] != path}
        self._of[path] = flag

    def where(self, path: Path) -> str:
        """``file:line`` or the flag, of the value at `path` or of the nearest one above it."""
        origin = self._find(path)
        if isinstance(origin, int):
            return f"{self._name}:{origin}"
        return origin if origin is not None else self._name

    def order(self, path: Path) -> tuple[bool, int]:
        """Sorts by line, with flags last."""
        origin = self._find(path)
        return isinstance(origin, str), origin if isinstance(origin, int) else 0

    def _find(self, path: Path) -> int | str | None:
        for length in range(len(path), 0, -1):
            if path[:length] in self._of:
                return self._of[path[:length]]
        return None


def shorten(text: str, length: int = 80) -> str:
    """`text` on one line, cut to `length` characters."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 3] + "..."


def show(value: Any) -> str:
    """A value as a message shows it, spelled as in YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text {shorten(repr(value))}"
    if isinstance(value, Mapping):
        return "a mapping" + (f" with {shorten(', '.join(map(str, value)), 60)}" if value else " without keys")
    if isinstance(value, Sequence):
        return f"the list {shorten(str(list(value)))}"
    return shorten(str(value))


def dotted(path: Path) -> str:
    """``("method", "targets", 1)`` as ``method.targets[1]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if part.isprintable() and part else repr(part))
    return text


def error_path(error: ErrorDetails) -> Path:
    """The path of a pydantic error in the recipe: the key to blame, without pydantic's marks for a union's member or a
    mapping's key.
    """
    path = error["loc"]
    if error["type"] in ("union_tag_invalid", "union_tag_not_found") and isinstance(error["input"], Mapping):
        return (*path, "name")
    if path[:1] == ("method",) and len(path) > 1 and path[1] in METHODS:
        path = ("method", *path[2:])
    return path[:-1] if path[-1:] == ("[key]",) else path


def explain(error: ErrorDetails, tree: Mapping[str, Any]) -> str:
    """What a pydantic error means to the author of the recipe `tree`: what, value, bound, fix."""
    kind, path, given = error["type"], error_path(error), error["input"]
    context = error.get("ctx", {})
    if kind == "extra_forbidden":
        return unknown_key(path, tree)
    if kind == "missing":
        return _missing(path)
    if kind == "union_tag_invalid":
        return _choice(str(context["tag"]), list(METHODS))
    if kind == "union_tag_not_found" and isinstance(given, Mapping):
        return _choice(given.get("name"), list(METHODS))
    if kind in ("model_type", "model_attributes_type", "union_tag_not_found"):
        return _no_section(path, given)
    if kind == "literal_error":
        options = re.findall(r"'([^']*)'", str(context["expected"]))
        return _choice(given, [*options, "null"] if _may_be_null(path, tree) else options)
    if kind == "bound":
        hint = nearest_device(given) if path == _DEVICE and isinstance(given, str) else None
        return f"{error['msg']}, got {show(given)}" + (f"; did you mean {hint}?" if hint else "")
    if kind == "string_type" and path == _DEVICE and type(given) is int and (hint := nearest_device(given)):
        return f"must be {_KINDS[kind]}, got {show(given)}; did you mean {hint}?"
    if kind in _KINDS:
        return f"must be {_KINDS[kind]}, got {show(given)}{_type_hint(kind, given)}"
    return f"{error['msg']}, got {show(given)}"


def _may_be_null(path: Path, tree: Mapping[str, Any]) -> bool:
    """Whether the key of a section may be null too."""
    section = section_keys(str(path[0]), tree.get(str(path[0]))) if len(path) == 2 else None
    field = None if section is None else section.model_fields.get(str(path[1]))
    return field is not None and type(None) in get_args(field.annotation)


def unknown_key(path: Path, tree: Mapping[str, Any]) -> str:
    """An unknown key, with the nearest one of its section or the same one elsewhere."""
    typed, above = str(path[-1]), path[:-1]
    section = section_keys(str(path[0]), tree.get(str(path[0]))) if above else Recipe
    known = list(section.model_fields) if section is not None else []
    if foreign_keys([path], tree):
        return explain_foreign([typed], tree)
    prefix = dotted(above) + "." if above else ""
    hint = nearest(typed, known)
    if hint is not None:
        return f"unknown key; did you mean {prefix}{hint}?"
    elsewhere = {
        f"{name}.{key}": key
        for name in Recipe.model_fields
        for key in getattr(section_keys(name, {}), "model_fields", {})
    }
    hint = nearest(typed, elsewhere.values())
    for full, key in elsewhere.items():
        if key == hint:
            return f"unknown key; did you mean {full}?"
    return f"unknown key; the keys here are {', '.join(known)}"


def foreign_keys(paths: Sequence[Path], tree: Mapping[str, Any]) -> list[Path]:
    """Those unknown keys of the method's section that another method has."""
    return [
        path
        for path in paths
        if path[:-1] == ("method",) and any(path[-1] in section.model_fields for section in METHODS.values())
    ]


def explain_foreign(keys: Sequence[str], tree: Mapping[str, Any]) -> str:
    """Keys of another method in the section of the one that is chosen."""
    chosen = method_name(tree.get("method", {}))
    having = {name: sum(key in section.model_fields for key in keys) for name, section in METHODS.items()}
    most = max(having.values())
    owners = [name for name, count in having.items() if count == most]
    all_of_them = "them all" if most == len(keys) else "most of them"
    if len(keys) == 1:
        what, has, remove = "unknown key: method {} has no such key", "", "it"
    else:
        what, has, remove = f"unknown keys: method {{}} has no {', '.join(keys)}", f" {all_of_them}", "them"
    whose = f"{' and '.join(owners)} {'has' if len(owners) == 1 else 'have'}{has}"
    return (
        f"{what.format(chosen)} ({whose}); remove {remove}, set method.name to {owners[0]}, or replace the whole "
        f"section with --set 'method={{name: {chosen}}}'"
    )


def _no_section(path: Path, given: Any) -> str:
    if given is None:
        return "has no keys below it; indent its keys under it, or remove the line"
    section = section_keys(str(path[0]), {}) if path else Recipe
    example = f"{dotted(path)}: {{{next(iter(section.model_fields))}: ...}}" if section is not None else "key: value"
    return f"must be a mapping of keys, such as '{example}', got {show(given)}"


def _choice(given: Any, options: Sequence[str]) -> str:
    message = f"must be one of {', '.join(options)}, got {show(given)}"
    hint = nearest(given, options) if isinstance(given, str) else None
    return f"{message}; did you mean {hint}?" if hint is not None else message


def _missing(path: Path) -> str:
    examples = {
        ("task",): "add for example 'task: glue/rte'",
        ("model",): "add for example 'model: {name: FacebookAI/roberta-base}'",
        ("model", "name"): "add for example 'name: FacebookAI/roberta-base', a hub id or a local folder",
    }
    return f"missing, and it has no default; {examples.get(tuple(map(str, path)), 'add it')}"


def _type_hint(kind: str, given: Any) -> str:
    if kind == "string_type" and isinstance(given, bool | int | float):
        return "; if it is meant as text, put it in quotes"
    if kind in ("int_type", "float_type") and isinstance(given, str) and re.fullmatch(r"[-+.0-9eE]+", given.strip()):
        return "; remove the quotes"
    if kind == "int_type" and isinstance(given, float) and given.is_integer():
        return f"; write {int(given)}"
    if (
        kind == "bool_type"
        and isinstance(given, str)
        and given.lower() in ("yes", "no", "on", "off", "y", "n", "true", "false")
    ):
        return f"; write {'true' if given.lower() in ('yes', 'on', 'y', 'true') else 'false'}"
    return ""
