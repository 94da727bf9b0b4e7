"""What is installed against what is asked for."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from dora_cli.doctor import packages
from dora_cli.doctor.packages import install_command, look_at_extras, look_at_packages

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
    broken = tmp_path / "broken_package"
    broken.mkdir()
    (broken / "__init__.py").write_text("print('chatter')\nraise OSError('libfoo.so.1: cannot open\\nmore')")
    dist = tmp_path / "broken_package-1.2.dist-info"
    dist.mkdir()
    (dist / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-package\nVersion: 1.2\n")
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
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    (found,) = look_at_packages()
    assert found["name"] == "torchvision"
    assert "torchvision::nms" in found["problem"]
    (tmp_path / "torchvision.py").write_text("")
    importlib.invalidate_caches()
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    assert look_at_packages() == []


def test_what_is_slow_to_import_is_judged_by_what_it_needs(
    tmp_path: Path, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_package.py").write_text("raise AssertionError('imported')")
    needs = ["rich>=1.0", "no-such-package>=3", "nor-this-one; extra == 'more'", "nor-that; python_version < '3'"]
    dist = tmp_path / "slow_package-1.2.dist-info"
    dist.mkdir()
    monkeypatch.setattr(packages, "_SLOW", {"slow-package"})
    monkeypatch.setattr(packages, "_requirements", lambda: (("slow-package>=1",), {}))
    for missing in (True, False):
        text = "".join(f"Requires-Dist: {need}\n" for need in needs if missing or "no-such" not in need)
        (dist / "METADATA").write_text(f"Metadata-Version: 2.1\nName: slow-package\nVersion: 1.2\n{text}")
        (found,) = look_at_packages()
        assert found["version"] == "1.2"
        wanted = "needs no-such-package, which is not installed; pip install 'no-such-package>=3'"
        assert found["problem"] == (wanted if missing else None)


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
