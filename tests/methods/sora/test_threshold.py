"""The proximal step: the paper's formula, and the three assignments of the published code."""

from __future__ import annotations

import math

import pytest
import torch

from dora_cli.methods.sora.threshold import OPERATORS, official, soft

XI = 0.25


def in_sequence(gates: torch.Tensor, xi: float) -> torch.Tensor:
    """The published code's three assignments, each on what the one before has left."""
    g = gates.clone()
    g[g > xi] -= xi
    g[g < -xi] += xi
    g[g.abs() < xi] = 0.0
    return g


def by_formula(gates: torch.Tensor, xi: float) -> torch.Tensor:
    return torch.tensor([math.copysign(max(abs(g) - xi, 0.0), g) for g in gates.tolist()], dtype=gates.dtype)


def around(dtype: torch.dtype, xi: float) -> torch.Tensor:
    """Values on every boundary, next to it on either side, and many between."""
    marks = torch.tensor([0.0, xi, 2 * xi, 3 * xi, 1.5 * xi, 0.5 * xi, 1.0], dtype=dtype)
    beside = [torch.nextafter(marks, torch.full_like(marks, side)) for side in (-math.inf, math.inf)]
    drawn = torch.randn(2000, generator=torch.Generator().manual_seed(3), dtype=dtype)
    values = torch.cat([marks, *beside, drawn, drawn * xi, drawn * 3 * xi])
    return torch.cat([values, -values])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("xi", [XI, 3e-4, 7e-4 / 6, 0.0])
def test_both_are_what_they_say_to_the_bit(xi: float, dtype: torch.dtype) -> None:
    gates, scalar = around(dtype, xi), torch.tensor(xi, dtype=dtype)
    exact = float(scalar)
    assert torch.equal(soft(gates, scalar), by_formula(gates, exact))
    assert torch.equal(official(gates, scalar), in_sequence(gates, exact))


def test_they_differ_between_the_threshold_and_twice_it() -> None:
    """With 1/4 all of these are exact. The official one is 0 below 2 xi, but for a gate of xi itself."""
    gates = torch.tensor([0.125, 0.25, 0.375, 0.4375, 0.5, 0.75, -0.125, -0.25, -0.375, -0.5, -0.75])
    xi = torch.tensor(XI)
    assert soft(gates, xi).tolist() == [0, 0, 0.125, 0.1875, 0.25, 0.5, 0, 0, -0.125, -0.25, -0.5]
    assert official(gates, xi).tolist() == [0, 0.25, 0, 0, 0.25, 0.5, 0, -0.25, 0, -0.25, -0.5]


@pytest.mark.parametrize("name", OPERATORS)
def test_no_threshold_changes_nothing_and_bad_values_stay_to_be_seen(name: str) -> None:
    gates = torch.tensor([1.5, -2e-30, 0.0, -7.0])
    assert torch.equal(OPERATORS[name](gates, torch.tensor(0.0)), gates)
    bad = OPERATORS[name](torch.tensor([math.nan, math.inf, -math.inf]), torch.tensor(XI))
    assert bad[0].isnan()
    assert bad[1:].tolist() == [math.inf, -math.inf]
