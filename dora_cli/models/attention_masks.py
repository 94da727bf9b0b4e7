"""Attention masks that are made whatever a batch holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from functools import partial
from threading import Lock
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

    It holds for all threads, until the last that is within it has left.
    """
    try:
        from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS as MASKS
    except ImportError:  # a version whose models make their masks themselves
        yield
        return
    _USE.begin(MASKS)
    try:
        yield
    finally:
        _USE.end(MASKS)


class _Use:
    """The functions that masks are made by, replaced for as long as anybody wants that."""

    def __init__(self) -> None:
        self._lock, self._users = Lock(), 0
        self._before: dict[str, Callable[..., Any]] = {}

    def begin(self, masks: MutableMapping[str, Callable[..., Any]]) -> None:
        """The first user replaces them in `masks`."""
        with self._lock:
            self._users += 1
            if self._users > 1:
                return
            self._before = {kind: masks[kind] for kind in _KINDS}
            for kind, made in self._before.items():
                masks[kind] = partial(_always, made)

    def end(self, masks: MutableMapping[str, Callable[..., Any]]) -> None:
        """The last user puts them back."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
            for kind, made in self._before.items():
                del masks[kind]
                if masks[kind] is not made:  # somebody else's own
                    masks[kind] = made


_USE = _Use()


def _always(made: Callable[..., Any], *sizes: Any, **settings: Any) -> Any:
    return made(*sizes, **{**settings, **dict.fromkeys(settings.keys() & _LEAVE_OUT, False)})
