"""What is known of models, as plain data."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import safe_open

from dora_cli.models.known import FAMILIES, NEEDS
from dora_cli.models.source import builtin_names, find_source


def model_catalogue() -> dict[str, Any]:
    """``builtin``: the models of the package; ``families``: those whose projections are tested; ``needs``: what every
    model must have.
    """
    return {
        "builtin": [_builtin(name) for name in builtin_names()],
        "families": [asdict(family) for family in FAMILIES],
        "needs": list(NEEDS),
    }


def _builtin(name: str) -> dict[str, Any]:
    folder = Path(find_source(name).location)
    model_type = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    with safe_open(folder / "model.safetensors", framework="numpy") as weights:  # the header alone is read
        names = weights.keys()
        shapes = [weights.get_slice(key).get_shape() for key in names]
    return {
        "name": name,
        "model_type": model_type,
        "kind": next(family.kind for family in FAMILIES if model_type in family.model_types),
        "parameters": sum(math.prod(shape) for shape in shapes),
        "bytes": (folder / "model.safetensors").stat().st_size,
    }
