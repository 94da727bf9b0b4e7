"""The products of a bottleneck adapter, forward and backward.

With rows `y`, ``(N, d)``, and small activations ``(N, m)``::

    enter:  z = y W_down^T + b_down, u = f(z)          back_in:   dz = (dy W_up) f'(z)
    leave:  y + u W_up^T + b_up                        back_out:  dy + dz W_down
    collect: W_up += dy^T u, b_up += sum dy, W_down += dz^T y, b_down += sum dz

`TorchKernels` runs everywhere; `kernels_for` prefers Triton's on a CUDA device, which take a third of the launches.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch.nn import functional as F

from dora_cli.methods.bottleneck.layer import ACTIVATIONS, Activation, Tensors
from dora_cli.methods.low_rank.arithmetic.kernels import takes_triton


class Kernels(Protocol):
    """One way to compute.

    Attributes:
        splits: in how many partial sums gradients are collected.
        exact: whether they are collected in at least fp32, whatever the arithmetic's precision.
    """

    splits: int
    exact: bool

    def enter(self, y: torch.Tensor, own: Tensors, activation: Activation) -> tuple[torch.Tensor, torch.Tensor]: ...

    def leave(self, y: torch.Tensor, u: torch.Tensor, own: Tensors) -> torch.Tensor:
        """In the type of `y`, which may be wider than the arithmetic's; a new tensor."""

    def back_in(
        self, dy: torch.Tensor, z: torch.Tensor, W_up: torch.Tensor, activation: Activation
    ) -> torch.Tensor: ...

    def back_out(self, dy: torch.Tensor, dz: torch.Tensor, W_down: torch.Tensor) -> torch.Tensor:
        """In the type of `dy`, which may be wider than the arithmetic's; a new tensor."""

    def collect(self, sums: Tensors, y: torch.Tensor, u: torch.Tensor, dy: torch.Tensor, dz: torch.Tensor) -> None: ...


class TorchKernels:
    """Plain tensor operations."""

    splits = 1
    exact = False

    def enter(self, y: torch.Tensor, own: Tensors, activation: Activation) -> tuple[torch.Tensor, torch.Tensor]:
        z = F.linear(y, own.W_down, own.b_down)
        return z, ACTIVATIONS[activation](z)

    def leave(self, y: torch.Tensor, u: torch.Tensor, own: Tensors) -> torch.Tensor:
        update = F.linear(u, own.W_up, own.b_up)
        return update.add_(y) if update.dtype == y.dtype else (y + update).to(y.dtype)

    def back_in(self, dy: torch.Tensor, z: torch.Tensor, W_up: torch.Tensor, activation: Activation) -> torch.Tensor:
        du = dy @ W_up
        dz: torch.Tensor = (
            torch.ops.aten.threshold_backward(du, z, 0)
            if activation == "relu"
            else torch.ops.aten.gelu_backward(du, z, approximate="tanh")
        )
        return dz

    def back_out(self, dy: torch.Tensor, dz: torch.Tensor, W_down: torch.Tensor) -> torch.Tensor:
        if dy.dtype == dz.dtype:
            return torch.addmm(dy, dz, W_down)
        return (dy + dz @ W_down).to(dy.dtype)

    def collect(self, sums: Tensors, y: torch.Tensor, u: torch.Tensor, dy: torch.Tensor, dz: torch.Tensor) -> None:
        d, m = y.shape[1], u.shape[1]
        sums.W_down.view(m, d).addmm_(dz.T, y)
        sums.b_down.view(m).add_(dz.sum(0))
        sums.W_up.view(d, m).addmm_(dy.T, u)
        sums.b_up.view(d).add_(dy.sum(0))


def kernels_for(device: torch.device, dtype: torch.dtype, width: int, bottleneck: int) -> Kernels:
    """The fastest way to compute on `device` in `dtype`. Triton comes with PyTorch's CUDA builds on Linux."""
    if dtype in (torch.float32, torch.bfloat16, torch.float16) and takes_triton(device):
        from dora_cli.methods.bottleneck.triton_kernels import MAX_BOTTLENECK, TritonKernels

        if bottleneck <= MAX_BOTTLENECK:
            return TritonKernels(device, width)
    return TorchKernels()
