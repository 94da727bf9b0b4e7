"""What a compiled block or compiled embeddings give, handed to the next block in the type of the residuals and in that
of the arithmetic.

Under autocast a block gives its output in fp32, which the residual of the next one reads as it is and its projections
in half as many bits. Neither block can see both sides: without this, a kernel of its own converts every output, and
another one adds up both gradients of it. Given in both types, that is part of what computes the output, and of what
begins with its gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import nn

from dora_cli.methods.low_rank.lean.gelu_pair import is_watched
from dora_cli.methods.low_rank.lean.seam import Entry


class _Given(NamedTuple):
    """What a block gave, as it was then, and the same in the other type."""

    x: ref[torch.Tensor]
    version: int
    converted: torch.Tensor

    def is_of(self, x: torch.Tensor) -> bool:
        """Whether `x` is that, unchanged, and a gradient is wanted of both or of none."""
        same = self.x() is x and self.version == x._version
        return same and self.converted.requires_grad == x.requires_grad


class BothTypes:
    """The outputs of a model's blocks, from `begin` to `end`, a pass forward and backward.

    Attributes:
        entry: for the seams of all blocks.
        dtype: that of the arithmetic; None for nothing to be given in both.
    """

    def __init__(self) -> None:
        self.entry = Entry()
        self.dtype: torch.dtype | None = None
        self._last: _Given | None = None

    def begin(self, dtype: torch.dtype | None) -> None:
        """Before a pass."""
        self.dtype = dtype

    def end(self) -> None:
        """After a pass, also one that failed."""
        self.dtype = self._last = self.entry.x = self.entry.converted = None

    def of(self, x: torch.Tensor | None, *, unread: bool = False) -> torch.Tensor | None:
        """The input of a block in the type of the arithmetic, as whatever gave it gave that too, or converted; None
        where it is of that type itself.

        Args:
            x: the input, as the block was called with it.
            unread: whether the block has a leaf of its own in its place, whose gradient nobody reads: then this is one
                too.
        """
        dtype, last, self._last = self.dtype, self._last, None
        if x is None or dtype is None or x.dtype == dtype or not x.is_floating_point():
            return None
        known = None if last is None or not last.is_of(x) or is_watched(x) else last.converted
        converted = x.to(dtype) if known is None else known
        return converted.detach().requires_grad_() if unread else converted

    def note(self, result: Any, converted: torch.Tensor | None) -> None:
        """What a block or the embeddings have given, and the first of it as the next block may have it."""
        x = _first(result)
        self._last = None if x is None or converted is None else _Given(ref(x), x._version, converted)

    def around(self, forward: Callable[..., Any]) -> Callable[..., tuple[Any, torch.Tensor | None]]:
        """The `forward` of a class of blocks, for a compiler.

        Returns:
            A function of a block, what `of` gives, and what `forward` takes; it gives what `note` wants.
        """
        entry = self.entry

        def run(
            block: nn.Module, converted: torch.Tensor | None, *args: Any, **kwargs: Any
        ) -> tuple[Any, torch.Tensor | None]:
            if converted is None:
                return forward(block, *args, **kwargs), None
            entry.x, entry.converted = hidden_of(args, kwargs), converted
            result = forward(block, *args, **kwargs)
            entry.x = entry.converted = None
            return result, _converted(result, converted.dtype)

        return run

    @staticmethod
    def giving(forward: Callable[..., Any]) -> Callable[..., tuple[Any, torch.Tensor | None]]:
        """The `forward` of a class of embeddings, for a compiler.

        Returns:
            A function of a module, `dtype`, and what `forward` takes; it gives what `note` wants.
        """

        def run(
            module: nn.Module, dtype: torch.dtype | None, *args: Any, **kwargs: Any
        ) -> tuple[Any, torch.Tensor | None]:
            result = forward(module, *args, **kwargs)
            return result, None if dtype is None else _converted(result, dtype)

        return run


def hidden_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
    """The hidden states among the arguments of a block."""
    hidden = args[0] if args else kwargs.get("hidden_states")
    return hidden if isinstance(hidden, torch.Tensor) else None


def _converted(result: Any, dtype: torch.dtype) -> torch.Tensor | None:
    x = _first(result)
    return None if x is None or x.dtype == dtype else x.to(dtype)


def _first(result: Any) -> torch.Tensor | None:
    first = result[0] if isinstance(result, tuple) and result else result
    return first if isinstance(first, torch.Tensor) else None
