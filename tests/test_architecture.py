"""The house keeps its plan: imports point down, methods know tensors alone, commands load late.

Imports are read from the syntax tree of every module, those inside functions included: a late import is an arrow all
the same. Imports under ``if TYPE_CHECKING:`` are left out: they name types in annotations, do not exist when the
program runs, and tie nothing together.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dora_cli"

ORDER = (
    "commands", "compare", "library", "export", "doctor", "reports", "training", "assembly", "evaluation", "tasks",
    "metrics", "data", "models", "methods", "runs", "machine", "recipe",
)  # fmt: skip
"""The rooms from the street door down: one may use those after it, and the modules outside the rooms."""

STRANGERS = {
    "methods": {"runs", "machine", "recipe"},  # how weights adapt is the same whatever is trained, and on what
    "reports": {"models", "methods"},  # reads records, never sees a model
}
"""Rooms below that are no business of a room's."""

PURE = {
    "__future__", "abc", "bisect", "collections", "contextlib", "contextvars", "copy", "dataclasses", "enum",
    "fractions", "functools", "itertools",
    "math", "operator", "typing", "fnmatch", "weakref",
}  # fmt: skip
"""Standard modules that read no file, print nothing and start nothing."""


LIGHT = {"dora_cli.errors", "dora_cli.libraries", "dora_cli.printable", "dora_cli.version"}
"""What commands may load before they run, beside each other."""

DOORS = {
    "dora_cli.printable": {"print"},
    "dora_cli.reports.console": {"Console"},
    "dora_cli.training.capture.probe": {"print"},
}
"""Modules that print, and by what; the last one answers the process that started it, through a pipe."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(source: ast.AST, module: str, *, package: bool = False) -> set[str]:
    """Full names of the modules that `source` imports at run time; ``from a import b`` gives ``a.b`` where that may be
    a module.
    """
    found: set[str] = set()
    for node in _running(source):
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
    """Every statement below `node`, and what holds some, but the bodies of ``if TYPE_CHECKING:``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):  # in which there are none
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield other
                yield from _running(other)
            continue
        yield child
        yield from _running(child)


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@cache
def nodes(module: str) -> list[ast.AST]:
    """All of its syntax tree."""
    return list(ast.walk(tree(module)))


@cache
def imports_of(module: str) -> set[str]:
    return imports(tree(module), module, package=MODULES[module].name == "__init__.py")


def room(module: str) -> str | None:
    """The room of a module of ours; None where it is in none: what every room may use, and the package's two doors."""
    first = module.split(".")[1:2]
    return first[0] if first and first[0] in ORDER else None


def ours(module: str) -> bool:
    return module.split(".")[0] == "dora_cli"


def test_the_reader_of_imports_sees_what_there_is() -> None:
    source = """
from __future__ import annotations
import os.path, json as j
from dora_cli import errors, __version__
from dora_cli.recipe import Recipe
from . import regulariser
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
    assert imports(ast.parse(source), "dora_cli.methods.dora.method") == {
        "__future__", "os.path", "json", "dora_cli", "dora_cli.errors", "dora_cli.recipe",
        "dora_cli.methods.dora.regulariser",
        "dora_cli.methods.base", "other", "torch", "dora_cli.methods.dora.allocator",
    }  # fmt: skip
    source = "from . import regulariser\nfrom .. import base\nfrom .allocator import select"
    inside = imports(ast.parse(source), "dora_cli.methods.dora", package=True)
    assert inside == {"dora_cli.methods.dora.regulariser", "dora_cli.methods.base", "dora_cli.methods.dora.allocator"}


def test_every_folder_is_a_room() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(ORDER)


def arrows() -> dict[tuple[str, str], str]:
    """Every pair of modules of ours of which the first imports the second."""
    return {
        (module, imported): f"{module} imports {imported}"
        for module in MODULES
        for imported in imports_of(module) & set(MODULES)
    }


def test_imports_point_down() -> None:
    """So that no two rooms import each other, and no step of the data's way goes back."""
    place = {name: number for number, name in enumerate(ORDER)}
    wrong = []
    for (module, imported), arrow in arrows().items():
        above, below = room(module), room(imported)
        if above == below or below is None:
            continue
        if above is None:
            if module != "dora_cli.__main__":
                wrong.append(f"{arrow}, which is a room")
        elif place[below] < place[above]:
            wrong.append(f"{arrow}, which is above it")
        elif below in STRANGERS.get(above, ()):
            wrong.append(f"{arrow}, which is none of its business")
    # The package's own door opens on the rooms: inside, a version or a module is taken from where it stands.
    wrong += [f"{module} imports from the package itself" for module in MODULES if "dora_cli" in imports_of(module)]
    assert wrong == []
    # Otherwise the test would pass on nothing.
    assert {room(module) for module, _ in arrows()} >= set(ORDER)


def asks_for_a_kind_of_task(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "type"):
        return ast.unparse(node.args[0]).endswith("task")
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        asked = {ast.unparse(side).rpartition(".")[2] for side in sides if "task." in ast.unparse(side)}
        return "kind" in asked or ("name" in asked and any(isinstance(side, ast.Constant) for side in sides))
    return False


