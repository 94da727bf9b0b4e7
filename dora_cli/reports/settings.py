"""The keys of a run's recipe as texts, whatever version of dora wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from dora_cli.errors import CheckpointError

MOST_TEXT = 1 << 18
"""Characters; no recipe is longer."""
MOST_LEVELS = 20
_FIX = "Copy the run folder again if it was copied, or train again."


def settings(recipe: str, path: Path) -> dict[str, str]:
    """The keys of a recipe, ``section.key``, each with its value on one line; `path` is where it came from.

    Raises CheckpointError.
    """
    damaged = f"{path} is damaged or was not written by dora"
    if len(recipe) > MOST_TEXT:
        raise CheckpointError(f"{damaged}: it has {len(recipe):,} characters, more than {MOST_TEXT:,}. {_FIX}")
    try:
        _check_plain(recipe)
        content = yaml.safe_load(recipe)
        if not isinstance(content, Mapping | None):
            raise ValueError("it holds no keys")
        return _flat(content or {})
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{damaged}: {' '.join(str(error).split())[:200]}. {_FIX}") from error


def _check_plain(recipe: str) -> None:
    """Refuses what would grow: a few aliases of aliases would be a recipe without end, and so may nested lists."""
    level = 0
    for event in yaml.parse(recipe, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it holds an alias, and dora writes none")
        level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if level > MOST_LEVELS:
            raise ValueError(f"it is nested more than {MOST_LEVELS} levels deep")


def _flat(content: Mapping[object, object]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            found.update({_text(f"{key}.{inner}"): _shown(each) for inner, each in value.items()})
        else:
            found[_text(str(key))] = _shown(value)
    return found


def _shown(value: object) -> str:
    if not isinstance(value, str):
        value = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1 << 16).removesuffix("...\n")
        value = " ".join(value.split())
    return _text(value)


def _text(value: str) -> str:
    value.encode()  # half a surrogate pair, which YAML can spell, stands on no page
    return value
