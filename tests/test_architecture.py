"""The house keeps its plan: imports point one way, methods know tensors alone, and ``dora --help`` loads nothing heavy.

Imports are read from the syntax tree of every module, those inside functions included: a late import is an arrow all
the same. Imports under ``if TYPE_CHECKING:`` are left out: they name types in annotations, do not exist when the
program runs, and tie nothing together.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dora_cli"

TIERS = (
    {"commands"},
    {"training", "evaluation", "export", "reports"},
    {"methods", "tasks", "data", "models"},
    {"recipe", "encodings", "errors", "files", "hub", "wording", "printable", "collector", "libraries"},
)
"""From the street door down; a room may use its own tier and those below."""

ENTRANCES = {"dora_cli": len(TIERS) - 1, "dora_cli.__main__": 0}
"""Modules outside the rooms: the package itself (a version and names that load on first use) may be read by all,
``__main__`` by none.
"""

FORBIDDEN = {
    "methods": {"recipe", "tasks", "data", "models"},  # how weights adapt is the same whatever is trained, and on what
    "reports": {"models", "methods", "tasks", "data", "recipe"},  # reads records, never sees a model
}
"""Rooms that may not use what their tier could."""

PURE = {
    "__future__", "abc", "bisect", "collections", "contextlib", "copy", "dataclasses", "enum", "fractions", "functools",
    "itertools",
    "math", "operator", "typing",
}  # fmt: skip
"""Standard modules that read no file, print nothing and start nothing."""

HEAVY = {
    "accelerate", "datasets", "evaluate", "huggingface_hub", "matplotlib", "numpy", "pandas", "pyarrow", "safetensors",
    "scipy", "sklearn",
    "tokenizers", "torch", "transformers", "yaml",
}  # fmt: skip
"""All that we depend on but typer, rich (typer's) and pydantic, which newer versions of typer load to read
arguments.
"""

LIGHT = {"dora_cli.collector", "dora_cli.errors", "dora_cli.libraries", "dora_cli.printable"}
"""What commands may load before they run, beside each other."""

DOORS = {
    "dora_cli.printable": {"print"},
    "dora_cli.reports.console": {"Console"},
    "dora_cli.training.capture_probe": {"print"},
}
"""Modules that print, and by what; the last one answers the process that started it, through a pipe."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(source: str, module: str, *, package: bool = False) -> set[str]:
    """Full names of the modules that `source` imports at run time; ``from a import b`` gives ``a.b`` where that may be
    a module.
    """
    found: set[str] = set()
    for node in _running(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = (
                module.split(".")[: None if package and node.level == 1 else -node.level + package]
                if node.level
                else []
            )
            base = ".".join([*above, *([node.module] if node.module else [])])
            found.update(f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names)
    return found


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below `node` but the bodies of ``if TYPE_CHECKING:``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield other
                yield from _running(other)
            continue
        yield child
        yield from _running(child)


def imports_of(module: str) -> set[str]:
    path = MODULES[module]
    return imports(path.read_text(encoding="utf-8"), module, package=path.name == "__init__.py")


def room(module: str) -> str:
    return module.split(".")[1]


def tier(module: str) -> int:
    if module in ENTRANCES:
        return ENTRANCES[module]
    return next(index for index, rooms in enumerate(TIERS) if room(module) in rooms)


def ours(module: str) -> bool:
    return module.split(".")[0] == "dora_cli"


def test_the_reader_of_imports_sees_what_there_is() -> None:
    source = """
from __future__ import annotations
import os.path, json as j
from dora_cli import errors, __version__
from dora_cli.recipe import Recipe
from . import layer
from ..base import Shape
if TYPE_CHECKING:
    import unseen
else:
    import other
if typing.TYPE_CHECKING:
    from unseen import too
def late():
    try:
        import torch
    except ImportError:
        from .allocator import select
"""
    assert imports(source, "dora_cli.methods.dora.method") == {
        "__future__", "os.path", "json", "dora_cli", "dora_cli.errors", "dora_cli.recipe",
        "dora_cli.methods.dora.layer",
        "dora_cli.methods.base", "other", "torch", "dora_cli.methods.dora.allocator",
    }  # fmt: skip
    inside = imports(
        "from . import layer\nfrom .. import base\nfrom .allocator import select", "dora_cli.methods.dora", package=True
    )
    assert inside == {"dora_cli.methods.dora.layer", "dora_cli.methods.base", "dora_cli.methods.dora.allocator"}


def test_every_module_is_in_a_known_room() -> None:
    rooms = set().union(*TIERS)
    assert {module for module in MODULES if module not in ENTRANCES and room(module) not in rooms} == set()
    # Otherwise the tests below would pass on nothing.
    assert {room(module) for module in MODULES if module not in ENTRANCES} >= rooms


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module: str) -> None:
    for imported in filter(ours, imports_of(module)):
        assert imported in MODULES, f"{module} imports {imported}, which is no module"
        assert tier(imported) >= tier(module), (
            f"{module} imports {imported}: commands -> training -> methods -> recipe, never back"
        )
        if module not in ENTRANCES and imported not in ENTRANCES:
            assert room(imported) not in FORBIDDEN.get(room(module), set()), f"{module} must not know {imported}"


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("dora_cli.methods")])
def test_methods_know_tensors_and_modules_alone(module: str) -> None:
    """No files, no printing: nothing but PyTorch, the one layer class of transformers that is no `nn.Linear`, and pure
    modules.
    """
    others = {imported for imported in imports_of(module) if not ours(imported)}
    # numpy has the faster generator
    allowed = {"transformers.pytorch_utils"} | ({"numpy"} if module.endswith(".dropout") else set())
    known = {"torch", *PURE} | ({"triton"} if ".triton_" in module else set())
    assert {name for name in others if name.split(".")[0] not in known} <= allowed
    names = {
        node.id
        for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8")))
        if isinstance(node, ast.Name)
    }
    assert names.isdisjoint({"print", "open", "input", "exec", "eval", "__import__"})


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("importance", {"torch"}),  # tensors in, tensors out
        ("allocator", {"torch", "dora_cli.errors"}),
        ("schedule", {"dora_cli.errors", "dora_cli.wording"}),  # integers: no tensor
    ],
)
def test_the_mathematics_stands_alone(name: str, allowed: set[str]) -> None:
    found = {
        imported if ours(imported) else imported.split(".")[0]
        for imported in imports_of(f"dora_cli.methods.dora.{name}")
    }
    assert found - PURE <= allowed


