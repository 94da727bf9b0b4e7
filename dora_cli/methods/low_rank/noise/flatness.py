"""Noise on the adapted weights, drawn anew for every optimiser step, so that training ends in a flat minimum
(Flat-LoRA; reference section 3.4).

At step `t` of `T` an adapted layer computes with `W' + eps`, where `W' = W0 + s B diag(c) A` and::

    eps_ij = d_i z_ij,    d_i = f(t) sigma ||W'_i|| / sqrt(d_in),    f(t) = (1 - cos(pi t / T)) / 2,    z_ij ~ N(0, 1)

One `eps` serves all tokens, micro-batches and processes of a step, in the forward pass and in the gradient of the
input; its deviations `d` count as constants. An evaluation has none. `z` depends on seed, step and the projection's
number alone, so nothing is stored and a resumed run draws what the straight one drew:

* on the CPU it is ``torch.randn(d_out, d_in, generator=...)`` of a generator seeded by `key`, its second word before
  its first;
* elsewhere it is `hashed_normals`, of the place in the weight. Step and ramp reach it as tensors on the device, so a
  captured pass draws anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from dora_cli.methods.base import Schedule, Site
from dora_cli.methods.linear import weight_of
from dora_cli.methods.low_rank.arithmetic.dropout import HASH_CALL, HASH_FIRST, HASH_SECOND
from dora_cli.methods.low_rank.arithmetic.kernels import takes_triton
from dora_cli.methods.low_rank.protocols import Layer

_MASK = 0xFFFFFFFF
_AT_ONCE = 2**20  # entries that are hashed by plain tensor operations at once, of 8 bytes in each of some temporaries
_TRITON = (torch.float32, torch.bfloat16, torch.float16)

Number = TypeVar("Number", int, torch.Tensor)


def ramp(step: int, total_steps: int) -> float:
    """`f`: from 0 before the first step to 1 at the last."""
    return (1 - math.cos(math.pi * min(step, total_steps) / total_steps)) / 2


def words(seed: int) -> tuple[int, int]:
    """Two words of 32 bits made of a seed of 64."""
    low, high = seed & _MASK, (seed >> 32) & _MASK
    return _mixed(low), _mixed((high + _mixed((low + HASH_CALL) & _MASK)) & _MASK)


def key(seed: Sequence[Number], number: int, step: Number) -> tuple[Number, Number]:
    """Two words of 32 bits for the projection `number` at `step`, from the `words` of a seed."""
    first, second = (_mixed((_mixed((word + step) & _MASK) + number) & _MASK) for word in seed)
    return first, second


def _mixed(value: Number) -> Number:
    """A one-to-one hash of 32-bit words."""
    value = ((value ^ (value >> 16)) * HASH_FIRST) & _MASK
    value = ((value ^ (value >> 15)) * HASH_SECOND) & _MASK
    return value ^ (value >> 15)


def _hashed(index: torch.Tensor, first: int | torch.Tensor, second: int | torch.Tensor) -> torch.Tensor:
    """32 bits for each place, keyed before the first and the second of three rounds."""
    value = (index + first) & _MASK
    value = ((value ^ (value >> 16)) * HASH_FIRST) & _MASK
    value = ((value ^ (value >> 15) ^ second) * HASH_SECOND) & _MASK
    value = ((value ^ (value >> 15)) * HASH_FIRST) & _MASK
    return value ^ (value >> 16)


def hashed_normals(
    rows: range, d_in: int, first: int | torch.Tensor, second: int | torch.Tensor, dtype: torch.dtype, device: Any
) -> torch.Tensor:
    """Some rows of `z` in plain tensor operations, ``(len(rows), d_in)``; what the Triton kernel draws, up to rounding.

    Two words make two normals (Box and Muller): one in the first half of a row, one in the second.

    Args:
        rows: which.
        first, second: the `key`.
    """
    half = (d_in + 1) // 2
    index = torch.arange(rows.start * half, rows.stop * half, device=device)
    uniform, turn = _hashed(index, first, second).to(dtype), _hashed(index, second, first).to(dtype)
    radius = (uniform * 2.0**-32 + 2.0**-33).log().mul_(-2).sqrt_()
    angle = turn * (2.0**-31 * math.pi) - math.pi / 4
    pairs = radius * angle.cos(), radius * angle.sin()
    return torch.cat([part.view(len(rows), half) for part in pairs], 1)[:, :d_in]


class Flatness:
    """What the noise of all projections of a method shares: how strong it is, its seed and the step.

    Args:
        sigma: the output of a projection, of independent inputs, varies by ``1 + sigma^2`` times as much at the last
            step.
        total_steps: `T`.
        seed: the same in all processes.

    Attributes:
        step: whose noise is drawn.
        scale: ``f(t) sigma``.
        turn: counts the calls of `begin_step`.
    """

    def __init__(self, sigma: float, *, total_steps: int, seed: int) -> None:
        self.sigma, self.total_steps, self.words = sigma, total_steps, words(seed)
        self._clocks: dict[torch.device, torch.Tensor] = {}
        self._scales: dict[torch.device, torch.Tensor] = {}
        self.turn = 0
        self.begin_step(1)

    def begin_step(self, step: int) -> None:
        """What is drawn from here on is that of `step`; waits for no device."""
        self.turn += 1
        self.step, self.scale = step, self.sigma * ramp(step, self.total_steps)
        for clock in self._clocks.values():
            clock[2].fill_(step)
        for scale in self._scales.values():
            scale.fill_(self.scale)

    def clock(self, device: torch.device) -> torch.Tensor:
        """The words of the seed and the step, ``(3,)`` of int64, on a device."""
        if device not in self._clocks:
            self._clocks[device] = torch.tensor([*self.words, self.step], device=device)
        return self._clocks[device]

    def scale_on(self, device: torch.device) -> torch.Tensor:
        """`scale` on a device, float64."""
        if device not in self._scales:
            self._scales[device] = torch.tensor(self.scale, dtype=torch.float64, device=device)
        return self._scales[device]


def noise_on(
    layers: Mapping[str, Layer], sites: Sequence[Site], schedule: Schedule | None, *, sigma: float, seed: int
) -> Flatness | None:
    """Gives each of `layers` its noise; None where there is none to give.

    Args:
        layers: adapted projections by name.
        sites: those that the method was attached to, in the order of the model.
        schedule: of the training; None for a method that is only evaluated.
        sigma, seed: see `Flatness`.
    """
    if not sigma or schedule is None:
        return None
    flatness = Flatness(sigma, total_steps=schedule.total_steps, seed=seed)
    for number, site in enumerate(sites):
        if site.name in layers:
            layers[site.name].noise = Noise(flatness, number)
    return flatness


class Noise:
    """The noise on the weight of one adapted projection.

    Args:
        flatness: shared by all projections.
        number: of the projection, in the order of the model.
    """

    def __init__(self, flatness: Flatness, number: int) -> None:
        self.flatness, self.number = flatness, number
        self._squares: tuple[tuple[int, int], torch.Tensor] | None = None

    @torch.no_grad()
    def deviations(self, layer: Layer, out: torch.Tensor | None = None) -> torch.Tensor:
        """`d`, ``(d_out,)``, in the type of what trains. No ``(d_out, d_in)`` update is formed."""
        assert layer.chunks == 1 and not layer.tied, "norms are those of one pair of factors"
        weight = weight_of(layer.base).detach()
        if out is None:
            out = weight.new_empty(len(weight), dtype=layer.A.dtype)
        if by_triton(weight, layer):
            from dora_cli.methods.low_rank.noise.triton_flatness import deviations

            return deviations(layer, weight, self.flatness.scale_on(weight.device), out)
        A, B = layer.A.detach(), layer.B.detach() * layer.scaling
        if layer.c is not None:
            B = B * layer.c.detach()
        with torch.autocast(weight.device.type, enabled=False):
            # ||w + b A||^2 = ||w||^2 + b . (2 A w + A A^T b)
            cross = weight.to(A.dtype) @ A.T
            squares = self._own(weight, A.dtype) + ((2 * cross + B @ (A @ A.T)) * B).sum(1)
        scale = self.flatness.scale if draws_on_host(weight.device) else self.flatness.scale_on(weight.device)
        return out.copy_(squares.div_(weight.shape[1]).clamp_(min=0).sqrt_() * scale)

    def _own(self, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Squared norms of the base weight's rows, computed once; writes through ``.data`` go unnoticed."""
        state = weight.data_ptr(), weight._version
        if self._squares is None or self._squares[0] != state or self._squares[1].dtype != dtype:
            self._squares = state, torch.linalg.vector_norm(weight, dim=1, dtype=dtype).square_()
        return self._squares[1]

    @torch.no_grad()
    def perturb(
        self, weight: torch.Tensor, deviations: torch.Tensor, out: torch.Tensor, room: torch.Tensor | None = None
    ) -> torch.Tensor:
        """``weight + eps`` into `out`, which is returned; both ``(d_out, d_in)``.

        Args:
            room: memory for as many numbers in the type of `deviations`, which need not be allocated then.
        """
        flatness, device, dtype = self.flatness, weight.device, deviations.dtype
        if draws_on_host(device):
            first, second = key(flatness.words, self.number, flatness.step)
            generator = torch.Generator().manual_seed(second << 32 | first)
            own = out.dtype == dtype and out.is_contiguous()
            z = out if own else torch.empty(weight.shape, dtype=dtype) if room is None else room
            z.normal_(generator=generator).mul_(deviations[:, None]).add_(weight)
            return out if own else out.copy_(z)
        clock = flatness.clock(device)
        if dtype == torch.float32 and weight.dtype in _TRITON and out.dtype in _TRITON and takes_triton(device):
            from dora_cli.methods.low_rank.noise.triton_flatness import perturb

            return perturb(weight, deviations, clock, self.number, out)
        d_out, d_in = weight.shape
        hashed = key((clock[0], clock[1]), self.number, clock[2])
        many = max(1, _AT_ONCE // d_in)
        for start in range(0, d_out, many):
            part = slice(start, min(start + many, d_out))
            z = hashed_normals(range(part.start, part.stop), d_in, *hashed, dtype, device)
            out[part].copy_(z.mul_(deviations[part, None]).add_(weight[part]))
        return out

    def map(self, layer: Layer, x: torch.Tensor) -> torch.Tensor:
        """What the base of `layer` makes of `x`, ``(..., d_in)``, with noise on its weight; autograd's own way."""
        base = layer.base
        weight, bias = weight_of(base), layer.bias
        kind = x.device.type
        casts = torch.is_autocast_enabled(kind) and weight.dtype != torch.float64
        dtype = torch.get_autocast_dtype(kind) if casts else weight.dtype
        if weight.requires_grad or (bias is not None and bias.requires_grad):
            noise = self.perturb(torch.zeros_like(weight), self.deviations(layer), torch.empty_like(weight))
            return F.linear(x, weight + noise, bias)
        y: torch.Tensor = _Mapped.apply(x, layer, self, dtype)  # type: ignore[no-untyped-call]
        return y


class _Mapped(torch.autograd.Function):
    """A frozen map with noise on its weight, which is drawn again for the gradient of the input."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: Layer, noise: Noise, dtype: torch.dtype) -> torch.Tensor:
        deviations = noise.deviations(layer)
        ctx.save_for_backward(deviations)
        ctx.layer, ctx.noise, ctx.dtype, ctx.given = layer, noise, dtype, x.dtype
        bias = None if layer.bias is None else layer.bias.to(dtype)
        return F.linear(x.to(dtype), _perturbed(ctx, deviations), bias)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:
        (deviations,) = ctx.saved_tensors
        return (gradient @ _perturbed(ctx, deviations)).to(ctx.given), None, None, None


def _perturbed(ctx: Any, deviations: torch.Tensor) -> torch.Tensor:
    weight = weight_of(ctx.layer.base).detach()
    perturbed: torch.Tensor = ctx.noise.perturb(weight, deviations, weight.new_empty(weight.shape, dtype=ctx.dtype))
    return perturbed


def draws_on_host(device: torch.device) -> bool:
    """Whether numbers come from a generator that the host seeds for each step, so that no pass can be captured."""
    return device.type == "cpu"


def by_triton(weight: torch.Tensor, layer: Layer) -> bool:
    """Whether kernels work on this layer."""
    return layer.A.dtype == torch.float32 and weight.dtype in _TRITON and takes_triton(weight.device)
