"""The Triton kernels against plain tensor operations: on a GPU, or anywhere in Triton's interpreter.

The interpreter is asked for by ``TRITON_INTERPRET=1``; it checks the arithmetic, not the speed.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dora_cli.methods.bottleneck.kernels import TorchKernels
from dora_cli.methods.bottleneck.layer import Tensors
from tests.triton_kernels import DEVICE, INTERPRETED, TOLERANCE, TYPES

if not INTERPRETED:
    pytestmark = pytest.mark.gpu


@TYPES
@pytest.mark.parametrize("wider", [False, True], ids=["as arithmetic", "fp32 around"])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize(
    ("rows", "width", "m"), [(40, 130, 3), (64, 256, 16), (17, 48, 40), (5, 16, 1), (150, 272, 128)]
)
def test_they_compute_what_tensor_operations_do(
    rows: int, width: int, m: int, activation: Any, wider: bool, dtype: torch.dtype
) -> None:
    """To the rounding of `dtype`, against float64; sums twice, which add up."""
    pytest.importorskip("triton")
    from dora_cli.methods.bottleneck.triton_kernels import TritonKernels

    generator = torch.Generator().manual_seed(rows)

    def drawn(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return (scale * torch.randn(*shape, generator=generator)).to(DEVICE, dtype)

    def exact(tensors: Tensors) -> Tensors:
        return Tensors(*(tensor.double() for tensor in vars(tensors).values()))

    def close(found: torch.Tensor, expected: torch.Tensor) -> None:
        error = (found.double() - expected).abs().max() / expected.abs().max()
        assert error < TOLERANCE[dtype], error

    ours, plain = TritonKernels(torch.device(DEVICE), width), TorchKernels()
    own = Tensors(drawn(m, width, scale=width**-0.5), drawn(m), drawn(width, m, scale=m**-0.5), drawn(width))
    y, dy = drawn(rows, width), drawn(rows, width)
    around = torch.float32 if wider else dtype

    z, u = ours.enter(y, own, activation)
    for found, expected in zip((z, u), plain.enter(y.double(), exact(own), activation), strict=True):
        assert found.dtype == dtype
        close(found, expected)
    out = ours.leave(y.to(around), u, own)
    assert out.dtype == around
    close(out, plain.leave(y.double(), u.double(), exact(own)))
    dz = ours.back_in(dy, z, own.W_up, activation)
    close(dz, plain.back_in(dy.double(), z.double(), own.W_up.double(), activation))
    dx = ours.back_out(dy.to(around), dz, own.W_down)
    assert dx.dtype == around
    close(dx, plain.back_out(dy.double(), dz.double(), own.W_down.double()))

    sizes = [tensor.numel() for tensor in vars(own).values()]
    sums = torch.zeros(ours.splits, sum(sizes), device=DEVICE)
    total = torch.zeros(1, sum(sizes), device=DEVICE, dtype=torch.float64)
    for _ in range(2):
        ours.collect(Tensors(*sums.split(sizes, dim=1)), y, u, dy, dz)
        plain.collect(Tensors(*total.split(sizes, dim=1)), y.double(), u.double(), dy.double(), dz.double())
    for found, expected in zip(sums.sum(0).split(sizes), total[0].split(sizes), strict=True):
        close(found, expected)
