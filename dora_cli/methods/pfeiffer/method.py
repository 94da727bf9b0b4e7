"""Pfeiffer et al.'s adapters behind the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import nn

from dora_cli.methods.base import Group, Method, PlainSchedule, Site
from dora_cli.methods.bottleneck.adapters import Adapters, check_width
from dora_cli.methods.bottleneck.layer import Activation


class Pfeiffer(Method):
    """One adapter per block, at its end (Pfeiffer et al. 2020; reference section 2.6).

    ``h <- h + W_up f(W_down h + b_down) + b_up``, `h` what the norm after the FFN gives; in a pre-norm block, which has
    none there, what the FFN gives, before it joins the residual stream.

    Args:
        bottleneck: width of the adapters, `m`.
        activation: `f`.
        start_std: standard deviation of the weights at the start.
        train_norms: whether the norms of adapted blocks train, too.
    """

    name = "pfeiffer"
    packs = True
    announces = True
    cannot_merge = "inserts modules that are not linear"

    def __init__(self, *, bottleneck: int, activation: Activation, start_std: float, train_norms: bool) -> None:
        self.bottleneck, self.activation = bottleneck, activation
        self.start_std, self.train_norms = start_std, train_norms

    def takes(self, site: Site) -> bool:
        return site.role == "down"

    def plan(self, total_steps: int, sites: Sequence[Site]) -> PlainSchedule:
        check_width(sites, self.bottleneck)
        return PlainSchedule.of(total_steps)

    def place(self, model: nn.Module) -> None:
        places = [(site, site.norm or site.name) for site in self.sites]
        self._adapters = Adapters(
            model,
            places,
            bottleneck=self.bottleneck,
            activation=self.activation,
            start_std=self.start_std,
            generator=self.generator,
            train_norms=self.train_norms,
        )

    def parameters(self) -> list[nn.Parameter]:
        return self._adapters.parameters()

    def groups(self) -> list[Group]:
        return self._adapters.groups(self.head)

    def training_pass(
        self, dtype: torch.dtype | None = None, masks: Mapping[str, torch.Tensor] | None = None
    ) -> AbstractContextManager[None]:
        return self._adapters.training_pass(dtype)

    def release(self) -> None:
        self._adapters.release()

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self._adapters.state_dict()

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self._adapters.load_state_dict(state)
