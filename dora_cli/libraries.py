"""Libraries that come late, and libraries that others would load and this program does without."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from dora_cli.collector import no_collection
from dora_cli.errors import DoraError, LibraryError

LEFT_OUT = ("torchvision", "scipy", "sklearn")
"""Transformers loads them, depending on its version, with every model where they are installed. A torchvision built for
another PyTorch, a frequent mishap, fails by that; scipy and scikit-learn, for object detection and assisted generation,
take a second, and a metric that needs them brings them back."""


def sleep_while_waiting() -> None:
    """Lets threads that share a computation sleep while they wait for each other, unless the environment says
    otherwise.

    By default they spin, and beside another busy process a step waits for a thread that waits for its turn on a core.
    OpenMP, GNU's and LLVM's alike, reads this once, when PyTorch is loaded: for programs only, before that.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def leave_out() -> None:
    """Makes the libraries of `LEFT_OUT` absent for this process; for programs only: in a user's own process they are
    the user's.

    Transformers looks for each once: where it is loaded already, nothing is changed.
    """
    if "transformers" not in sys.modules:
        for name in LEFT_OUT:
            sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # by the import system's rules: not to be found


def bring_back(*names: str) -> None:
    """Undoes `leave_out` for these, or for all: for what needs them, and for code that is not ours and may need them.

    They can be imported again; where transformers has looked for one already, it goes on without.
    """
    for name in names or LEFT_OUT:
        if name in sys.modules and sys.modules[name] is None:
            del sys.modules[name]


def is_panic(error: BaseException) -> bool:
    """Whether a library written in Rust met what it held to be impossible: its class is no `Exception`, and cannot be
    imported.
    """
    return type(error).__name__ == "PanicException"


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Around imports that are made when they are first needed, and a first use that shows whether they work.

    Raises:
        LibraryError: an installation is broken, whatever it raised; `what` begins the message.
    """
    try:
        with no_collection():
            yield
    except DoraError:
        raise
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")
        raise LibraryError(
            f"{what} cannot be loaded ({type(error).__name__}: {reason[:200]}); dora doctor says which package is "
            "broken: install it again"
        ) from error
