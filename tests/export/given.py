"""A method whose updates are given."""

from __future__ import annotations

import torch
from torch import nn

from dora_cli.methods.base import Method, Site
from tests.methods.small import sites


class Given(Method):
    """Changes the weight of each named projection by what it is told; ``_0`` names the projection ``0``."""

    name = "given"

    def __init__(self, model: nn.Module, **updates: torch.Tensor) -> None:
        self.updates = {name.replace("_", ""): update for name, update in updates.items()}
        model.requires_grad_(False)
        self.attach(model, sites({name: model.get_submodule(name) for name in self.updates}))

    def delta(self, site: Site, dtype: torch.dtype) -> torch.Tensor:
        return self.updates[site.name].to(dtype)
