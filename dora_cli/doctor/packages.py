"""What is installed, against what dora asks for."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_DISTRIBUTION = "dora-cli"
_ROOT = Path(__file__).parents[2]
_TORCHVISION = "torchvision"
_MODULES = {"pyyaml": "yaml", "scikit-learn": "sklearn"}
"""Modules that are not called like their distribution."""
_LOOKED_UP = {"accelerate", "datasets", "evaluate", "transformers"}
"""Written in Python alone, and slow to import: transformers reads the list of its contents, evaluate takes longer than
all others together. Their files and the versions that they need are looked up instead, and what they need of compiled
packages, which break in other ways, is imported; they themselves only where a file is not as it was installed."""


@dataclass(frozen=True)
class Package:
    """A package as its metadata tell of it.

    Attributes:
        version: None if it is not installed.
        wanted: the versions that dora asks for.
        problem: what is wrong with it, as far as is known.
        imports: the modules that are imported to know more, and the package that each belongs to.
    """

    name: str
    version: str | None
    wanted: str
    problem: str | None
    imports: Mapping[str, str]


def needed_packages() -> list[Package]:
    """What dora cannot run without; and torchvision, which is not needed, but which transformers loads with every model
    where it is installed.
    """
    base, _ = _requirements()
    other = Package(_TORCHVISION, _version(_TORCHVISION), "", None, {_TORCHVISION: _TORCHVISION})
    return [*map(_look_at, base), other]


def _look_at(requirement: str) -> Package:
    name, wanted = _split(requirement)
    problem = _shortfall(requirement)
    imports = {_module(name): name}
    if problem is None and name in _LOOKED_UP:
        below = _needs(name)
        problem = next((f"needs {need}, which {short}" for need, short in below.items() if short), None)
        imports = {_module(need): need for need, short in below.items() if short is None and _is_compiled(need)}
    return Package(name, _version(name), wanted, problem, {} if problem else imports)


def to_import(packages: Iterable[Package]) -> list[str]:
    """The modules that must be imported to know whether `packages` work."""
    return list(dict.fromkeys(module for package in packages for module in package.imports))


def changed(packages: Iterable[Package]) -> list[str]:
    """Those that must be imported too, as their package is not as it was installed."""
    looked_up = [package.name for package in packages if package.name in _LOOKED_UP and package.problem is None]
    return [_module(name) for name in looked_up if not _is_as_installed(name)]


def judged(packages: Iterable[Package], imported: Mapping[str, str | None]) -> list[dict[str, Any]]:
    """``name, version, wanted, problem`` of every package that dora needs, and of a torchvision that is broken.

    Args:
        imported: what importing the modules of `to_import` and `changed` came to; see `doctor.imports.answers`.
    """
    rows = []
    for package in packages:
        problem = package.problem or imported.get(_module(package.name)) or _problem_below(package, imported)
        if problem or package.name != _TORCHVISION:
            row = {"name": package.name, "version": package.version, "wanted": package.wanted, "problem": problem}
            rows.append(row)
    return rows


def _problem_below(package: Package, imported: Mapping[str, str | None]) -> str | None:
    for module, name in package.imports.items():
        if problem := imported[module]:
            return f"needs {name}, which {problem}"
    return None


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


def _needs(name: str) -> dict[str, str | None]:
    """What an installed package needs, and why what is installed of it does not do; None where it does."""
    try:
        from packaging.requirements import Requirement
    except Exception:  # each of what is looked up needs it
        return {"packaging": "is not installed or broken; pip install --force-reinstall packaging"}
    found: dict[str, str | None] = {}
    for text in metadata.requires(name) or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            found[requirement.name] = _shortfall(f"{requirement.name}{requirement.specifier}")
    return found


def _is_compiled(name: str) -> bool:
    """Whether an installed package is more than code in Python, or does not say."""
    return "Root-Is-Purelib: true" not in (metadata.distribution(name).read_text("WHEEL") or "")


def _module(name: str) -> str:
    return _MODULES.get(name.lower(), name.replace("-", "_"))


def _is_as_installed(name: str) -> bool:
    """Whether every file of Python code is where the package's list of files has it and as long as it says, and is what
    an import would find; False where there is no such list.
    """
    found, spec = metadata.distribution(name), find_spec(_module(name))
    files = [file for file in found.files or () if file.suffix == ".py" and file.size is not None]
    place = str(found.locate_file(""))
    try:
        sizes = {os.path.join(place, file): os.stat(os.path.join(place, file)).st_size for file in files}
    except OSError:
        return False
    listed = {os.path.join(place, file): file.size for file in files}
    return listed == sizes and spec is not None and spec.origin in listed