@pytest.mark.parametrize("module", [module for module in MODULES if tier(module) == 0 or module == "dora_cli"])
def test_commands_load_nothing_heavy_before_they_run(module: str) -> None:
    """What stands outside of functions there is loaded by ``dora --help``: typer, the standard library, errors and each
    other.
    """
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    top = ast.unparse(
        ast.Module([node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)], [])
    )
    for imported in imports(top, module, package=MODULES[module].name == "__init__.py"):
        if ours(imported):
            assert (
                imported
                in {"dora_cli", "dora_cli.collector", "dora_cli.errors", "dora_cli.libraries", "dora_cli.printable"}
                or room(imported) == "commands"
            )
        else:
            assert imported.split(".")[0] in {"typer", *sys.stdlib_module_names}


@pytest.mark.parametrize("module", MODULES)
def test_text_goes_to_the_terminal_by_two_doors_alone(module: str) -> None:
    """Where control characters are made visible; see `dora_cli.printable`."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    bases = {ast.unparse(base) for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for base in node.bases}
    ways = {
        "print",
        "Console",
        "typer.echo",
        "typer.secho",
        "click.echo",
        "rich.print",
        "traceback.print_exc",
        "Text.from_markup",
    }
    ways |= {
        f"sys.{name}.{verb}"
        for name in ("stdout", "stderr", "__stdout__", "__stderr__")
        for verb in ("write", "writelines")
    }
    assert (called | bases) & ways <= DOORS.get(module, set()), (
        "use dora_cli.printable.say or dora_cli.reports.console.make_console"
    )


def test_help_loads_nothing_heavy() -> None:
    """Counted, not timed: whatever the machine is doing, these take seconds."""
    code = f"""
import sys
from dora_cli.commands import app
for arguments in (["--help"], ["--version"], ["train", "--help"], ["eval", "--help"], ["ranks", "--help"]):
    app(arguments, standalone_mode=False)
loaded = set({sorted(HEAVY)!r}) & set(sys.modules)
assert not loaded, loaded
assert "typer" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage:") == 4


def test_models_are_listed_without_loading_one() -> None:
    code = """
import sys
from dora_cli.commands import app
app(["models", "--json"], standalone_mode=False)
loaded = {"torch", "transformers", "datasets"} & set(sys.modules)
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "builtin:tiny-encoder" in done.stdout


def test_what_trains_is_imported_without_the_libraries_of_metrics() -> None:
    """A run loads them once its first step is done."""
    code = """
import sys
from dora_cli.training.run import train
loaded = {"datasets", "evaluate", "pandas", "scipy.stats", "sklearn"} & set(sys.modules)
assert not loaded, loaded
assert "torch" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
