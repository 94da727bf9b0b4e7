"""The ranks of a run in PEFT's words: ``dora ranks --as rank-pattern``, for a LoRA of the same ranks elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dora_cli.errors import CheckpointError
from dora_cli.recipe import load_recipe
from dora_cli.recipe.methods import about, method_name
from dora_cli.reports.runs import FoundRanks

Number = int | float


def rank_pattern(found: FoundRanks) -> dict[str, Any]:
    """Keyword arguments of PEFT's ``LoraConfig`` that give every projection the run's rank and scale.

    Returns:
        ``r`` and ``lora_alpha``, those of the highest rank; ``rank_pattern`` and ``alpha_pattern``, of the projections
        that differ from them, by patterns that each match one; ``target_modules``, the projections with a rank; and
        ``exclude_modules`` where PEFT, which finds targets by the end of a name, would find one without.

    Raises:
        CheckpointError: no single run, one without ranks, or a recipe that cannot be read.
    """
    run = found.run
    if run is None:
        raise CheckpointError(f"{found.title}: --as rank-pattern is of one run, not of a mean; name one of the runs")
    section = load_recipe(run.recipe).method
    name = method_name(section) or ""
    layers = {layer["name"]: layer for layer in found.record["layers"] if layer["rank"]}
    if not layers:
        why = "every projection is at rank 0" if found.record["layers"] else f"the method {name} adapts no projection"
        raise CheckpointError(f"{run.folder} has no ranks that PEFT could be given: {why}")
    scale = about(name).scale
    ranks = {path: layer["rank"] for path, layer in layers.items()}
    # PEFT scales by alpha over the rank that a projection has there
    alphas = {
        path: _plain(layer["rank"] * scale(section, layer["start_rank"], layer["rank"]))
        for path, layer in layers.items()
    }
    highest = max(ranks, key=lambda path: ranks[path])
    empty = [layer["name"] for layer in found.record["layers"] if not layer["rank"]]
    caught = [path for path in empty if any(path.endswith(f".{target}") for target in layers)]
    return {
        "r": ranks[highest],
        "lora_alpha": alphas[highest],
        "rank_pattern": _patterns(ranks, ranks[highest]),
        "alpha_pattern": _patterns(alphas, alphas[highest]),
        "target_modules": list(layers),
        **({"exclude_modules": caught} if caught else {}),
    }


def _plain(value: float) -> Number:
    rounded = float(f"{value:.12g}")  # 8 / 12 * 12 is 8
    return int(rounded) if rounded.is_integer() else rounded


def _patterns(values: Mapping[str, Number], default: Number) -> dict[str, Number]:
    """PEFT matches a pattern at the end of a name: one that other names end like is held to the name's beginning."""
    found = {}
    for path, value in values.items():
        if value != default:
            ambiguous = any(other.endswith(f".{path}") for other in values)
            found[("^" if ambiguous else "") + re.escape(path)] = value
    return found
