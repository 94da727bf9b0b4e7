"""Stopping many runs by a signal to the process that wants them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dora_cli.compare.jobs import Pool
from dora_cli.machine.signals import StoppedNow, StopSignals


@contextmanager
def closing(pool: Pool, how: str) -> Iterator[Pool]:
    """Closes `pool` at the end. A signal within stops and saves its runs; a second one waits for nothing.

    Args:
        how: how to go on, said when a signal came.

    Raises:
        StoppedError: by a signal, once the workers have ended.
    """
    try:
        with StopSignals():
            try:
                yield pool
            finally:
                pool.close()
    except StoppedNow as stop:
        raise stop.error(how) from None
