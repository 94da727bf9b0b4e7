"""Paths on a page that is made to share: what a folder is called, not where it lies on the author's machine."""

from __future__ import annotations

import json
import re

import yaml

CUT = "\u2026"
_BEFORE = r"(?:^|(?<=[\s\"'`(\[{=,;|]))"
_PART = r"[^\s\"'`()\[\]{},;|<>\\/]+"
_INSIDE = re.compile(rf"{_BEFORE}(?:file://)?(?:~|[A-Za-z]:)?[\\/](?:{_PART}[\\/])+({_PART})?", re.MULTILINE)
"""An absolute path of at least two parts in a text, its last part in a group."""
_WHOLE = re.compile(r"(?:file://)?(?:~|[A-Za-z]:)?[\\/]")
_SIMPLE = re.compile(r"[\w./-]+")


def shared(value: str) -> str:
    """A value that may be a path, such as a model's name: of an absolute one its last part, after an ellipsis."""
    if not _WHOLE.match(value) or "\n" in value:
        return without_places(value)
    name = re.split(r"[\\/]+", value.rstrip("\\/"))[-1]
    return f"{CUT}/{name}" if name else CUT


def without_places(text: str) -> str:
    """A text in which every absolute path is cut to its last part."""
    return _INSIDE.sub(lambda found: f"{CUT}/{found[1] or ''}".rstrip("/"), text)


def shared_yaml(text: str) -> str:
    """A recipe whose values that are absolute paths are cut to their last parts; comments and layout stay."""
    try:
        nodes = [yaml.compose(text, Loader=yaml.SafeLoader)]
    except (yaml.YAMLError, RecursionError):
        return without_places(text)
    cut: list[tuple[int, int, str]] = []
    while nodes:
        node = nodes.pop()
        if isinstance(node, yaml.MappingNode):
            nodes += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            nodes += node.value
        elif isinstance(node, yaml.ScalarNode) and _WHOLE.match(node.value):
            name = shared(node.value)
            cut.append(
                (
                    node.start_mark.index,
                    node.end_mark.index,
                    name if _SIMPLE.fullmatch(name[2:]) else json.dumps(name, ensure_ascii=False),
                )
            )
    for start, end, name in sorted(cut, reverse=True):
        text = text[:start] + name + text[end:]
    return without_places(text)
