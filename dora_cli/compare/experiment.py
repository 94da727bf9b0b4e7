"""The experiment file: what is compared, on which tasks, how settings are chosen, and what shall be shown.

It is read as strictly as a recipe: every problem is said at once, with its line, and what a method's entry says of a
recipe is checked against the recipes themselves when the plan is made (`dora_cli.compare.variants`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from dora_cli.encodings import find_misfit
from dora_cli.errors import ExperimentError
from dora_cli.files import TooLargeError, read_bytes
from dora_cli.recipe.document import Path, read_document
from dora_cli.recipe.fields import CountOrZero, Positive, Section, Seed, Share, Text
from dora_cli.recipe.hints import nearest
from dora_cli.recipe.methods import METHODS
from dora_cli.recipe.problems import Origins, dotted, explain, show

MAX_BYTES = 1 << 18
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,39}")
"""What an entry may be called: it names folders."""
_GRID = "{from: 1.0e-4, to: 1.0e-2, points: 8}"
OPTIONS = ("held_out", "seeds", "keep", "extend")
"""Keys of the section ``tune`` beside the tuned one."""
FIRST_TUNING_SEED = 1_000_001
"""Seeds of the tuning runs count from here: those of the measured ones are fresh, however many there will be."""


def _to_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class Grid(Section):
    """The values that are tried first, by equal factors.

    Attributes:
        low: the lowest, ``from`` in the file.
        high: the highest, ``to`` in the file.
        points: how many, both ends included.
    """

    low: Positive = Field(alias="from")
    high: Positive = Field(alias="to")
    points: Annotated[int, Field(ge=3, le=100)]


class Tuning(Section):
    """How one key is chosen, for each method on each task, on a part of the training split.

    Attributes:
        key: the recipe's key that is tuned.
        grid: where it is looked for.
        held_out: share of the training split that is kept from training and scored.
        seeds: runs of a value at the most.
        keep: ``halving``: the better half of the values gets another seed, and the best one's neighbours; or ``all``.
        extend: values by which a grid may grow beyond its ends, where the best one lies there.
    """

    key: Text
    grid: Grid
    held_out: Share = 0.1
    seeds: Annotated[int, Field(ge=1, le=100)] = 2
    keep: Literal["halving", "all"] = "halving"
    extend: Annotated[CountOrZero, Field(le=50)] = 4

    @property
    def seed_list(self) -> list[int]:
        """The seeds of its runs."""
        return [FIRST_TUNING_SEED + index for index in range(self.seeds)]


def _seeds(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return tuple(range(1, value + 1)) if 0 < value <= 1000 else value
    return _to_tuple(value)


class Experiment(Section):
    """What an experiment file says.

    Attributes:
        tasks: recipes, by path or by the name of one that comes with dora.
        set: keys of all recipes and their values.
        methods: by name, the keys in which its recipes differ; a list for a key that takes one value sweeps it.
        match: whether what is compared stores equally many parameters, or ``none``.
        tune: how a key is chosen; None tunes nothing.
        seeds: of the measured runs: how many, from 1 on, or which.
        baseline: the entry that the others are compared with.
        margin: below which a difference does not count, in the metric's units; ``pilot``: the spread of one run over
            seeds, from the tuning; ``none``.
    """

    tasks: Annotated[tuple[Text, ...], BeforeValidator(_to_tuple), Field(min_length=1, max_length=100)]
    set: dict[Text, Any] = Field(default_factory=dict)
    methods: Annotated[dict[Text, dict[Text, Any]], Field(min_length=2, max_length=50)]
    match: Literal["stored-parameters", "none"] = "stored-parameters"
    tune: Tuning | None = None
    seeds: Annotated[tuple[Seed, ...], BeforeValidator(_seeds), Field(min_length=1, max_length=1000)] = Field(
        default=tuple(range(1, 11)), validate_default=True
    )
    baseline: Text
    margin: Literal["pilot", "none"] | Positive = "pilot"


def load_experiment(path: FilePath) -> Experiment:
    """Reads the experiment in a file.

    Raises:
        ExperimentError: with every problem, each with file, line and key.
    """
    text = _read_text(path)
    document = read_document(text)
    name, tree = str(path), document.value
    if document.problems:
        raise ExperimentError(
            [
                f"{name}:{problem.line or 1}: {dotted(problem.path) + ': ' if problem.path else ''}{problem.message}"
                for problem in document.problems
            ]
        )
    if not isinstance(tree, dict):
        raise ExperimentError(
            f"{name}: an experiment is a mapping with the keys tasks, methods and baseline, got {show(tree)}"
        )
    origins = Origins(name, document.lines)
    found: list[tuple[Path, str]] = []
    plain = dict(tree)
    if isinstance(tree.get("tune"), dict):
        plain["tune"], problems = _tuning(tree["tune"])
        found += problems
    try:
        experiment = Experiment.model_validate(plain)
    except ValidationError as error:
        known = {path for path, _ in found}
        found += [
            (path, message)
            for path, message in (_explained(detail, plain) for detail in error.errors(include_url=False))
            if path not in known
        ]
    else:
        found += _broken(experiment)
    if found:
        ordered = sorted(found, key=lambda item: origins.order(item[0]))
        raise ExperimentError(
            [f"{origins.where(path)}: {dotted(path) + ': ' if path else ''}{message}" for path, message in ordered]
        )
    return experiment


def _tuning(tree: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[Path, str]]]:
    """The section ``tune`` with its one tuned key under ``key`` and ``grid``."""
    keys = [key for key in tree if key not in OPTIONS]
    options = {key: tree[key] for key in OPTIONS if key in tree}
    grids = [key for key in keys if isinstance(tree[key], dict)]
    problems: list[tuple[Path, str]] = []
    for key in keys:
        if key in grids:
            continue
        hint = nearest(str(key), OPTIONS)
        what = f"unknown key; did you mean {hint}?" if hint else f"must be a grid, such as {_GRID}"
        problems.append((("tune", str(key)), f"{what} (got {show(tree[key])})"))
    if len(grids) != 1:
        said = "names no key to tune" if not grids else f"tunes {', '.join(map(str, grids))}"
        problems.append((("tune",), f"{said}; give one key of the recipe its grid: train.learning_rate: {_GRID}"))
        return {**options, "key": "?", "grid": {"from": 1.0, "to": 2.0, "points": 3}}, problems
    return {**options, "key": str(grids[0]), "grid": tree[grids[0]]}, problems


def _explained(detail: Any, tree: Mapping[str, Any]) -> tuple[Path, str]:
    """Where and what a pydantic error is, in the words of the file."""
    path: Path = detail["loc"]
    path = path[:-1] if path[-1:] == ("[key]",) else path
    if path[:2] == ("tune", "grid"):
        path = ("tune", str(tree["tune"]["key"]), *path[2:])
    if path[:1] == ("margin",):
        return ("margin",), f"must be pilot, none or a number above 0, got {show(tree['margin'])}"
    kind = detail["type"]
    if kind == "missing":
        return path, "missing, and it has no default"
    if kind == "extra_forbidden":
        known = ("from", "to", "points") if len(path) == 3 else tuple(Experiment.model_fields)
        hint = nearest(str(path[-1]), known)
        return (
            path,
            f"unknown key; did you mean {hint}?" if hint else f"unknown key; the keys here are {', '.join(known)}",
        )
    if kind in ("greater_than_equal", "less_than_equal"):
        message = detail["msg"].removeprefix("Input should be ")
        return path, f"must be {message}, got {show(detail['input'])}"
    if kind in ("too_short", "too_long") and path[:1] == ("methods",):
        return path, f"names {len(tree['methods'])}; a comparison takes from 2 to 50, one of them the baseline"
    if kind in ("too_short", "too_long"):
        return path, f"is a list of {len(detail['input'])}; give from 1 to 100"
    if path[:1] == ("seeds",) and kind in ("tuple_type", "int_type", "bound"):
        given = tree["seeds"]
        return ("seeds",), f"must be how many (1 to 1000), or a list of whole numbers, got {show(given)}"
    return path, explain(detail, tree)


def _broken(experiment: Experiment) -> list[tuple[Path, str]]:
    """What does not go together."""
    found: list[tuple[Path, str]] = []
    if experiment.baseline not in experiment.methods:
        hint = nearest(experiment.baseline, experiment.methods)
        names = ", ".join(experiment.methods)
        found.append(
            (
                ("baseline",),
                f"must be one of the methods ({names}), got {show(experiment.baseline)}"
                + (f"; did you mean {hint}?" if hint else ""),
            )
        )
    for name in experiment.methods:
        if not NAME.fullmatch(name):
            found.append(
                (
                    ("methods", name),
                    "is no name for a folder; use up to 40 letters, digits and _ . + -, a letter or digit first",
                )
            )
    if len(set(experiment.tasks)) < len(experiment.tasks):
        found.append((("tasks",), "names a recipe twice; each counts once"))
    if len(set(experiment.seeds)) < len(experiment.seeds):
        found.append((("seeds",), "names a seed twice; each is one run"))
    if experiment.tune is not None:
        found += _of_tuning(experiment.tune, experiment)
    elif experiment.margin == "pilot" and "margin" in experiment.model_fields_set:
        found.append(
            (("margin",), "is taken from the runs of the tuning, of which there are none; give a number, or tune")
        )
    for name, entry in experiment.methods.items():
        found += _of_entry(name, entry, experiment)
    return found


def _of_tuning(tune: Tuning, experiment: Experiment) -> list[tuple[Path, str]]:
    found: list[tuple[Path, str]] = []
    low, high = tune.grid.low, tune.grid.high
    if low >= high:
        found.append((("tune", tune.key), f"goes from {low:g} to {high:g}; the second must be larger"))
    if set(tune.seed_list) & set(experiment.seeds):
        said = f"holds seeds of the tuning ({FIRST_TUNING_SEED} and on), which chose the settings; take others"
        found.append((("seeds",), said))
    places: list[Path] = [
        ("methods", name, tune.key) for name, entry in experiment.methods.items() if tune.key in entry
    ]
    places += [("set", tune.key)] if tune.key in experiment.set else []
    return [*found, *((place, "is tuned; leave it out here, or take it out of tune") for place in places)]


def _of_entry(name: str, entry: Mapping[str, Any], experiment: Experiment) -> list[tuple[Path, str]]:
    method, source = entry.get("method.name"), entry.get("ranks_from")
    if method not in list(METHODS):
        hint = nearest(method, METHODS) if isinstance(method, str) else None
        said = f"must be one of {', '.join(METHODS)}, got {show(method)}" + (f"; did you mean {hint}?" if hint else "")
        return [(("methods", name, "method.name"), said)]
    if source is None:
        return []
    path: Path = ("methods", name, "ranks_from")
    if not (isinstance(source, dict) and list(source) == ["method"] and isinstance(source["method"], str)):
        return [(path, f"must be {{method: NAME}} of another entry, got {show(source)}")]
    other = source["method"]
    if other == name or other not in experiment.methods:
        return [(path, f"must name another entry of methods, got {show(other)}")]
    if "ranks_from" in experiment.methods[other]:
        return [(path, f"{other} takes its ranks from another entry itself; name that one")]
    if name == experiment.baseline:
        return [(path, "the baseline waits for nobody; compare with an entry whose ranks are its own")]
    return []


def _read_text(path: FilePath) -> str:
    name = str(path)
    try:
        content = read_bytes(path, MAX_BYTES)
    except FileNotFoundError:
        raise ExperimentError(f"{name}: there is no such experiment file; check the path") from None
    except IsADirectoryError:
        raise ExperimentError(f"{name}: is a folder, not an experiment file; give the path of a .yaml file") from None
    except TooLargeError:
        raise ExperimentError(f"{name}: is larger than {MAX_BYTES} bytes, so it is no experiment file") from None
    except OSError as error:
        raise ExperimentError(
            f"{name}: the experiment cannot be read: {error.strerror or error}; check the path and its permissions"
        ) from None
    if misfit := find_misfit(name, content.splitlines(keepends=True)):
        raise ExperimentError(f"{name}{'' if misfit.line is None else f':{misfit.line}'}: {misfit.reason}")
    return content.decode("utf-8-sig")
