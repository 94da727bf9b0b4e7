"""How factors and gates start, and what the update is scaled by.

All starts compute what the base does: the gates are 0, or `B` is. With them goes the size of a component
``s c_i b_i a_i^T``, and how fast each of its parts moves it: under Adam an entry moves by about the learning rate,
whatever its gradient (reference section 2.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch

Start = Callable[[int, int, int, torch.dtype, torch.Generator], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
"""``(d_out, d_in, rank, dtype, generator) -> (A, B, c)``: ``(rank, d_in)``, ``(d_out, rank)`` and ``(rank,)``.

The generator is on the CPU, so that a seed gives the same factors whatever the device.
"""


def published(
    d_out: int, d_in: int, rank: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Both factors Kaiming-uniform (fan-in, ``a = 0``), the gates zero, as in the code of Mao et al. 2024.

    `A` is from ``U(+-sqrt(6 / d_in))``, `B` from ``U(+-sqrt(6 / rank))`` (reference section 1.1): the norms of a
    component are sqrt(2) and ``sqrt(2 d_out / rank)``, so that a step of a gate weighs more in wide layers and at low
    ranks.
    """
    A, B = torch.empty(rank, d_in, dtype=dtype), torch.empty(d_out, rank, dtype=dtype)
    for factor, bound in ((A, math.sqrt(6 / d_in)), (B, math.sqrt(6 / rank))):
        factor.uniform_(-bound, bound, generator=generator)
    return A, B, torch.zeros(rank, dtype=dtype)


def unit(
    d_out: int, d_in: int, rank: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Components of norm 1 on average, the gates zero.

    ``a_i ~ N(0, 1 / d_in)`` and ``b_i ~ N(0, 1 / d_out)``: in every width and at every rank ``|c_i|`` is about the
    Frobenius norm of a component, and a step of a gate moves every layer alike.
    """
    A, B = torch.empty(rank, d_in, dtype=dtype), torch.empty(d_out, rank, dtype=dtype)
    for factor, width in ((A, d_in), (B, d_out)):
        factor.normal_(0, width**-0.5, generator=generator)
    return A, B, torch.zeros(rank, dtype=dtype)


def lora(
    d_out: int, d_in: int, rank: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """LoRA's: `A` as `lora_A` draws it, ``B = 0``, the gates 1."""
    A = lora_A(rank, d_in, dtype, generator)
    return A, A.new_zeros(d_out, rank), A.new_ones(rank)


def lora_A(rank: int, d_in: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """`A` of LoRA, ``(rank, d_in)`` from ``U(+-1 / sqrt(d_in))``, as in loralib and PEFT (Kaiming with a = sqrt(5))."""
    bound = d_in**-0.5
    return torch.empty(rank, d_in, dtype=dtype).uniform_(-bound, bound, generator=generator)


STARTS: Mapping[str, Start] = {"published": published, "unit": unit, "lora": lora, "gradient": lora, "inputs": lora}
"""By the names of recipes; ``gradient`` and ``inputs`` give `A` its `directions` later."""


SCALINGS: Mapping[str, Callable[[float, int, int], float]] = {
    "start": lambda alpha, start_rank, rank: alpha / start_rank,
    "root": lambda alpha, start_rank, rank: alpha / math.sqrt(start_rank * rank),
    "final": lambda alpha, start_rank, rank: alpha / rank,
    "none": lambda alpha, start_rank, rank: alpha,
}
"""``(alpha, r0, rT) -> s``, the scale of the update, which stays: by the rank at the start, by the mean final rank (as
in LoRA of that rank), by the geometric mean of the two, or by none.
"""
