"""The method `links`, as another package would bring it: ``y = W0 x + sum_l c_l B_l A_l x``, a link at a time.

It needs what a method may need beyond an adapter that stays as it is: data at its start, other models, tensors that
grow, parameters that begin and cease to train, a learning rate that starts anew, a held-out loss at its events,
statistics over real tokens and all processes, and a state that only a resumed run needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from dora_cli.methods.base import (
    Calibration,
    Measured,
    Method,
    PlainSchedule,
    Replacement,
    Site,
    Size,
    Statistic,
    StepReport,
)
from dora_cli.methods.linear import swap_modules, trained_type, weight_of


@dataclass(frozen=True)
class LinksSchedule(PlainSchedule):
    """Equal parts of the run, a link each."""

    links: int = 1

    @property
    def restarts(self) -> Sequence[int]:
        return [self.total_steps * link // self.links for link in range(1, self.links)]

    def next_event(self, step: int) -> int | None:
        return next((event for event in self.restarts if event > step), None)


class Chain(nn.Module):
    """A linear map with its links; the factors of the last one train, and the weights `c` of all."""

    def __init__(self, base: nn.Module, A: torch.Tensor, d_out: int) -> None:
        super().__init__()
        self.base = base
        self.A = nn.ParameterList([nn.Parameter(A)])
        self.B = nn.ParameterList([nn.Parameter(A.new_zeros(d_out, len(A)))])
        self.c = nn.Parameter(A.new_ones(1))
        self.squares = A.new_zeros(A.shape[1])  # of what it reads, summed over the step's real tokens
        self.staged, self.scale = A.new_ones(()), A.new_ones(())  # their mean, and that of the latest step that counts
        self.mask: torch.Tensor | None = None

    @property
    def weight(self) -> torch.Tensor:
        return self.base.weight  # type: ignore[return-value]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.mask is not None:
            real = x.detach().float() * self.mask[..., None]
            self.squares.add_(real.square().flatten(0, -2).sum(0))
        y: torch.Tensor = self.base(x)
        for A, B, c in zip(self.A, self.B, self.c, strict=True):
            y = y + (c * F.linear(F.linear(x.to(A.dtype), A), B)).to(y.dtype)
        return y


class Links(Method):
    name = "links"

    def __init__(self, *, rank: int, links: int, held: float, reference: str | None) -> None:
        self.rank, self.links, self.held_out = rank, links, held
        self.reference_models = [] if reference is None else [reference]

    def plan(self, total_steps: int, sites: Sequence[Site]) -> LinksSchedule:
        return LinksSchedule(total_steps, links=self.links)

    def place(self, model: nn.Module) -> None:
        self.losses: list[float] = []  # held-out, at the events
        self.chains = {site.name: Chain(site.module, self._rows(site), site.shape[0]) for site in self.sites}
        swap_modules(model, {chain.base: chain for chain in self.chains.values()})
        for site in self.sites:
            for weights in self.references:
                self._start(site, weights[site.name].to(self.chains[site.name].c) - weight_of(site.module))

    def _rows(self, site: Site) -> torch.Tensor:
        weight = weight_of(site.module)
        A = torch.randn(self.rank, site.shape[1], generator=self.generator)
        return A.to(weight.device, trained_type(weight.dtype))

    @torch.no_grad()
    def _start(self, site: Site, matrix: torch.Tensor) -> None:
        """The first link reads along the first rows of `matrix`, which changes little where that does."""
        rows = matrix[: self.rank]
        self.chains[site.name].A[0].copy_(rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12))

    def calibration(self) -> Calibration | None:
        return None if self.reference_models else Calibration("gradients", examples=32)

    def calibrate(self, measured: Measured) -> None:
        if measured.loss is not None:
            self.losses.append(measured.loss)
        for site in self.sites if measured.gradients else ():
            self._start(site, measured.gradients[site.name])

    def parameters(self) -> list[nn.Parameter]:
        chains = self.chains.values()
        return [parameter for chain in chains for parameter in (chain.A[-1], chain.B[-1], chain.c)]

    @contextmanager
    def training_pass(
        self, dtype: torch.dtype | None = None, masks: Mapping[str, torch.Tensor] | None = None
    ) -> Iterator[None]:
        for site in self.sites if masks else ():
            self.chains[site.name].mask = masks[site.reads]
        yield
        for chain in self.chains.values():
            chain.mask = None

    def statistics(self) -> list[Statistic]:
        return [Statistic(chain.squares) for chain in self.chains.values()]

    def adjust_gradients(self) -> torch.Tensor | None:
        for chain in self.chains.values():
            chain.staged.copy_(chain.squares.mean())
        return None

    def observe(self, skipped: torch.Tensor | None = None) -> None:
        for chain in self.chains.values():
            chain.scale.copy_(chain.staged if skipped is None else torch.where(skipped, chain.scale, chain.staged))

    @torch.no_grad()
    def advance(self, step: int) -> StepReport:
        report = super().advance(step)
        if step not in self._schedule.restarts:
            return report
        if len(self.losses) < len(next(iter(self.chains.values())).A):
            return StepReport(report.phase, report.budget, report.live, wanted=Calibration("loss"))
        replaced = [self._grow(site) for site in self.sites]
        last = self.parameters()[:1] if self.losses[-1] > self.losses[0] else []
        return StepReport(
            report.phase, report.budget, report.live, event=True, replaced=replaced, restarted=last, regrouped=True
        )

    def _grow(self, site: Site) -> Replacement:
        chain, old = self.chains[site.name], self.chains[site.name].c
        rows = self._rows(site) / chain.scale.sqrt()
        for factors, new in ((chain.A, rows), (chain.B, torch.zeros_like(chain.B[-1]))):
            factors[-1].requires_grad_(False)
            factors.append(nn.Parameter(new))
        chain.c = nn.Parameter(torch.cat([old.detach(), old.new_ones(1)]))
        return Replacement(old, chain.c, 0, torch.arange(len(old), device=old.device))

    def delta(self, site: Site, dtype: torch.dtype) -> torch.Tensor:
        chain = self.chains[site.name]
        A, B = (torch.cat([part.detach().to(dtype) for part in parts], d) for parts, d in ((chain.A, 0), (chain.B, 1)))
        return (B * chain.c.detach().to(dtype).repeat_interleave(self.rank)) @ A

    def size(self) -> Size:
        state = self.state_dict().values()
        stored = sum(tensor.numel() for tensor in state)
        return Size(stored, sum(parameter.numel() for parameter in self.parameters()), self._stored_bytes())

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {
            f"{name}.{key}": tensor.detach()
            for name, chain in self.chains.items()
            for key, tensor in (("A", torch.stack(list(chain.A))), ("B", torch.stack(list(chain.B))), ("c", chain.c))
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        for site in self.sites:
            chain = self.chains[site.name]
            while len(chain.c) < len(state[f"{site.name}.c"]):
                self._grow(site)
            chain.c.copy_(state[f"{site.name}.c"])
            for factors, key in ((chain.A, "A"), (chain.B, "B")):
                for factor, value in zip(factors, state[f"{site.name}.{key}"], strict=True):
                    factor.copy_(value)

    def training_state(self) -> dict[str, torch.Tensor]:
        scales = {f"{name}.scale": chain.scale for name, chain in self.chains.items()}
        return {"losses": torch.tensor(self.losses, dtype=torch.float64), **scales}

    def load_training_state(self, state: Mapping[str, torch.Tensor]) -> None:
        self.losses = state["losses"].tolist()
        for name, chain in self.chains.items():
            chain.scale.copy_(state[f"{name}.scale"])
