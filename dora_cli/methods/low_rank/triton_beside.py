"""Writes the columns of all projections beside their weights in one launch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from dora_cli.methods.triton_launch import Launch

_FROM, _TO, _RANK, _ROWS, _STRIDE, _FIELDS = map(tl.constexpr, range(6))
"""Of a projection: where its factor and its columns are, its rank, `d_out`, and how far rows of columns are apart."""

BLOCK = 128
"""Rows of a weight that a block writes."""


@triton.jit
def _write(table, BLOCK_D: tl.constexpr, BLOCK_R: tl.constexpr):
    """Elements of two bytes each, whatever they stand for."""
    own = table + tl.program_id(0) * _FIELDS
    rank, rows, stride = tl.load(own + _RANK), tl.load(own + _ROWS), tl.load(own + _STRIDE)
    d, r = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_R)
    inside = (d[:, None] < rows) & (r[None, :] < rank)
    given = tl.load(own + _FROM).to(tl.pointer_type(tl.int16)) + r[None, :] * rows + d[:, None]
    place = tl.load(own + _TO).to(tl.pointer_type(tl.int16)) + d[:, None] * stride + r[None, :]
    tl.store(place, tl.load(given, mask=inside, other=0), mask=inside)


class ManyColumns:
    """What writes factors, ``(r, d_out)``, into columns, ``(d_out, r)``: of two bytes an element, where they are now.

    The host does not wait: after a selection this is made within an ordinary step.
    """

    def __init__(self, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        rows = []
        for factor, columns in pairs:
            assert factor.element_size() == columns.element_size() == 2 and factor.is_contiguous()
            rows.append([factor.data_ptr(), columns.data_ptr(), *factor.shape, columns.stride(0)])
        made, device = torch.tensor(rows, dtype=torch.int64), pairs[0][0].device
        self._table = made.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else made
        most, longest = (max(factor.shape[place] for factor, _ in pairs) for place in (0, 1))
        grid = len(pairs), triton.cdiv(longest, BLOCK), 1
        self._launch = Launch(_write, grid, (BLOCK, triton.next_power_of_2(most)), num_warps=4)

    def __call__(self) -> None:
        self._launch(self._table)
