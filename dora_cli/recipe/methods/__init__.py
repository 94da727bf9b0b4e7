"""The keys of every method, a module each: ``SECTION``, its section, and ``RULES``, what must hold between its keys.

A method's defaults stand in its section and nowhere else. An installed package brings the keys of its method as such a
module by an entry point of the group ``dora_cli.recipes``, named like the method.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Discriminator, Tag

from dora_cli.recipe.fields import Section
from dora_cli.recipe.methods import dora, head, lora
from dora_cli.recipe.rules import Rule

if TYPE_CHECKING:
    from types import ModuleType

GROUP = "dora_cli.recipes"
"""The entry points of other packages' methods."""


def _modules() -> dict[str, ModuleType]:
    own = {"dora": dora, "lora": lora, "head": head}
    return own | {entry.name: entry.load() for entry in entry_points(group=GROUP) if entry.name not in own}


_MODULES = _modules()

METHODS: dict[str, type[Section]] = {name: module.SECTION for name, module in _MODULES.items()}
"""Every method's section by its name; the first is the default."""


def rules_of(name: str) -> tuple[Rule, ...]:
    """What must hold between the keys of a method."""
    return tuple(getattr(_MODULES[name], "RULES", ()))


def method_name(section: Any) -> str | None:
    """The method a raw or validated `method` section asks for; None if it is no section or its name is no text."""
    if isinstance(section, Section):
        name: Any = getattr(section, "name", None)
    elif isinstance(section, dict):
        name = section.get("name", next(iter(METHODS)))
    else:
        return None
    return name if isinstance(name, str) else None


if TYPE_CHECKING:
    MethodSection = dora.DoraMethod | lora.LoraMethod | head.HeadMethod
else:
    MethodSection = Annotated[
        Union[tuple(Annotated[section, Tag(name)] for name, section in METHODS.items())],  # noqa: UP007
        Discriminator(method_name),
    ]
