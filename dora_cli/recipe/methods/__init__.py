"""The keys of every method, a module each: ``SECTION``, its section, ``RULES``, what must hold between its keys, and
``ABOUT``, what is known of it.

A method's defaults stand in its section and nowhere else. An installed package brings the keys of its method as such a
module by an entry point of the group ``dora_cli.recipes``, named like the method.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Discriminator, Tag

from dora_cli.libraries import brought
from dora_cli.recipe.about import About
from dora_cli.recipe.fields import Section
from dora_cli.recipe.methods import (
    adalora,
    bitfit,
    cola,
    cora,
    dora,
    flat_lora,
    full,
    head,
    houlsby,
    lora,
    lora_pro,
    melora,
    nora,
    pfeiffer,
    sora,
    xgblora,
)
from dora_cli.recipe.rules import Rule
from dora_cli.recipe.writing.descriptions import choices, summary

if TYPE_CHECKING:
    from types import ModuleType

GROUP = "dora_cli.recipes"
"""The entry points of other packages' methods."""


def _modules() -> dict[str, ModuleType]:
    own = {
        "dora": dora,
        "lora": lora,
        "adalora": adalora,
        "sora": sora,
        "melora": melora,
        "cola": cola,
        "nora": nora,
        "cora": cora,
        "xgblora": xgblora,
        "lora-pro": lora_pro,
        "flat-lora": flat_lora,
        "full": full,
        "bitfit": bitfit,
        "houlsby": houlsby,
        "pfeiffer": pfeiffer,
        "head": head,
    }
    return own | brought(GROUP, own, lambda module: module.SECTION.model_fields["name"].default)


_MODULES = _modules()

METHODS: dict[str, type[Section]] = {name: module.SECTION for name, module in _MODULES.items()}
"""Every method's section by its name; the first is the default."""


BESIDE_PRESETS = ("rank", "dropout", "targets")
"""Keys that stay where another preset is chosen: they say how large an adapter is and what it stands on."""


def presets_of(name: str) -> tuple[str, ...]:
    """What ``method.preset`` may be for a method; nothing where it has no such key."""
    section = METHODS.get(name)
    return tuple(choices(section, "preset")) if section is not None and "preset" in section.model_fields else ()


def rules_of(name: str) -> tuple[Rule, ...]:
    """What must hold between the keys of a method."""
    return tuple(getattr(_MODULES[name], "RULES", ()))


def arguments(section: Section) -> dict[str, Any]:
    """What a method is made with: the keys of its section of a resolved recipe, but for its name, its preset and its
    targets, and for `ranks_from`, which has been answered by `ranks`.
    """
    assert getattr(section, "ranks_from", None) is None, "resolve the recipe first"
    return section.model_dump(exclude={"name", "preset", "targets", "ranks_from"})


def about(name: str) -> About:
    """What is known of a method; of one whose module says nothing, its section's summary."""
    known = getattr(_MODULES[name], "ABOUT", None)
    if isinstance(known, About):
        return known
    said = summary(METHODS[name]).rstrip(".")
    card = f"Trained with the method `{name}`{f': {said}' if said else ''}."
    return About(name, said, "", "", ranks=None, mergeable=None, lora=None, card=card)


def method_catalogue() -> list[dict[str, Any]]:
    """Every method as plain data, those of installed packages included, by name.

    Returns:
        For each: ``name, title, summary, paper, adapts``, ``ranks`` (``"pruned"``, ``"grown"``, ``"fixed"`` or
            ``"none"``), ``mergeable``, ``lora`` (whether it can be exported as plain LoRA), ``federated`` (whether
            clients can train it), ``default`` (whether a recipe that names none gets it) and ``keys`` (of its section,
            without the name). None where a method does not say.
    """
    default = next(iter(METHODS))
    found = []
    for name, section in METHODS.items():
        known = about(name)
        found.append(
            {
                "name": name,
                "title": known.title,
                "summary": known.summary,
                "paper": known.paper,
                "adapts": known.adapts,
                "ranks": known.ranks,
                "mergeable": known.mergeable,
                "lora": known.lora,
                "federated": known.federated,
                "default": name == default,
                "keys": [key for key in section.model_fields if key != "name"],
            }
        )
    return found


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
    MethodSection = (
        dora.DoraMethod
        | lora.LoraMethod
        | adalora.AdaloraMethod
        | sora.SoraMethod
        | melora.MeloraMethod
        | cola.ColaMethod
        | nora.NoraMethod
        | cora.CoraMethod
        | xgblora.XgbloraMethod
        | lora_pro.LoraProMethod
        | flat_lora.FlatLoraMethod
        | full.FullMethod
        | bitfit.BitfitMethod
        | houlsby.HoulsbyMethod
        | pfeiffer.PfeifferMethod
        | head.HeadMethod
    )
else:
    MethodSection = Annotated[
        Union[tuple(Annotated[section, Tag(name)] for name, section in METHODS.items())],  # noqa: UP007
        Discriminator(method_name),
    ]
