"""Products of many columns and few components, in which the warps of a block have nothing to share but the columns.

With `PARTS`, one a warp, each has columns of its own, `BLOCK_D` of every ``PARTS * BLOCK_D``, and their sums are added
at last. Tensors of rows and columns then have parts as a first dimension.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

MANY_ROWS = 4096
"""From here on other blocks are the fastest, most of them of more rows."""


@triton.jit
def along(index, PARTS: tl.constexpr):
    """Rows or components, as what is multiplied has them."""
    return index[:, None] if PARTS == 1 else index[None, :, None]


@triton.jit
def across(PARTS: tl.constexpr, BLOCK_D: tl.constexpr):
    """The columns of a block, likewise."""
    column = tl.arange(0, BLOCK_D)
    return column[None, :] if PARTS == 1 else tl.arange(0, PARTS)[:, None, None] * BLOCK_D + column[None, None, :]


@triton.jit
def nothing(BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr, PARTS: tl.constexpr):
    """What `multiplied` begins with."""
    return tl.zeros((BLOCK_N, BLOCK_R) if PARTS == 1 else (PARTS, BLOCK_N, BLOCK_R), dtype=tl.float32)


@triton.jit
def multiplied(part, weights, total, PARTS: tl.constexpr, PRECISION: tl.constexpr):
    """`total` and the products of these columns of rows and components."""
    turned = tl.trans(weights) if PARTS == 1 else tl.permute(weights, (0, 2, 1))
    return tl.dot(part, turned, total, input_precision=PRECISION)


@triton.jit
def added(total, PARTS: tl.constexpr):
    """That of all parts."""
    return total if PARTS == 1 else tl.sum(total, axis=0)


class DownBlocks(NamedTuple):
    """How a `down` is divided.

    Attributes:
        rows: of a block.
        columns: of a part at a time.
        parts: of columns, a warp each; 1 for columns that all warps have together.
        stages: of the loop over columns.
    """

    rows: int
    columns: int
    parts: int
    stages: int

    @property
    def options(self) -> dict[str, int]:
        """The compiler's."""
        return {"num_warps": 4 if self.parts == 1 else self.parts, "num_stages": self.stages}


def down_blocks(
    rows: int, width: int, block_r: int, threshold: int, size: int, memory: int, *, tied: bool = False
) -> DownBlocks:
    """The fastest of a search on an H200, at 1,024 and 4,096 rows of 768 and 3,072 columns and rank 12, with as many
    columns as there is `memory` for. Parts win where few blocks have long loops or much to do in each; those of wider
    products, and of fp32, which no tensor core multiplies, do not fit a warp's registers.
    """
    wide, many = width > 1024, rows >= MANY_ROWS
    if size == 2 and block_r == 16 and not tied and (wide if threshold else not many):
        blocks = DownBlocks(16, 128, 4 if wide else 2, 3)
    elif not many:
        blocks = DownBlocks(16, 512, 1, 3) if wide else DownBlocks(16, 128, 1, 4)
    else:
        blocks = DownBlocks(32 if threshold else 64, 256 if wide else 128, 1, 4)
    sizes = block_r, size, memory, blocks.stages
    fitting = down_columns(blocks.rows, blocks.parts * blocks.columns, *sizes, tied=tied) // blocks.parts
    return blocks._replace(columns=max(16, fitting))


def down_columns(
    block: int, columns: int, block_r: int, size: int, memory: int, stages: int, *, tied: bool = False
) -> int:
    """`columns`, or as many as there is `memory` for: all stages of both operands, and one more of what is dropped and
    of factors of which components are `tied`.
    """
    each = stages * (block + block_r) + block + (block_r if tied else 0)
    while columns > 16 and size * columns * each > memory:
        columns //= 2
    return columns
