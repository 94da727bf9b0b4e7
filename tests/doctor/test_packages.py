"""What is installed against what is asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dora_cli.doctor import packages
from dora_cli.doctor.imports import answers
from dora_cli.doctor.packages import changed, install_command, judged, look_at_extras, needed_packages, to_import

ROOT = Path(__file__).parents[2]
METADATA = """\
Metadata-Version: 2.4
Name: dora-cli
Version: 0.1.0
Requires-Dist: rich>=1.0
Requires-Dist: pyyaml >=999
Requires-Dist: no-such-package>=1
Requires-Dist: pytest>=8.0; extra == "test"
Requires-Dist: nor-this-one; extra == 'plots'
Provides-Extra: test
Provides-Extra: plots
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An installed dora with these requirements, and no checkout."""
    folder = tmp_path / "dora_cli-0.1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(METADATA)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(packages, "_ROOT", tmp_path / "nowhere")
    read = packages._requirements
    read.cache_clear()
    yield tmp_path
    read.cache_clear()


def look_at_packages() -> list[dict[str, Any]]:
    """What a doctor says of packages, but one process after another."""
    found = needed_packages()
    return judged(found, answers([*to_import(found), *changed(found)]))


def install(folder: Path, name: str, code: str, needs: Sequence[str] = (), *, pure: bool = True) -> Path:
    """An installed package of one module; returns its file."""
    file = folder / f"{name}.py"
    file.write_text(code)
    notes = folder / f"{name}-1.2.dist-info"
    notes.mkdir(exist_ok=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name.replace('_', '-')}", "Version: 1.2"]
    (notes / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {need}" for need in needs)]) + "\n")
    (notes / "WHEEL").write_text(f"Wheel-Version: 1.0\nRoot-Is-Purelib: {str(pure).lower()}\n")
    (notes / "RECORD").write_text(f"{file.name},sha256=any,{file.stat().st_size}\n")
    importlib.invalidate_caches()
    return file


@pytest.mark.usefixtures("installed")
def test_what_is_absent_or_old_is_said() -> None:
    rich, yaml, absent = look_at_packages()
    assert (rich["name"], rich["wanted"], rich["problem"]) == ("rich", ">=1.0", None)
    assert rich["version"]
    assert yaml["problem"] == f"is version {yaml['version']}, but >=999 is needed; pip install 'pyyaml >=999'"
    assert absent == {
        "name": "no-such-package",
        "version": None,
        "wanted": ">=1",
        "problem": "is not installed; pip install 'no-such-package>=1'",
    }


@pytest.mark.usefixtures("installed")
def test_extras() -> None:
    assert look_at_extras() == [
        {"name": "test", "missing": [], "install": "pip install 'dora-cli[test]'"},
        {"name": "plots", "missing": ["nor-this-one"], "install": "pip install 'dora-cli[plots]'"},
    ]


def test_what_is_broken_is_found_by_importing(tmp_path: Path, installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "broken_package", "print('chatter')\nraise OSError('libfoo.so.1: cannot open\\nmore')")
    monkeypatch.setattr(packages, "_requirements", lambda: (("broken-package>=1",), {}))
    (found,) = look_at_packages()
    assert found["version"] == "1.2"
    assert "(OSError: libfoo.so.1: cannot open)" in found["problem"]
    assert "\n" not in found["problem"]


@pytest.mark.usefixtures("installed")
def test_a_broken_torchvision_is_a_finding_though_nothing_needs_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "_requirements", lambda: ((), {}))
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    (found,) = look_at_packages()
    assert found["name"] == "torchvision"
    assert "torchvision::nms" in found["problem"]
    (tmp_path / "torchvision.py").write_text("")
    assert look_at_packages() == []


@pytest.fixture
def slow(tmp_path: Path, installed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where ``slow-package``, which is needed and looked up, and what it needs can be installed."""
    monkeypatch.setattr(packages, "_LOOKED_UP", {"slow-package"})
    monkeypatch.setattr(packages, "_requirements", lambda: (("slow-package>=1",), {}))
    return tmp_path


def test_what_is_slow_to_import_is_judged_by_what_it_needs(slow: Path) -> None:
    needs = ["rich>=1.0", "no-such-package>=3", "nor-this-one; extra == 'more'", "nor-that; python_version < '3'"]
    for missing in (True, False):
        wanted = [need for need in needs if missing or "no-such" not in need]
        install(slow, "slow_package", "raise AssertionError('imported')", wanted)
        (found,) = look_at_packages()
        assert found["version"] == "1.2"
        said = "needs no-such-package, which is not installed; pip install 'no-such-package>=3'"
        assert found["problem"] == (said if missing else None)


def test_without_the_library_that_reads_versions_that_is_the_finding(
    slow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(slow, "slow_package", "raise AssertionError('imported')", ["rich>=1.0"])
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    assert "needs packaging" in look_at_packages()[0]["problem"]


def test_what_it_needs_is_imported_where_it_is_compiled(slow: Path) -> None:
    install(slow, "slow_package", "raise AssertionError('imported')", ["fast-package"])
    for pure in (True, False):
        install(slow, "fast_package", "raise ValueError('numpy.dtype size changed')", pure=pure)
        (found,) = look_at_packages()
        if pure:
            assert found["problem"] is None
        else:
            assert "needs fast-package" in found["problem"]
            assert "(ValueError: numpy.dtype size changed)" in found["problem"]


def test_what_is_not_as_it_was_installed_is_imported_all_the_same(slow: Path) -> None:
    file = install(slow, "slow_package", "")
    assert look_at_packages()[0]["problem"] is None
    file.write_text("import no_such_module")
    assert "ModuleNotFoundError: No module named 'no_such_module'" in look_at_packages()[0]["problem"]
    file.write_text("changed = 'but of a sound mind'")  # of another size, or kept bytecode would stand for it
    assert look_at_packages()[0]["problem"] is None
    file.unlink()  # the module is another's
    (slow / "slow_package").mkdir()
    (slow / "slow_package" / "__init__.py").write_text("raise OSError('not this one')")
    assert "OSError: not this one" in look_at_packages()[0]["problem"]


def test_nothing_is_known_of_what_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_ROOT", tmp_path)
    monkeypatch.setattr(packages, "_DISTRIBUTION", "no-such-package")
    packages._requirements.cache_clear()
    assert packages._requirements() == ((), {})
    packages._requirements.cache_clear()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="reads pyproject.toml where Python can")
def test_of_a_checkout_its_own_file_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    base, extras = packages._requirements()
    assert "torch>=2.6" in base
    assert {"test", "e2e"} <= set(extras)
    monkeypatch.chdir(ROOT)
    assert install_command("e2e") == "pip install -e '.[e2e]'"
    monkeypatch.chdir("/")
    assert install_command("e2e").endswith(f"{ROOT}[e2e]'")
