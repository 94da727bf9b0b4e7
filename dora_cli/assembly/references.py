"""The weights of other base models, for methods that ask for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from dora_cli.errors import ModelError
from dora_cli.methods.base import Site
from dora_cli.methods.linear import weight_of


def weights_at(sites: Sequence[Site], model: nn.Module, name: str) -> Mapping[str, torch.Tensor]:
    """The weights that `model`, called `name`, has where the base model has `sites`: ``(d_out, d_in)`` by site.

    Raises:
        ModelError: it has another architecture; names the first site that it lacks or whose shape differs.
    """
    modules = dict(model.named_modules())
    found = {}
    for site in sites:
        module = modules.get(site.name)
        if module is None or not isinstance(getattr(module, "weight", None), torch.Tensor):
            raise ModelError(
                f"the model {name!r} has no projection {site.name}, which the base model has; choose models of the "
                "same architecture as references"
            )
        weight = weight_of(module).detach()
        if tuple(weight.shape) != site.shape:
            raise ModelError(
                f"{site.name} is {tuple(weight.shape)} in the model {name!r} and {site.shape} in the base model; "
                "choose models of the same size as references"
            )
        found[site.name] = weight
    return found
