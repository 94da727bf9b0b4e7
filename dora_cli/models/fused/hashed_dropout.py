"""The `nn.Dropout` modules of compiled blocks and embeddings, by integer operations that the compiler fuses with what
is around them.

The compiler's own generator takes ten rounds for every single element, and keeps masks for the backward pass. Here a
mask is a hash of a seed and of where an element lies, so that the backward pass has it again for a few operations.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import chain

import torch
from torch import nn

from dora_cli.methods.low_rank.arithmetic.dropout import (
    HASH_BITS,
    HASH_CALL,
    HASH_FIRST,
    HASH_LAST,
    HASH_SECOND,
    cut,
    refuse_in_backward,
    scale,
)

_CALLS, _DROPOUTS = 64, 8
"""Seeds are drawn at once for so many calls of blocks at least, and so many dropouts in each: a family may call a block
or a dropout more than once.
"""

_NARROW = 2**31 - 2**16
"""Up to here the number of an element, and what dropouts of a block add to it, fits 32 bits."""


class HashedDropouts:
    """The dropouts of some blocks, embeddings counting as one: between `begin` and `end`, a pass forward and backward,
    they are hashed.

    Seeds are drawn by one call per pass from the device's own generator, so captured graphs and resumed runs draw anew
    and alike. Each dropout of each call of a block has one of its own.

    Args:
        blocks: whose modules are looked at.
        device: that they are on.
    """

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device) -> None:
        self._dropouts = {
            block: [module for module in block.modules() if type(module) is nn.Dropout] for block in blocks
        }
        self._draws = Draws(max(_CALLS, len(blocks)), max([_DROPOUTS, *map(len, self._dropouts.values())]), device)
        self._begun: list[nn.Dropout] = []

    def begin(self, left_out: Collection[nn.Module] = ()) -> None:
        """Before the first block of a pass; dropouts of those that are `left_out` remain as they are."""
        found = [dropouts for block, dropouts in self._dropouts.items() if block not in left_out]
        self._begun = [module for module in chain.from_iterable(found) if _is_plain(module)]
        for module in self._begun:
            module.forward = Hashed(self._draws, module.p).forward  # type: ignore[method-assign, assignment]
        if self._begun:
            self._draws.begin()

    def begin_block(self) -> None:
        """Before each call of a block. Raises ModelError where a backward pass computes it again."""
        if self._begun:
            self._draws.begin_block()

    def end(self) -> None:
        """After a pass, also one that failed; a `forward` that somebody has put there meanwhile stays theirs."""
        for module in self._begun:
            if isinstance(getattr(vars(module).get("forward"), "__self__", None), Hashed):
                del module.forward
        self._begun = []


class Draws:
    """What dropouts draw from.

    Args:
        calls: for so many calls of blocks seeds are drawn at once; whatever comes after has its own drawn.
        dropouts: so many have a seed of their own in a block; the next ones count from elsewhere with the same seeds.
        device: where seeds are.

    Attributes:
        seeds: those of the block that is computed, int64 scalars.
        uses: how many dropouts of that block have drawn.
    """

    def __init__(self, calls: int, dropouts: int, device: torch.device) -> None:
        self._shape, self._device = (dropouts, 2), device
        self._all = torch.zeros(calls, *self._shape, dtype=torch.int64, device=device)
        self._each = [_scalars(part) for part in self._all.unbind()]
        self._calls = 0
        self.seeds, self.uses = self._each[0], 0

    def begin(self) -> None:
        self._all.random_()
        self._calls = 0

    def begin_block(self) -> None:
        _refuse_second_pass()
        if self._calls < len(self._each):
            self.seeds = self._each[self._calls]
        else:
            self.seeds = _scalars(torch.empty(self._shape, dtype=torch.int64, device=self._device).random_())
        self._calls += 1
        self.uses = 0


class Hashed:
    """One dropout, of a probability between 0 and 1."""

    def __init__(self, draws: Draws, probability: float) -> None:
        self._draws, self._threshold = draws, cut(probability, HASH_BITS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_compiling():
            _refuse_second_pass()
        use, seeds = self._draws.uses, self._draws.seeds
        self._draws.uses = use + 1
        kept = hashed_mask(x.shape, seeds[use % len(seeds)], use, self._threshold)
        return torch.where(kept, x * scale(self._threshold, HASH_BITS), 0.0)


def hashed_mask(shape: torch.Size, seed: torch.Tensor, use: int, threshold: int) -> torch.Tensor:
    """Which elements of a tensor of this shape are kept, as bool on the seed's device; in int32, which wraps.

    Four elements, one after the other, share two rounds of multiply, shift and xor, and have a multiplication of their
    own each. A thread that has them all computes the rounds once. Masks begin again after 2^34 elements.

    Args:
        seed: int64 scalar.
        use: which one of the seed; another use counts from somewhere else.
        threshold: from `cut` with `HASH_BITS`.
    """
    # Two masks of a block have nothing in common, neither numbers nor seeds nor (in `_last`) tensors of one constant:
    # what distant places share, the compiler's partitioner saves for the backward pass with all that is made of it.
    first, size = 4 * use, math.prod(shape)
    kind = torch.int32 if size < _NARROW else torch.int64
    number = torch.arange(first + size, dtype=kind, device=seed.device)[first:].view(shape)
    low, high = seed.to(torch.int32), (seed >> 32).to(torch.int32)
    value = (number >> 2).to(torch.int32) + (low + _signed(use * HASH_CALL))
    value = (value ^ _shifted(value, 16)) * _signed(HASH_FIRST)
    value = (value ^ _shifted(value, 15) ^ high) * _signed(HASH_SECOND)
    value = (value ^ _shifted(value, 15)) * _last((number & 3).to(torch.int32))
    return value >= threshold - 2 ** (HASH_BITS - 1)


def _last(place: torch.Tensor) -> torch.Tensor:
    """``HASH_LAST[place]``, by operations with constants alone, which are no tensors that two masks would share."""
    zero, one, two, three = (_signed(multiplier) for multiplier in HASH_LAST)
    odd, late = -(place & 1), -(place >> 1)
    return (odd & (zero ^ one)) ^ (late & (zero ^ two)) ^ (odd & late & (zero ^ one ^ two ^ three)) ^ zero


def _shifted(value: torch.Tensor, bits: int) -> torch.Tensor:
    """``value >> bits`` of int32 without its sign."""
    return value >> bits & (1 << (32 - bits)) - 1


def _signed(value: int) -> int:
    """The int32 of the same 32 bits."""
    return (value + 2**31) % 2**32 - 2**31


def _is_plain(module: nn.Dropout) -> bool:
    """Whether it drops, into new memory, by PyTorch's own `forward`."""
    return module.training and not module.inplace and 0 < module.p < 1 and "forward" not in vars(module)


def _scalars(seeds: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The first of every pair, as scalars that lie in that memory and are no views of it to a compiler: what is
    compiled for one of them takes all others. Each begins at a multiple of 16 bytes, as compiled code wants it.
    """
    return tuple(torch.from_dlpack(pair[0]) for pair in seeds.unbind())


def _refuse_second_pass() -> None:
    refuse_in_backward(
        "parts of its forward pass", "compiled blocks would not drop the same inputs twice", "train.fuse: off"
    )
