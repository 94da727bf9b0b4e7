"""A broken library is one message that says which, and what to do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from dora_cli.errors import LibraryError, RecipeError
from dora_cli.libraries import broken_companion, brought, import_problem, loading
from dora_cli.tasks import get_task, task_names
from tests.commands.conftest import ROOT, environment
from tests.patience import PATIENCE

BUILT_FOR_ANOTHER = "operator torchvision::nms does not exist"


def install(folder: Path, name: str, said: str) -> None:
    """A package that fails when it is imported, as one does that was built for another version of its neighbour."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(f"raise RuntimeError({said!r})\n")
    notes = folder / f"{name}-0.1.dist-info"
    notes.mkdir()
    (notes / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")


def test_what_fails_while_it_is_loaded_is_named_with_its_reason() -> None:
    said = (
        "what scores cannot be loaded (ValueError: numpy.dtype size changed); dora doctor says which package is "
        "broken: install it again"
    )
    with pytest.raises(LibraryError, match=f"^{re.escape(said)}$"), loading("what scores"):
        raise ValueError("numpy.dtype size changed\nand more")


def test_an_error_of_the_users_passes_as_it_is() -> None:
    with pytest.raises(RecipeError, match=r"^a key$"), loading("what scores"):
        raise RecipeError("a key")


def test_a_torchvision_for_another_torch_is_named_with_both_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    install(tmp_path, "torchvision", BUILT_FOR_ANOTHER)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert broken_companion() == (
        f"torchvision 0.1 does not work with torch {torch.__version__} (RuntimeError: {BUILT_FOR_ANOTHER}), and "
        "transformers loads it with every model; install the torchvision that is built for this torch, or pip "
        "uninstall torchvision, which dora does not need"
    )


def test_any_other_is_to_be_installed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "broken_package", "no libfoo\nat all")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert import_problem("broken_package") == (
        "is installed but cannot be imported (RuntimeError: no libfoo); install it again"
    )
    assert import_problem("no_such_package") is None
    assert import_problem("json") is None


@pytest.mark.parametrize(("metric", "library"), [("matthews", "sklearn"), ("pearson_spearman", "scipy")])
def test_a_metric_says_that_what_it_computes_with_is_broken(
    metric: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    task = next(task for task in map(get_task, task_names()) if getattr(task, "metric", None) == metric)
    with pytest.raises(LibraryError, match=metric):
        task.prepare()


BROUGHT = """
class Fine:
    name = "fine"

fine = Fine()
"""


def bring(folder: Path, group: str, entry: str, source: str, module: str = "guest") -> None:
    """A package of one module, with one entry point."""
    (folder / f"{module}.py").write_text(source)
    notes = folder / "dora_guest-0.1.dist-info"
    notes.mkdir()
    (notes / "METADATA").write_text("Metadata-Version: 2.1\nName: dora-guest\nVersion: 0.1\n")
    (notes / "entry_points.txt").write_text(f"[{group}]\n{entry}\n")


@pytest.mark.parametrize(
    ("entry", "source", "said"),
    [
        ("fine = guest:fine", "import nowhere_at_all", "cannot be loaded (ModuleNotFoundError: No module named"),
        ("fine = guest:gone", BROUGHT, "cannot be loaded (AttributeError: "),
        ("other = guest:fine", BROUGHT, "calls itself 'fine'"),
        ("fine = guest:Fine.__init__", BROUGHT, "is nothing that tests.guests takes"),
    ],
)
def test_what_a_package_brings_is_loaded_or_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, source: str, said: str
) -> None:
    module = f"guest_{tmp_path.name}"  # each is imported anew
    entry = entry.replace("guest", module)
    bring(tmp_path, "tests.guests", entry, source, module)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(LibraryError) as caught:
        brought("tests.guests", (), lambda thing: thing.name)
    message = str(caught.value)
    name, _, value = entry.partition(" = ")
    assert message.startswith(f"{name!r}, which the package dora-guest 0.1 brings (tests.guests: {value}), {said}")
    assert message.endswith("; install a version of it that fits, or uninstall it")
    assert brought("tests.guests", (name,), lambda thing: thing.name) == {}


def bring_broken(folder: Path, group: str) -> None:
    """A package whose module fails when it is loaded."""
    bring(folder, group, "fine = guest:fine", "raise RuntimeError('made for another version')")


def assert_names_the_guest(said: str, group: str) -> None:
    assert all(part in said for part in ("dora-guest 0.1", "'fine'", f"{group}: guest:fine"))


@pytest.mark.parametrize(("group", "command"), [("dora_cli.tasks", "tasks"), ("dora_cli.recipes", "methods")])
def test_a_broken_guest_is_one_message_of_every_room_that_has_guests(tmp_path: Path, group: str, command: str) -> None:
    """That of the methods' room takes seconds to load: `tests/test_cold_start.py`."""
    bring_broken(tmp_path, group)
    code = f"from dora_cli.__main__ import main; main([{command!r}])"
    given = environment(PYTHONPATH=f"{ROOT}:{tmp_path}")
    done = subprocess.run(
        [sys.executable, "-c", code], env=given, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert_names_the_guest(done.stderr, group)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