def test_nobody_asks_what_kind_of_task_it_is() -> None:
    """Otherwise a new kind would have to touch every room: what differs between tasks is the task's to say."""
    others = [module for module in MODULES if room(module) != "tasks"]
    kinds = [(module, name) for module in others for name in imports_of(module) if name.startswith("dora_cli.tasks.")]
    assert kinds == [], "kinds and single tasks"
    asking = [
        (module, ast.unparse(node)) for module in others for node in nodes(module) if asks_for_a_kind_of_task(node)
    ]
    assert asking == []


@pytest.mark.parametrize(
    ("source", "asks"),
    [
        ("isinstance(recipe.task, Label)", True),
        ("type(task) is Label", True),
        ("task.kind == other", True),
        ("task.name == 'glue/rte'", True),
        ("task.name == recipe.task", False),
        ("isinstance(tasks, list)", False),
    ],
)
def test_who_asks_is_seen(source: str, asks: bool) -> None:
    assert any(map(asks_for_a_kind_of_task, ast.walk(ast.parse(source)))) is asks


def test_what_is_imported_is_there() -> None:
    unknown = {name for module in MODULES for name in imports_of(module) if ours(name) and name not in MODULES}
    assert unknown == set()


def test_methods_know_tensors_and_modules_alone() -> None:
    """No files, no printing: nothing but PyTorch, the one layer class of transformers that is no `nn.Linear`, and pure
    modules.
    """
    modules = [module for module in MODULES if module.startswith("dora_cli.methods")]
    assert len(modules) > 10
    for module in modules:
        others = {imported for imported in imports_of(module) if not ours(imported)}
        # numpy has the faster generator
        allowed = {"transformers.pytorch_utils"} | ({"numpy"} if module.endswith(".dropout") else set())
        allowed |= {"importlib.metadata"} if module == "dora_cli.methods" else set()  # other packages' methods
        known = {"torch", *PURE} | ({"triton"} if ".triton_" in module else set())
        assert {name for name in others if name.split(".")[0] not in known} <= allowed, module
        names = {node.id for node in nodes(module) if isinstance(node, ast.Name)}
        assert names.isdisjoint({"print", "open", "input", "exec", "eval", "__import__"}), module


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("dora.importance", {"torch"}),  # tensors in, tensors out
        ("low_rank.allocation.budget", {"torch"}),
        ("low_rank.layout", {"torch"}),
        ("low_rank.allocation.scores", {"torch", "dora_cli.methods.low_rank.layout"}),
        ("low_rank.schedule", {"dora_cli.errors", "dora_cli.wording"}),  # integers: no tensor
        ("dora.schedule", {"dora_cli.methods.low_rank.schedule"}),
    ],
)
def test_the_mathematics_stands_alone(name: str, allowed: set[str]) -> None:
    found = {
        imported if ours(imported) else imported.split(".")[0] for imported in imports_of(f"dora_cli.methods.{name}")
    }
    assert found - PURE <= allowed


STATISTICS = "dora_cli.compare.statistics"


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith(STATISTICS)])
def test_the_statistics_of_a_comparison_know_numbers_alone(module: str) -> None:
    """Arrays in, numbers and a word out: no runs, no recipes, no files."""
    found = {imported if ours(imported) else imported.split(".")[0] for imported in imports_of(module)}
    assert {name for name in found if not name.startswith(STATISTICS)} <= {"numpy", "scipy", *PURE}
    names = {
        node.id
        for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8")))
        if isinstance(node, ast.Name)
    }
    assert names.isdisjoint({"print", "open", "input", "exec", "eval", "__import__"})


@pytest.mark.parametrize(
    "module",
    [module for module in MODULES if room(module) == "commands" or module in ("dora_cli", "dora_cli.__main__")],
)
def test_commands_load_nothing_heavy_before_they_run(module: str) -> None:
    """What stands outside of functions there is loaded by ``dora --help``: typer, the standard library, errors and each
    other.
    """
    top = ast.Module([node for node in tree(module).body if not isinstance(node, ast.FunctionDef | ast.ClassDef)], [])
    for imported in imports(top, module, package=MODULES[module].name == "__init__.py"):
        if ours(imported):
            assert imported in {"dora_cli", *LIGHT} or room(imported) == "commands"
        else:
            assert imported.split(".")[0] in {"typer", *sys.stdlib_module_names}


def test_text_goes_to_the_terminal_by_two_doors_alone() -> None:
    """Where control characters are made visible; see `dora_cli.printable`."""
    ways = {"print", "Console", "typer.echo", "typer.secho", "click.echo", "rich.print", "traceback.print_exc"}
    ways |= {"Text.from_markup"}
    ways |= {
        f"sys.{name}.{verb}"
        for name in ("stdout", "stderr", "__stdout__", "__stderr__")
        for verb in ("write", "writelines")
    }
    found = {}
    for module in MODULES:
        called = {ast.unparse(node.func) for node in nodes(module) if isinstance(node, ast.Call)}
        bases = {ast.unparse(base) for node in nodes(module) if isinstance(node, ast.ClassDef) for base in node.bases}
        if used := (called | bases) & ways:
            found[module] = used
    assert found == DOORS, "use dora_cli.printable.say or dora_cli.reports.console.make_console"
