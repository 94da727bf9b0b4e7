"""Parts of a model that training passes compute in fewer kernels than it was written in, each on its own terms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Protocol

import torch
from torch import nn

from dora_cli.models.rms_norms import rms_norms
from dora_cli.models.short_attention.attention import short_attention


class Shortcut(Protocol):
    """One way to compute a part."""

    def around(self) -> AbstractContextManager[None]:
        """A forward and backward pass in which it holds."""
        ...


def shortcuts(
    model: nn.Module, dtype: torch.dtype | None, *, longest: int | None, compiled: bool = False
) -> list[Shortcut]:
    """Those that `model` can take.

    Args:
        model: on the device that it stays on.
        dtype: autocast's; None without.
        longest: tokens of the widest batch of training; None for PyTorch's attention, as where texts stand in one row.
        compiled: whether its blocks are, whose norms are the compiler's then.
    """
    attention = None if longest is None else short_attention(model, dtype, longest)
    norms = None if compiled else rms_norms(model)
    return [shortcut for shortcut in (attention, norms) if shortcut is not None]


@contextmanager
def taking(taken: Sequence[Shortcut]) -> Iterator[None]:
    """`around` of all of them."""
    with ExitStack() as stack:
        for shortcut in taken:
            stack.enter_context(shortcut.around())
        yield
