"""Libraries that are imported late: how they are started, and what is said of one that is broken."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

from dora_cli.errors import DoraError, LibraryError

COMPANIONS = {"torchvision": "torchvision", "scipy": "scipy", "sklearn": "scikit-learn"}
"""Modules that transformers imports with a model wherever they are installed, and their distributions."""


def sleep_while_waiting() -> None:
    """Lets threads that share a computation sleep while they wait for each other, unless the environment says
    otherwise.

    By default they spin, and beside another busy process a step waits for a thread that waits for its turn on a core.
    OpenMP, GNU's and LLVM's alike, reads this once, when PyTorch is loaded: for programs only, before that.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def brought(group: str, ours: Collection[str], name_of: Callable[[Any], object]) -> dict[str, Any]:
    """What installed packages bring by the entry points of `group`, by name; `ours` are names that are taken.

    Args:
        name_of: the name that such an object gives itself; raises an error, or gives None, where it is no such object.

    Raises:
        LibraryError: one cannot be loaded, or is called otherwise than its entry point.
    """
    found = {}
    for entry in metadata.entry_points(group=group):
        if entry.name in ours:
            continue
        what = f"{entry.name!r}, which the package {_package(entry)} brings ({group}: {entry.value}),"
        fix = "install a version of it that fits, or uninstall it"
        try:
            thing = entry.load()
        except Exception as error:  # whatever a stranger's module does when it is imported
            raise LibraryError(f"{what} cannot be loaded ({_reason(error)}); {fix}") from error
        try:
            name = name_of(thing)
        except (AttributeError, KeyError, TypeError):
            name = None
        if name is None:
            raise LibraryError(f"{what} is nothing that {group} takes; {fix}")
        if name != entry.name:
            raise LibraryError(f"{what} calls itself {name!r}; {fix}")
        found[entry.name] = thing
    return found


def _package(entry: metadata.EntryPoint) -> str:
    return "of an unknown name" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"


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
        yield
    except DoraError:
        raise
    except Exception as error:
        raise LibraryError(
            f"{what} cannot be loaded ({_reason(error)}); dora doctor says which package is broken: install it again"
        ) from error


def broken_companion() -> str | None:
    """What is wrong with the first of `COMPANIONS` that is installed and cannot be imported, and the fix; None if
    nothing is.

    Transformers says of it only that one of its own modules cannot be imported.
    """
    for module, distribution in COMPANIONS.items():
        if problem := import_problem(module):
            return f"{distribution}{_version(distribution)} {problem}"
    return None


def import_problem(module: str) -> str | None:
    """Why `module` cannot be imported, and the fix; None if it can, or is not installed."""
    try:
        if find_spec(module) is not None:
            import_module(module)
    except Exception as error:  # whatever a broken installation raises
        if module == "torchvision":
            return (
                f"does not work with torch{_version('torch')} ({_reason(error)}), and transformers loads it with every "
                "model; install the torchvision that is built for this torch, or pip uninstall torchvision, which dora "
                "does not need"
            )
        return f"is installed but cannot be imported ({_reason(error)}); install it again"
    return None


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:200]}"


def _version(distribution: str) -> str:
    try:
        return f" {metadata.version(distribution)}"
    except metadata.PackageNotFoundError:
        return ""
