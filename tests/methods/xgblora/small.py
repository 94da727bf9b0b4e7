"""Small models with blocks, as XGBLoRA is given them."""

from __future__ import annotations

from torch import nn

from dora_cli.methods.base import Site
from dora_cli.methods.linear import shape_of
from tests.methods.small import linear_maps


def block_sites(model: nn.Module) -> list[Site]:
    """The linear maps of `SmallEncoder`, each with its block."""
    found = []
    for name, module in linear_maps(model, "blocks").items():
        _, block, projection = name.split(".")
        found.append(Site(name, module, shape_of(module), block=int(block), projection=projection))
    return found
