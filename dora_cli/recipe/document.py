"""YAML text to plain values that remember their lines.

The scalars are those of YAML 1.2's core schema: ``2e-3`` is a number (YAML 1.1, PyYAML's dialect, reads it as text),
and ``yes``, ``no`` and ``1:30`` are text. Only plain data is built: mappings with text keys, lists, text, numbers,
true, false and null.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

Path = tuple[str | int, ...]
"""Where a value is: keys and list indices from the top."""

MAX_VALUES = 10_000
"""Values a document may expand to; aliases can make a short text astronomically long."""
MAX_DEPTH = 20
"""Levels of nesting; also what ends an alias that contains itself."""

MAX_BITS = 4096
"""Longest integer; no key takes more than 64 bits."""

_TAG = "tag:yaml.org,2002:"
CORE_SCALARS: tuple[tuple[str, re.Pattern[str], list[str | None]], ...] = (
    # An empty scalar is null; PyYAML files it under the first character "".
    (_TAG + "null", re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""]),
    (_TAG + "bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")),
    (_TAG + "int", re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z"), list("-+0123456789")),
    (
        _TAG + "float",
        re.compile(
            r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
        ),
        list("-+.0123456789"),
    ),
)
"""``(tag, pattern, first characters)`` of the scalars that are not text, in the order they are tried."""


class _TooDeepError(Exception):
    pass


class _CoreComposer(Reader, Scanner, Parser, Composer, BaseResolver):
    """Text to nodes. No constructor: nothing but the code below turns a node into a value."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        """At every opening bracket; the scanner's work grows with the square of how many are open."""
        if self.flow_level >= MAX_DEPTH + 1:
            raise _TooDeepError
        super().fetch_flow_collection_start(TokenClass)


for _tag, _pattern, _first in CORE_SCALARS:
    _CoreComposer.add_implicit_resolver(_tag, _pattern, _first)


@dataclass(frozen=True)
class Problem:
    """What is wrong, with the line (from 1) and the path where known."""

    message: str
    path: Path = ()
    line: int | None = None


@dataclass
class Document:
    """What a text holds.

    Attributes:
        value: the plain value; meaningless where `fatal`.
        lines: line of every value below the top, from 1.
        problems: what is wrong with the text as YAML.
        fatal: True if the text as a whole could not be read.
    """

    value: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    fatal: bool = False


class _TooLargeError(Exception):
    pass


def read_document(text: str) -> Document:
    """Reads one YAML document; never raises on bad text."""
    read = _read(text)
    return replace(read, value=copy.deepcopy(read.value), lines=dict(read.lines), problems=list(read.problems))


@lru_cache(maxsize=256)
def _read(text: str) -> Document:
    """An experiment reads one recipe again for each of its runs, with other overrides; the shipped ones are read
    together.
    """
    document = Document()
    try:
        composer = _CoreComposer(text)
        try:
            node = composer.get_single_node()
        finally:
            composer.dispose()
        if node is not None:
            document.value = _Builder(document).build(node, (), 0)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # The last two come from PyYAML where a number in the syntax is out of range, as in the escape "\UFFFFFFFF".
        document.problems, document.fatal = [_syntax_problem(error)], True
    except (RecursionError, _TooDeepError):
        document.problems, document.fatal = [Problem(f"is nested too deeply; at most {MAX_DEPTH} levels")], True
    except _TooLargeError:
        message = f"expands to more than {MAX_VALUES} values or {MAX_DEPTH} levels of nesting; write it without aliases"
        document.problems, document.fatal = [Problem(message)], True
    return document


def _syntax_problem(error: Exception) -> Problem:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        detail = " ".join(filter(None, [error.context, error.problem]))
        column = f", column {mark.column + 1}" if mark is not None else ""
        return Problem(
            f"is not valid YAML{column}: {detail}{_syntax_hint(error)}",
            line=mark.line + 1 if mark is not None else None,
        )
    if isinstance(error, ReaderError):
        # `character` is the code point where the input is text, as it is here.
        return Problem(
            f"is not valid YAML: the character U+{error.character:04X} at position {error.position} is not "
            "allowed; remove it"
        )
    return Problem("is not valid YAML: a number in its syntax, such as that of an escape in quotes, is out of range")


def _syntax_hint(error: yaml.MarkedYAMLError) -> str:
    text = f"{error.context} {error.problem}"
    if "alias" in text:
        return "; put text that starts with * in quotes"
    if "'\\t'" in text:
        return "; indent with spaces"
    if "cannot start any token" in text:
        return "; put text that starts with it in quotes"
    if "mapping values are not allowed" in text:
        return "; check the indentation, and put text that holds ': ' in quotes"
    if "single document" in text:
        return "; a recipe is one document, without a second '---'"
    return ""


class _Builder:
    """Nodes to values, with lines and problems kept in `document`."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.count = 0

    def build(self, node: Node, path: Path, depth: int) -> Any:
        self.count += 1
        if self.count > MAX_VALUES or depth > MAX_DEPTH:
            raise _TooLargeError
        if path:
            self.document.lines[path] = node.start_mark.line + 1
        if isinstance(node, MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, path, depth)
        if isinstance(node, SequenceNode) and node.tag == _TAG + "seq":
            return [self.build(child, (*path, index), depth + 1) for index, child in enumerate(node.value)]
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        return self._refuse_tag(node, path)

    def _mapping(self, node: MappingNode, path: Path, depth: int) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        first_lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, ScalarNode) or key_node.tag != _TAG + "str":
                written = key_node.value if isinstance(key_node, ScalarNode) else "a list or mapping"
                self._problem(
                    f"has a key that is not text ({written}); keys are names, quote this one if it is meant as text",
                    path,
                    line,
                )
                continue
            key = key_node.value
            below = (*path, key)
            if key == "<<" and key_node.style is None:  # in quotes it is a name like any other
                self._problem("merge keys (<<) are not supported; write the keys out", path, line)
                continue
            if key in mapping:
                self._problem(f"duplicate key, already given on line {first_lines[key]}; keep one of them", below, line)
                continue
            mapping[key] = self.build(value_node, below, depth + 1)
            # The line of the key, not of a value that may start below it.
            self.document.lines[below] = first_lines[key] = line
        return mapping

    def _scalar(self, node: ScalarNode, path: Path) -> Any:
        text, kind = node.value, node.tag.removeprefix(_TAG)
        try:
            if kind == "str":
                return text
            if kind == "null" and CORE_SCALARS[0][1].match(text):
                return None
            if kind == "bool" and CORE_SCALARS[1][1].match(text):
                return text.lower() == "true"
            if kind == "int" and CORE_SCALARS[2][1].match(text):
                # Base 0 would refuse leading zeros, so only the prefixed forms go through it. Of these Python takes any
                # number of digits, but shows none of more than some thousands.
                number = int(text, 0) if text[:2] in ("0o", "0x") else int(text)
                if number.bit_length() > MAX_BITS:
                    raise ValueError("too many digits")
                return number
            if kind == "float" and CORE_SCALARS[3][1].match(text):
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:  # as Python itself says of decimal integers beyond its limit
            self._problem(f"is a number of {len(text)} digits; give a smaller one", path, node.start_mark.line + 1)
            return None
        return self._refuse_tag(node, path)

    def _refuse_tag(self, node: Node, path: Path) -> None:
        tag = node.tag.replace(_TAG, "!!")
        self._problem(
            f"the YAML tag {tag} is not allowed here; recipes are plain data, remove the tag",
            path,
            node.start_mark.line + 1,
        )

    def _problem(self, message: str, path: Path, line: int) -> None:
        self.document.problems.append(Problem(message, path, line))
