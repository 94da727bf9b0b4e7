"""Writing a recipe as YAML that reads back as the same recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

try:  # libyaml writes the same text in a fifth of the time, and a run writes its recipe several times
    from yaml import CSafeDumper as SafeDumper
except ImportError:  # PyYAML without libyaml
    from yaml import SafeDumper  # type: ignore[assignment]

from dora_cli.recipe.document import CORE_SCALARS
from dora_cli.recipe.schema import Recipe


class _Dumper(SafeDumper):
    """Block mappings, lists on one line, no aliases; quotes all text that YAML 1.1 or 1.2 would take for something
    else.
    """

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_list(dumper: SafeDumper, value: Sequence[Any]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)


def _represent_text(dumper: SafeDumper, value: str) -> yaml.Node:
    # PyYAML writes some line separators (U+0085, U+2028) bare, and readers fold them; double quotes escape them.
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if value.isprintable() else '"')


for _tag, _pattern, _first in CORE_SCALARS:
    _Dumper.add_implicit_resolver(_tag, _pattern, _first)
_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(tuple, _represent_list)


def dump_recipe(recipe: Recipe) -> str:
    """The whole recipe, defaults included, as YAML text; `parse_recipe` reads back an equal one.

    A section that is None is left out.
    """
    sections = {name: section for name, section in recipe.model_dump().items() if section is not None}
    return yaml.dump(sections, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
