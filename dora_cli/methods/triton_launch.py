"""How Triton's kernels are launched: again and again with little of the host, and compiled side by side where it is
known before which are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import triton

_VERSION = tuple(map(int, triton.__version__.split(".")[:2]))

_TAKES_CONSTANTS = torch.version.hip is None and _VERSION >= (3, 3)
"""Whether a compiled kernel is called with the arguments of the kernel itself; on AMD it is compiled by more of what
they are than sizes and alignment.
"""

_Announced = list[tuple[Any, Callable[[Any], None] | None]]

_announced: ContextVar[_Announced | None] = ContextVar("announced", default=None)
"""Kernels that are being compiled, and who keeps each then; None where launches are launches."""


class Launch:
    """One kernel on operands whose types, sizes and alignment are known, launched again and again.

    Triton's own way finds out anew, at every launch, for what the kernel has to be compiled: 30 us of the host's time,
    which bounds steps that are not captured. From the second launch on the compiled kernel itself is called, with all
    arguments, constants too. Those that change between launches are not specialised, and integers of 32 bits.

    Args:
        kernel: launched with what a call is given, then `constants`.
        grid: blocks along three axes.
        constants: those that it is compiled for.
        options: of the compiler.
    """

    def __init__(self, kernel: Any, grid: tuple[int, int, int], constants: tuple[Any, ...], **options: int) -> None:
        self.grid = grid
        self._kernel, self._constants, self._options = kernel, constants, options
        self._again: Callable[..., None] | None = None

    def __call__(self, *arguments: Any) -> None:
        if self._again is not None:
            self._again(*arguments, *self._constants)
            return
        if (announcing := _announced.get()) is not None:
            kernel = self._kernel.warmup(*arguments, *self._constants, grid=self.grid, **self._options)
            announcing.append((kernel, self._keep))
            return
        compiled = self._kernel[self.grid](*arguments, *self._constants, **self._options)
        if compiled is not None:  # the interpreter compiles nothing
            self._keep(compiled)

    def _keep(self, compiled: Any) -> None:
        if _TAKES_CONSTANTS:
            self._again = compiled[self.grid]


def launch(kernel: Any, grid: tuple[int, int, int], *arguments: Any, **constants: Any) -> None:
    """One kernel as Triton itself launches it, where the host's time does not matter: announced alike."""
    if (announcing := _announced.get()) is not None:
        announcing.append((kernel.warmup(*arguments, grid=grid, **constants), None))
    else:
        kernel[grid](*arguments, **constants)


def can_announce() -> bool:
    """Whether this Triton compiles side by side: from 3.5 on, and not where it interprets."""
    return hasattr(triton, "AsyncCompileMode") and not triton.knobs.runtime.interpret


@contextmanager
def announced(pool: Any) -> Iterator[None]:
    """What is launched for the first time within it is compiled and not run; it ends when all of that can be launched.

    That takes more than the kernel: the program that launches it, which a C compiler makes, and loading both. It holds
    for launches of the thread that calls this. What fails, fails again when it is launched in earnest, and says so
    then.

    Args:
        pool: the executor whose threads compile; the current device is theirs too.
    """
    found: _Announced = []
    with triton.AsyncCompileMode(pool, ignore_errors=True):
        token = _announced.set(found)
        try:
            yield
        finally:
            _announced.reset(token)
    compiled = [(_result(kernel), keep) for kernel, keep in found]
    ready = dict(pool.map(_load, {id(kernel): kernel for kernel, _ in compiled}.values()))
    for kernel, keep in compiled:
        if keep is not None and ready[id(kernel)]:
            keep(kernel)


def _result(kernel: Any) -> Any:
    """What was compiled; None where that failed."""
    return kernel.result(ignore_errors=True) if hasattr(kernel, "result") else kernel


def _load(kernel: Any) -> tuple[int, bool]:
    """Which kernel, and whether it can be launched."""
    try:
        kernel[1, 1, 1]
    except Exception:  # of many kinds: no C compiler, a driver that does not take it
        return id(kernel), False
    return id(kernel), True
