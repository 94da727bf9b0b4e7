"""Reading a recipe: defaults, then the file, then ``--set``; every problem at once."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from dora_cli.encodings import find_misfit
from dora_cli.errors import RecipeError
from dora_cli.files import TooLargeError, read_bytes
from dora_cli.recipe.document import Path, read_document
from dora_cli.recipe.hints import nearest
from dora_cli.recipe.methods import about, method_name
from dora_cli.recipe.overrides import Override, apply_overrides, check_listed, parse_override
from dora_cli.recipe.problems import (
    Origins,
    dotted,
    error_path,
    explain,
    explain_foreign,
    foreign_keys,
    show,
)
from dora_cli.recipe.rules import broken_rules
from dora_cli.recipe.schema import Recipe, rules_with, section_keys

MAX_BYTES = 1 << 18
"""A recipe is a page of text; anything larger than this is some other file."""


def load_recipe(
    path: str | os.PathLike[str], overrides: Sequence[str] = (), *, note: Callable[[str], None] | None = None
) -> Recipe:
    """Reads the recipe in a file.

    Args:
        path: a UTF-8 YAML file.
        overrides: ``key.path=value`` texts, as given to ``--set``; later ones win over earlier ones and all over the
            file. Another ``method.name`` or ``method.preset`` replaces the whole section of the method.
        note: told what is odd about them, and about the method's section.

    Raises:
        RecipeError: with every problem of the file and the overrides, each with file (or flag), line and key.
    """
    return parse_recipe(_read_text(path), os.fspath(path), overrides, note=note)


def parse_recipe(
    text: str,
    name: str = "<recipe>",
    overrides: Sequence[str] = (),
    *,
    note: Callable[[str], None] | None = None,
) -> Recipe:
    """Reads a recipe from YAML text; `name` stands for the file in messages. Otherwise like `load_recipe`."""
    check_listed(overrides)
    parsed = [parse_override(override) for override in overrides]
    flag_problems = [item for item in parsed if isinstance(item, str)]
    document = read_document(text)
    tree = document.value
    if document.fatal:
        problem = document.problems[0]
        where = f"{name}:{problem.line}" if problem.line is not None else name
        raise RecipeError([f"{where}: {problem.message}", *flag_problems])
    if tree is None and not document.problems:
        raise RecipeError([f"{name}: the recipe is empty; it needs at least 'task' and 'model'", *flag_problems])
    if not isinstance(tree, dict):
        found = document.problems[0].message if document.problems else f"got {show(tree)}"
        raise RecipeError(
            [f"{name}: the recipe must be a mapping of keys, such as 'task: glue/rte'; {found}", *flag_problems]
        )
    if "methods" in tree and "tasks" in tree and "task" not in tree:
        raise RecipeError(
            f"{name}: is an experiment of many runs, not a recipe; make it with: dora compare {shlex.quote(name)}"
        )

    origins = Origins(name, document.lines)
    wanted = [item for item in parsed if isinstance(item, Override)]
    flag_problems += apply_overrides(tree, origins, wanted, note or (lambda message: None))
    found_problems: list[tuple[Path, str]] = []
    unsure: set[Path] = set()
    problems: list[tuple[tuple[bool, int], str]] = []
    for problem in document.problems:
        # An override that replaced the value does not fix the file: the line is wrong whoever reads it next.
        unsure.add(problem.path)
        key = f"{dotted(problem.path)}: " if problem.path else ""
        problems.append(((False, problem.line or 0), f"{name}:{problem.line}: {key}{problem.message}"))

    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        # Broken rules are said below, with the line of each key.
        details = [item for item in error.errors(include_url=False) if item["type"] != "rules"]
        unknown = [error_path(item) for item in details if item["type"] == "extra_forbidden"]
        foreign = [path for path in foreign_keys(unknown, tree) if not origins.order(path)[0] and path not in unsure]
        for detail in details:
            path = error_path(detail)
            if path in unsure or path in foreign[1:]:
                continue
            one_line = explain_foreign([str(other[-1]) for other in foreign], tree) if path in foreign else None
            found_problems.append((path, one_line or explain(detail, tree)))
        unsure.update(path for path, _ in found_problems)
        rules = rules_with(method_name(tree.get("method", {})) or "")
        for key, message in broken_rules(lambda key: _raw_value(tree, key, unsure), rules):
            found_problems.append((tuple(key.split(".")), message))

    for path, message in found_problems:
        key = f"{dotted(path)}: " if path else ""
        problems.append((origins.order(path), f"{origins.where(path)}: {key}{message}"))
    if problems or flag_problems:
        # A stable sort: by line, then in the order of the schema.
        ordered = [text for _, text in sorted(problems, key=lambda item: item[0])]
        raise RecipeError([*dict.fromkeys(ordered), *flag_problems])
    assert recipe is not None, "a recipe without problems validates"
    if note is not None:
        for oddity in about(recipe.method.name).oddities(recipe.method):
            note(oddity)
    return recipe


def _raw_value(tree: dict[str, Any], key: str, unsure: set[Path]) -> Any:
    """The value of a two-part key in an unvalidated recipe, or its default; KeyError where either has a problem
    already, and where the recipe does without the section.
    """
    section, name = key.split(".")
    if section in Recipe.model_fields and tree.get(section, Recipe.model_fields[section].default) is None:
        raise KeyError(key)
    if any(path in ((), (section,)) or path[:2] == (section, name) for path in unsure):
        raise KeyError(key)
    given = tree.get(section, {})
    model = section_keys(section, given)
    if model is None or name not in model.model_fields:
        raise KeyError(key)
    if name not in given and (section, "preset") in unsure:
        raise KeyError(key)
    given = model.filled(given)
    return given[name] if name in given else model.model_fields[name].default


def _read_text(path: str | os.PathLike[str]) -> str:
    name = os.fspath(path)
    try:
        content = read_bytes(path, MAX_BYTES)
    except FileNotFoundError:
        hint = _nearest_file(FilePath(path))
        raise RecipeError(
            f"{name}: there is no such recipe file; " + (f"did you mean {hint}?" if hint else "check the path")
        ) from None
    except IsADirectoryError:
        beside = FilePath(f"{name.rstrip(os.sep)}.yaml") if name else None  # of a task, say, and this of a method
        also = f", or {beside}, which stands beside it" if beside is not None and beside.is_file() else ""
        raise RecipeError(
            f"{name}: is a folder, not a recipe file; give the path of a .yaml file in it{also}"
        ) from None
    except TooLargeError:
        raise RecipeError(
            f"{name}: is larger than {MAX_BYTES} bytes, so it is no recipe; give the path of a .yaml file"
        ) from None
    except OSError as error:
        raise RecipeError(
            f"{name}: the recipe cannot be read: {error.strerror or error}; check the path and its permissions"
        ) from None
    if misfit := find_misfit(name, content.splitlines(keepends=True)):
        raise RecipeError(f"{name}{'' if misfit.line is None else f':{misfit.line}'}: {misfit.reason}")
    return content.decode("utf-8-sig")


def _nearest_file(path: FilePath) -> str | None:
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml")]
    except OSError:
        return None
    hint = nearest(path.name, sorted(names))
    return str(path.parent / hint) if hint is not None else None
