"""Attention masks that are made whatever a batch holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

_KINDS = ("eager", "sdpa")
"""Ways of computing attention that captured work may use."""

_LEAVE_OUT = frozenset({"allow_is_causal_skip", "allow_is_bidirectional_skip"})
"""By which transformers lets a mask be left out where nothing is padded."""


@contextmanager
def masks_always_made() -> Iterator[None]:
    """Within it, models of transformers make the mask of their attention for every batch.

    They otherwise leave it out where nothing is padded: for that they ask the device, and PyTorch's attention then runs
    another kernel, which rounds differently. Captured work cannot ask, and so makes the mask always; within this, work
    that is not captured runs the kernels that captured work runs.
    """
    try:
        from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS as MASKS
    except ImportError:  # a version whose models make their masks themselves
        yield
        return
    before = {kind: MASKS[kind] for kind in _KINDS}
    for kind, made in before.items():
        MASKS[kind] = partial(_always, made)
    try:
        yield
    finally:
        for kind, made in before.items():
            del MASKS[kind]
            if MASKS[kind] is not made:  # somebody else's own
                MASKS[kind] = made


def _always(made: Callable[..., Any], *sizes: Any, **settings: Any) -> Any:
    return made(*sizes, **{**settings, **dict.fromkeys(settings.keys() & _LEAVE_OUT, False)})
