"""`ManyKernels` in plain operations, one projection after the other: for tests of its callers, and their reference."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dora_cli.methods.low_rank.arithmetic.factor import Factor
from dora_cli.methods.low_rank.arithmetic.kernels import TorchKernels
from dora_cli.methods.low_rank.same_input.products import Wide


class PlainMany:
    """The products of `TorchKernels`, whose dropouts these are."""

    def __init__(self, kernels: TorchKernels) -> None:
        self._one = kernels
        self.calls = 0

    def down(self, x: Wide, factors: Sequence[Factor], drops: Sequence[object]) -> Wide:
        self.calls += 1
        parts = [
            self._one.down(x.part(i).contiguous(), factor, drop)
            for i, (factor, drop) in enumerate(zip(factors, drops, strict=True))
        ]
        return Wide.beside(torch.cat(parts, 1).view(-1), x.rows, [factor.rank for factor in factors])

    def up(self, base: Wide, u: Wide, factors: Sequence[Factor], out: Wide) -> None:
        self.calls += 1
        for i, factor in enumerate(factors):
            self._one.up(base.part(i), u.part(i), factor, None, out.part(i))

    def up_sum(
        self, base: torch.Tensor, u: Wide, factors: Sequence[Factor], drops: Sequence[object], out: torch.Tensor
    ) -> None:
        self.calls += 1
        for i, (factor, drop) in enumerate(zip(factors, drops, strict=True)):
            self._one.up(base, u.part(i), factor, drop, base)
        if out is not base:
            out.copy_(base)

    def outer(self, totals: Sequence[torch.Tensor | None], u: Wide, x: Wide, drops: Sequence[object]) -> None:
        self.calls += 1
        for i, (total, drop) in enumerate(zip(totals, drops, strict=True)):
            if total is not None:
                self._one.outer(total, u.part(i), x.part(i).contiguous(), drop)


class TogetherKernels(TorchKernels):
    """Plain operations that compute several projections at once, which no device asks for."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.made = PlainMany(TorchKernels(device))

    def many(self) -> PlainMany:  # type: ignore[override]
        return self.made
