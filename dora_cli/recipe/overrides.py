"""``--set key.path=value`` on top of what a file says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dora_cli.errors import RecipeError
from dora_cli.recipe.document import Path, read_document
from dora_cli.recipe.methods import BESIDE_PRESETS, METHODS, method_name, presets_of
from dora_cli.recipe.problems import Origins, shorten, show


@dataclass(frozen=True)
class Override:
    """One parsed flag: the `value` for `path`; `flag` is how the user wrote it."""

    flag: str
    path: Path
    value: Any


def check_listed(overrides: Sequence[str]) -> None:
    """Raises a RecipeError for a lone text, which Python would take for a list of its characters."""
    if isinstance(overrides, str):
        raise RecipeError(f"overrides: must be a list of key=value texts, got {show(overrides)}; write [{overrides!r}]")


def parse_override(text: str) -> Override | str:
    """Parses ``key.path=value``, the value as YAML. A string is what is wrong with it, naming the flag."""
    flag = shorten(f"--set {text}", 100)
    key, equals, raw = text.partition("=")
    key = key.strip()
    if not equals:
        return f"{flag}: expected KEY=VALUE, such as --set train.seed=2"
    parts = key.split(".")
    if not all(part and part == part.strip() for part in parts):
        return f"{flag}: {key!r} is not a key; expected names joined by dots, such as train.seed"
    if not raw.strip():
        return f"{flag}: {key}: has no value after '='; write null for none"
    document = read_document(raw)
    if document.problems:
        problem = document.problems[0]
        return f"{flag}: {key}: the value {problem.message}" if document.fatal else f"{flag}: {key}: {problem.message}"
    return Override(flag, tuple(parts), document.value)


_SECTION = ("method",)
_NAME, _PRESET = (*_SECTION, "name"), (*_SECTION, "preset")
_CHOICES = (_NAME, _PRESET)
"""Keys on which the others of their section depend."""


def apply_overrides(
    tree: dict[str, Any], origins: Origins, overrides: Sequence[Override], note: Callable[[str], None]
) -> list[str]:
    """Sets all of `overrides` in `tree` (changed in place), later ones over earlier ones; returns what is wrong.

    Another ``method.name`` or ``method.preset`` replaces the section, whose keys are those of the one before (a preset
    leaves `BESIDE_PRESETS`); wherever it stands among the flags, those for other keys of the section are for the new
    one. `note` is told which keys that drops.
    """
    problems = []
    for override in _choices_first(overrides):
        if override.path in _CHOICES:
            _choose(tree, origins, override, note)
        problems.append(apply_override(tree, origins, override))
    return [problem for problem in problems if problem is not None]


def _choices_first(overrides: Sequence[Override]) -> list[Override]:
    """The last choice of each kind before other keys; none from before a flag that sets the section as a whole."""
    wholes = [index for index, override in enumerate(overrides) if override.path == _SECTION]
    start = wholes[-1] + 1 if wholes else 0
    chosen = {override.path: override for override in overrides[start:] if override.path in _CHOICES}
    before = [override for override in overrides[:start] if override.path not in _CHOICES]
    after = [override for override in overrides[start:] if override.path not in _CHOICES]
    return [*before, *(chosen[path] for path in _CHOICES if path in chosen), *after]


def _choose(tree: dict[str, Any], origins: Origins, override: Override, note: Callable[[str], None]) -> None:
    """Empties the method's section where it is one of another method, or of another preset; says what that drops."""
    section = tree.get("method")
    if not isinstance(section, dict):
        return
    of_another = _of_another_method if override.path == _NAME else _of_another_preset
    change = of_another(section, override.value)
    if change is None:
        return
    kept, said = change
    dropped = [str(key) for key in section if key not in ("name", "preset", *kept)]
    tree["method"] = kept
    origins.set(_SECTION, override.flag)
    if dropped:
        note(f"{override.flag} replaces the method's section: {said} is dropped ({', '.join(dropped)})")


def _of_another_method(section: dict[str, Any], method: Any) -> tuple[dict[str, Any], str] | None:
    """What stays of a section where `method` is another one, and in words what does not; None where it is none."""
    before = method_name(section)
    if method not in list(METHODS) or before == method:
        return None
    return {}, f"{method} takes its defaults, and what was set for {before}"


def _of_another_preset(section: dict[str, Any], preset: Any) -> tuple[dict[str, Any], str] | None:
    """The same where `preset` is another one."""
    name = method_name(section) or ""
    presets = presets_of(name)
    before = section.get("preset", METHODS[name].model_fields["preset"].default) if presets else None
    if preset not in presets or before == preset:
        return None
    kept = {key: value for key, value in section.items() if key in ("name", *BESIDE_PRESETS)}
    return kept, f"the preset {preset} says its values, and what was set beside {before}"


def apply_override(tree: dict[str, Any], origins: Origins, override: Override) -> str | None:
    """Sets the value in `tree` (changed in place), replacing what was there; returns what is wrong, or None."""
    node = tree
    for depth, key in enumerate(override.path[:-1], start=1):
        child = node.get(str(key))
        if child is None:
            # `columns: null` and an absent section are alike here: the flag brings the first key.
            child = node[str(key)] = {}
            origins.set(override.path[:depth], override.flag)
        elif not isinstance(child, dict):
            above = ".".join(map(str, override.path[:depth]))
            return (
                f"{override.flag}: {above} holds {show(child)}, which has no keys; set it as a whole: --set {above}=..."
            )
        node = child
    node[str(override.path[-1])] = override.value
    origins.set(override.path, override.flag)
    return None
