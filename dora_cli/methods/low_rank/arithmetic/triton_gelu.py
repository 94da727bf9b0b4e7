"""What GELU multiplies its argument by, and its derivative, within kernels of Triton."""

from __future__ import annotations

import math

import triton
import triton.language as tl

FARTHEST = 9.0
"""Beyond it is less than 2e-19."""

TAIL = (
    -0.99999358, -1.1513045, -0.45823518, -0.05430425, 0.0087492117, -0.0010194324, 7.9336296e-05, -3.6478286e-06,
    7.4390103e-08,
)  # fmt: skip
"""Coefficients, from the constant on, of a polynomial in `y` up to `FARTHEST`: the binary logarithm of how much of the
distribution is beyond it. Of all of its degree the nearest on 4,001 of Chebyshev's points, by least squares.
"""

_ROOT_HALF, _FARTHEST = tl.constexpr(math.sqrt(0.5)), tl.constexpr(FARTHEST)
_T0, _T1, _T2, _T3, _T4, _T5, _T6, _T7, _T8 = (tl.constexpr(number) for number in TAIL)
_STEEPNESS, _PEAK = tl.constexpr(-0.5 / math.log(2)), tl.constexpr(-0.5 * math.log2(2 * math.pi))


@triton.jit
def below(y, EXACT: tl.constexpr):
    """How much of a standard normal distribution is below `y`.

    Unless `EXACT`, within 1e-5, and what is beyond ``|y|`` within 1e-4 of itself, which is less than half precision can
    tell, by half the operations: the error function takes longer than the memory that a kernel waits for.
    """
    if EXACT:
        found = 0.5 + 0.5 * tl.erf(y * _ROOT_HALF)
    else:
        x = tl.minimum(tl.abs(y), _FARTHEST)
        power = ((((((_T8 * x + _T7) * x + _T6) * x + _T5) * x + _T4) * x + _T3) * x + _T2) * x + _T1
        beyond = tl.exp2(power * x + _T0)
        found = tl.where(y < 0, beyond, 1.0 - beyond)
    return found


@triton.jit
def slope(y, EXACT: tl.constexpr):
    """The derivative of GELU at `y`."""
    return below(y, EXACT) + y * tl.exp2(y * y * _STEEPNESS + _PEAK)
