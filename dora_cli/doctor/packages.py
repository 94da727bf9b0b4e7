"""What is installed, against what dora asks for."""

from __future__ import annotations

import contextlib
import io
import shlex
import sys
import warnings
from collections.abc import Iterator
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from dora_cli.libraries import import_problem

_DISTRIBUTION = "dora-cli"
_ROOT = Path(__file__).parents[2]
_MODULES = {"pyyaml": "yaml", "scikit-learn": "sklearn"}
"""Modules that are not called like their distribution."""
_SLOW = {"evaluate"}
"""Written in Python alone, and takes longer to import than all others together (the pipelines of transformers,
statistics): what it needs is looked up instead."""


def look_at_packages() -> list[dict[str, Any]]:
    """``name, version, wanted, problem`` of every package that dora needs, and of a broken torchvision; imported,
    unless slow, as a broken one shows only then.
    """
    base, _ = _requirements()
    return [_look_at(requirement) for requirement in base] + _broken_torchvision()


def _broken_torchvision() -> list[dict[str, Any]]:
    """Not needed, but transformers loads it with every model where it is installed: one entry if that fails."""
    problem = _import("torchvision")
    if problem is None:
        return []
    return [{"name": "torchvision", "version": _version("torchvision"), "wanted": "", "problem": problem}]


def _look_at(requirement: str) -> dict[str, Any]:
    name, wanted = _split(requirement)
    version = _version(name)
    problem = _shortfall(requirement)
    if problem is None and name in _SLOW:
        problem = _missing_below(name)
    elif problem is None:
        problem = _import(_MODULES.get(name.lower(), name.replace("-", "_")))
    return {"name": name, "version": version, "wanted": wanted, "problem": problem}


def look_at_extras() -> list[dict[str, Any]]:
    """``name, missing, install`` of every extra: which of its packages are absent or too old, and the command that
    brings them.
    """
    _, extras = _requirements()
    return [
        {
            "name": extra,
            "missing": [_split(requirement)[0] for requirement in requirements if _shortfall(requirement) is not None],
            "install": install_command(extra),
        }
        for extra, requirements in extras.items()
    ]


def install_command(extra: str) -> str:
    """What installs `extra`, from the checkout that is used or from the package index."""
    if not _checkout():
        return f"pip install '{_DISTRIBUTION}[{extra}]'"
    place = "." if Path.cwd() == _ROOT else str(_ROOT)
    return f"pip install -e {shlex.quote(f'{place}[{extra}]')}"


def _checkout() -> bool:
    return (_ROOT / "pyproject.toml").is_file() and (_ROOT / "dora_cli").is_dir()


@lru_cache(maxsize=1)
def _requirements() -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """What dora needs, and what each extra adds.

    A checkout's own file is read where it can be: an installation's notes may be older.
    """
    if _checkout() and sys.version_info >= (3, 11):
        import tomllib

        project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return tuple(project["dependencies"]), {
            name: tuple(more) for name, more in project["optional-dependencies"].items()
        }
    try:
        installed = metadata.metadata(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return (), {}
    base: list[str] = []
    extras: dict[str, tuple[str, ...]] = dict.fromkeys(installed.get_all("Provides-Extra") or [], ())
    for entry in installed.get_all("Requires-Dist") or []:
        requirement, _, marker = (part.strip() for part in entry.partition(";"))
        extra = marker.partition("extra ==")[2].strip(" '\")")
        if extra in extras:
            extras[extra] += (requirement,)
        elif not marker:
            base.append(requirement)
    return tuple(base), extras


def _split(requirement: str) -> tuple[str, str]:
    """Name and versions of a requirement such as ``torch>=2.6``."""
    end = next((index for index, character in enumerate(requirement) if character in "<>=!~[ "), len(requirement))
    return requirement[:end], requirement[end:].strip()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _shortfall(requirement: str) -> str | None:
    """Why what is installed does not meet a requirement; None if it does."""
    name, wanted = _split(requirement)
    version = _version(name)
    if version is None:
        return f"is not installed; pip install {shlex.quote(requirement)}"
    try:
        from packaging.requirements import Requirement
    except ImportError:  # comes with what we need; that it is not there will be seen
        return None
    if not Requirement(requirement).specifier.contains(version, prereleases=True):
        return f"is version {version}, but {wanted} is needed; pip install {shlex.quote(requirement)}"
    return None


def _missing_below(name: str) -> str | None:
    """What an installed package needs and does not have; None if nothing."""
    from packaging.requirements import Requirement

    for text in metadata.requires(name) or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        if problem := _shortfall(f"{requirement.name}{requirement.specifier}"):
            return f"needs {requirement.name}, which {problem}"
    return None


def _import(module: str) -> str | None:
    """Why `module` cannot be imported; None if it can."""
    with _hushed():
        return import_problem(module)


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Without what packages print and warn of while they are loaded."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
