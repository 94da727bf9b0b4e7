"""Python's garbage collector, kept from work that is worth nothing or does harm."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """No collection meanwhile.

    Around imports: half a million objects that stay, looked through again and again as they come.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
