"""The experiment file: what is compared, on which tasks, how settings are chosen, and what shall be shown.

It is read as strictly as a recipe: every problem is said at once, with its line, and what a method's entry says of a
recipe is checked against the recipes themselves when the plan is made (`dora_cli.compare.variants`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, ValidationError

from dora_cli.encodings import find_misfit
from dora_cli.errors import ExperimentError
from dora_cli.files import TooLargeError, read_bytes
from dora_cli.recipe.document import Path, read_document
from dora_cli.recipe.fields import CountOrZero, Positive, Section, Seed, Share, Text
from dora_cli.recipe.hints import nearest
from dora_cli.recipe.methods import METHODS, about
from dora_cli.recipe.problems import Origins, dotted, explain, show
from dora_cli.recipe.schema import Recipe, section_keys
from dora_cli.wording import spelled

MAX_BYTES = 1 << 18
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,39}")
"""What an entry may be called: it names folders."""
_GRID = "{from: 1.0e-4, to: 1.0e-2, points: 8}"
OPTIONS = ("held_out", "seeds", "keep", "extend")
"""Keys of the section ``tune`` beside the tuned one."""
RANKS_FROM = "ranks_from"
"""Key of an entry that is none of a recipe: whose ranks it takes."""
SWEEP = "sweep"
"""Another one: values that go together, as a list of mappings. The first key of each is what is swept."""
OF_AN_ENTRY = (RANKS_FROM, SWEEP)
DECIDED = {
    "train.seed": "runs get their seeds from the key seeds",
    "eval.held_out": "it is set for the runs that choose settings; give its share as held_out in tune, and measure: "
    "held-out to have all runs scored on such a part",
    "eval.select": "the last weights of a run are measured, since an epoch that the dev split has chosen is no result",
}
"""Keys of a recipe that an experiment decides itself, and how."""
OF_METHODS = ("method", "train", "save", "federated")
"""Sections that may differ between entries, and be tuned; on what they are compared is the same for all."""
HELD_OUT = 0.1
"""Share of the training split that is kept from training where a part of it is scored and nothing else is said."""
LONGEST_VALUE = 40
"""Characters of a swept text: it is part of a name."""
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
    held_out: Share = HELD_OUT
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
        pool: swept keys whose values are averaged over in every comparison, as tasks are; else each value is compared
            by itself.
        match: whether what is compared stores equally many parameters, or ``none``.
        tune: how a key is chosen; None tunes nothing.
        measure: what the measured runs are scored on: the ``dev`` split, or a ``held-out`` part of the training split,
            that of `tune`: then the dev split is never read.
        seeds: of the measured runs: how many, from 1 on, or which.
        baseline: the entry that the others are compared with.
        margin: below which a difference does not count, in the metric's units; ``pilot``: the spread of one run over
            seeds, from the tuning; ``none``.
    """

    tasks: Annotated[tuple[Text, ...], BeforeValidator(_to_tuple), Field(min_length=1, max_length=100)]
    set: dict[Text, Any] = Field(default_factory=dict)
    methods: Annotated[dict[Text, dict[Text, Any]], Field(min_length=2, max_length=50)]
    pool: Annotated[tuple[Text, ...], BeforeValidator(_to_tuple), Field(max_length=20)] = ()
    match: Literal["stored-parameters", "none"] = "stored-parameters"
    tune: Tuning | None = None
    measure: Literal["dev", "held-out"] = "dev"
    seeds: Annotated[tuple[Seed, ...], BeforeValidator(_seeds), Field(min_length=1, max_length=1000)] = Field(
        default=tuple(range(1, 11)), validate_default=True
    )
    baseline: Text
    margin: Literal["pilot", "none"] | Positive = "pilot"

    @property
    def measured_share(self) -> float | None:
        """Share of the training split that measured runs are scored on instead of learning from it; None on dev."""
        if self.measure == "dev":
            return None
        return HELD_OUT if self.tune is None else self.tune.held_out


def load_experiment(path: FilePath) -> Experiment:
    """Reads the experiment in a file.

    Raises:
        ExperimentError: with every problem, each with file, line and key.
    """
    document = read_document(_read_text(path))
    name, tree = str(path), document.value
    if document.fatal:
        problem = document.problems[0]
        raise ExperimentError(f"{name}:{problem.line or 1}: {problem.message}")
    if not isinstance(tree, dict):
        raise ExperimentError(
            f"{name}: an experiment is a mapping with the keys tasks, methods and baseline, got {show(tree)}"
        )
    if "methods" not in tree and ("task" in tree or "model" in tree):
        raise ExperimentError(
            f"{name}: is a recipe, not an experiment; train it with `dora train`, or name it in an experiment: "
            f"tasks: [{name}]"
        )
    origins = Origins(name, document.lines)
    odd = {problem.path for problem in document.problems}
    found = [(problem.line or 1, problem.path, problem.message) for problem in document.problems]
    experiment, problems = _validated(tree)
    found += [(origins.order(path)[1], path, message) for path, message in problems if path not in odd]
    if found:
        raise ExperimentError(
            [
                f"{name}:{line or 1}: {dotted(path) + ': ' if path else ''}{message}"
                for line, path, message in sorted(dict.fromkeys(found), key=lambda item: item[0])
            ]
        )
    assert experiment is not None, "an experiment without problems is valid"
    return experiment


_STAND_INS = {
    "tasks": ["-"],
    "methods": {"-": {"method.name": "head"}, "--": {"method.name": "head"}},
    "baseline": "-",
}
"""What stands for a key that has none or a bad value, so that the other keys are looked at beside each other."""


def _validated(tree: Mapping[str, Any]) -> tuple[Experiment | None, list[tuple[Path, str]]]:
    """The experiment, and everything that is wrong with it."""
    plain, found = dict(tree), list[tuple[Path, str]]()
    if isinstance(tree.get("tune"), dict):
        plain["tune"], found = _tuning(tree["tune"])
    try:
        experiment = Experiment.model_validate(plain)
    except ValidationError as error:
        said = {path for path, _ in found}
        details = [_explained(detail, plain) for detail in error.errors(include_url=False)]
        found += [(path, message) for path, message in details if path not in said]
        bad = {str(path[0]) for path, _ in found}
        try:
            rest = Experiment.model_validate(
                {key: value for key, value in plain.items() if key not in bad}
                | {key: value for key, value in _STAND_INS.items() if key in bad}
            )
        except ValidationError:
            return None, found  # its keys are no texts
        return None, found + [(path, message) for path, message in _broken(rest, bad) if path[0] not in bad]
    return experiment, found + _broken(experiment, {"tune"} if found else set())


def _tuning(tree: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[Path, str]]]:
    """The section ``tune`` with its one tuned key under ``key`` and ``grid``."""
    keys = [key for key in tree if key not in OPTIONS]
    options = {key: tree[key] for key in OPTIONS if key in tree}
    grids = [key for key in keys if isinstance(tree[key], dict)]
    problems: list[tuple[Path, str]] = []
    for key in keys:
        if key in grids:
            if key in Recipe.model_fields:
                problems.append((("tune", key), _no_key(key) or "is no key of a method"))
            continue
        hint = nearest(str(key), OPTIONS)
        what = f"unknown key; did you mean {hint}?" if hint else f"must be a grid, such as {_GRID}"
        problems.append((("tune", str(key)), f"{what} (got {show(tree[key])})"))
    if problems:
        return {**options, "key": "?", "grid": {"from": 1.0, "to": 2.0, "points": 3}}, problems
    if len(grids) != 1:
        said = "names no key to tune" if not grids else f"tunes {', '.join(map(str, grids))}"
        problems.append((("tune",), f"{said}; give one key of the recipe its grid: train.learning_rate: {_GRID}"))
        return {**options, "key": "?", "grid": {"from": 1.0, "to": 2.0, "points": 3}}, problems
    return {**options, "key": str(grids[0]), "grid": tree[grids[0]]}, problems


_WANTED = {
    "tasks": "a list of 1 to 100 recipes, such as [configs/glue/rte.yaml]",
    "set": "a mapping of a recipe's keys, such as {train.epochs: 10}",
    "methods": "a mapping of names to what they change, such as lora: {method.name: lora, method.rank: 2}",
    "pool": "a list of swept keys, such as [method.rank]",
    "tune": f"a mapping with one key's grid, such as {{train.learning_rate: {_GRID}}}",
    "seeds": "how many (1 to 1000), or a list of as many different whole numbers",
    "margin": "pilot, none or a number above 0",
}
"""What keys take whose values are no single words."""


def _explained(detail: Any, tree: Mapping[str, Any]) -> tuple[Path, str]:
    """Where and what a pydantic error is, in the words of the file."""
    path: Path = detail["loc"]
    path = path[:-1] if path[-1:] == ("[key]",) else path
    if path[:2] == ("tune", "grid"):
        path = ("tune", str(tree["tune"]["key"]), *path[2:])
    kind, key = detail["type"], str(path[0])
    if kind == "missing":
        return path, "missing, and it has no default" + (
            f"; give {_WANTED[key]}" if key in _WANTED and path[1:] == () else ""
        )
    if kind == "extra_forbidden":
        known = ("from", "to", "points") if len(path) == 3 else tuple(Experiment.model_fields)
        hint = nearest(str(path[-1]), known)
        return (
            path,
            f"unknown key; did you mean {hint}?" if hint else f"unknown key; the keys here are {', '.join(known)}",
        )
    if key in ("seeds", "margin"):
        return (key,), f"must be {_WANTED[key]}, got {show(tree[key])}"
    if kind in ("greater_than_equal", "less_than_equal"):
        at = "at least" if kind == "greater_than_equal" else "at most"
        return path, f"must be {at} {detail['ctx']['ge' if at == 'at least' else 'le']}, got {show(detail['input'])}"
    if kind in ("too_short", "too_long") and key == "methods":
        return path, f"names {len(tree['methods'])}; a comparison takes from 2 to 50, one of them the baseline"
    if len(path) == 1 and key in _WANTED:
        return path, f"must be {_WANTED[key]}, got {show(detail['input'])}"
    if key == "methods" and len(path) == 2:
        return path, f"must be a mapping of a recipe's keys, such as {{method.name: lora}}, got {show(detail['input'])}"
    if len(path) == 3 and kind in ("model_type", "dict_type"):
        return path, f"must be a grid, such as {_GRID}, got {show(detail['input'])}"
    return path, explain(detail, tree)


# What must hold between keys ------------------------------------------------------------------------------------------


def _broken(experiment: Experiment, bad: Container[str]) -> list[tuple[Path, str]]:
    """What does not go together; what `bad` keys say is not looked at."""
    found: list[tuple[Path, str]] = []
    if experiment.baseline not in experiment.methods and "methods" not in bad:
        hint = nearest(experiment.baseline, experiment.methods)
        names = ", ".join(experiment.methods)
        found.append(
            (
                ("baseline",),
                f"must be one of the methods ({names}), got {show(experiment.baseline)}"
                + (f"; did you mean {hint}?" if hint else ""),
            )
        )
    if len(set(experiment.tasks)) < len(experiment.tasks):
        found.append((("tasks",), "names a recipe twice; each counts once"))
    if len(set(experiment.seeds)) < len(experiment.seeds):
        found.append((("seeds",), "names a seed twice; each is one run"))
    if experiment.tune is not None and "tune" not in bad:
        found += _of_tuning(experiment.tune, experiment)
    elif experiment.tune is None and experiment.margin == "pilot" and "margin" in experiment.model_fields_set:
        found.append(
            (("margin",), "is taken from the runs of the tuning, of which there are none; give a number, or tune")
        )
    for key, value in experiment.set.items():
        if not _takes_away(key, value) and (said := _no_shared_key(key)):
            found.append((("set", key), said))
    for key in dict.fromkeys(experiment.pool):
        if experiment.pool.count(key) > 1:
            found.append((("pool",), f"names {key} twice; its values are averaged over once"))
    if experiment.tune is not None and "tune" not in bad and experiment.tune.key in experiment.pool:
        said = f"{experiment.tune.key} is tuned, so every method has one value of it; take it out here, or out of tune"
        found.append((("pool",), said))
    if "methods" not in bad:
        found += _of_methods(experiment)
    return found


def _of_tuning(tune: Tuning, experiment: Experiment) -> list[tuple[Path, str]]:
    found: list[tuple[Path, str]] = []
    low, high = tune.grid.low, tune.grid.high
    if low >= high:
        found.append((("tune", tune.key), f"goes from {low:g} to {high:g}; the second must be larger"))
    if said := _no_key_of_methods(tune.key) or _no_number(tune.key):
        found.append((("tune", tune.key), said))
    if tune.seeds == 1 and experiment.margin == "pilot" and "margin" in experiment.model_fields_set:
        said = "is made of runs that differ in their seed alone, and tune.seeds is 1; raise it, or give a number"
        found.append((("margin",), said))
    if set(tune.seed_list) & set(experiment.seeds):
        said = f"holds seeds of the tuning ({FIRST_TUNING_SEED} and on), which chose the settings; take others"
        found.append((("seeds",), said))
    said = "is tuned; leave it out here, or take it out of tune"
    for name, entry in experiment.methods.items():
        if tune.key in entry:
            found.append((("methods", name, tune.key), said))
        if _sweeps(entry, tune.key):
            found.append((("methods", name, SWEEP), f"has {tune.key}, which {said}"))
    return [*found, (("set", tune.key), said)] if tune.key in experiment.set else found


def _sweeps(entry: Mapping[str, Any], key: str) -> bool:
    """Whether `key` is among the values that an entry sweeps together."""
    values = entry.get(SWEEP)
    return isinstance(values, list) and any(isinstance(value, dict) and key in value for value in values)


def _no_number(key: str) -> str | None:
    """Why the values of `key` cannot go by equal factors; None where they can."""
    section, _, name = key.partition(".")
    models = list(METHODS.values()) if section == "method" else [section_keys(section)]
    fields = [model.model_fields[name] for model in models if model is not None and name in model.model_fields]
    if not fields or any(_has_float(field.annotation) for field in fields):
        return None
    return "takes no fractions, so it has no grid of equal factors; sweep it in the entries of methods: [2, 8]"


def _has_float(annotation: Any) -> bool:
    return annotation is float or any(map(_has_float, get_args(annotation)))


def _no_shared_key(key: str) -> str | None:
    """Why `key` cannot be set for all recipes; None where it can."""
    if key == "task":
        return "the recipes in tasks say what is learned"
    if key == "method.name":
        return "the entries of methods say that"
    return _no_key(key)


def _no_key_of_methods(key: str) -> str | None:
    """Why methods cannot differ in `key`; None where they can."""
    section = key.partition(".")[0]
    if section in Recipe.model_fields and section not in OF_METHODS and key not in DECIDED:
        return (
            "is the same for all that is compared: a method may change what stands in "
            f"{', '.join(OF_METHODS[:-1])} and {OF_METHODS[-1]}; what holds for all of them goes into set"
        )
    return _no_key(key)


def _no_key(key: str) -> str | None:
    if key in DECIDED:
        return f"is decided by the experiment: {DECIDED[key]}; leave it out"
    if "." not in key and key in Recipe.model_fields and key != "task":
        return f"is a section; join the names of section and key by a dot, such as {key}.{_first_key(key)}"
    return None


def _first_key(section: str) -> str:
    model = section_keys(section, {})
    assert model is not None, "every section has keys"
    return next(iter(model.model_fields))


def _of_methods(experiment: Experiment) -> list[tuple[Path, str]]:
    found: list[tuple[Path, str]] = []
    folded: dict[str, str] = {}
    for name in experiment.methods:
        if not NAME.fullmatch(name):
            said = "is no name for a folder; use up to 40 letters, digits and _ . + -, a letter or digit first"
            found.append((("methods", name), said))
        if other := folded.get(name.casefold()):
            said = f"differs from {other} in capitals alone, and some disks take both for one folder; rename one"
            found.append((("methods", name), said))
        folded.setdefault(name.casefold(), name)
    for name, entry in experiment.methods.items():
        found += _of_entry(name, entry, experiment)
    return found or [*_beside_the_baseline(experiment), *_of_pool(experiment)]


def _of_entry(name: str, entry: Mapping[str, Any], experiment: Experiment) -> list[tuple[Path, str]]:
    found: list[tuple[Path, str]] = []
    method = entry.get("method.name")
    if "method" in entry and "method.name" not in entry:
        method = None  # which is said of that key
    elif method not in list(METHODS):
        hint = nearest(method, METHODS) if isinstance(method, str) else None
        got = f"got {show(method)}" if "method.name" in entry else "and is not given"
        said = f"must be one of {', '.join(METHODS)}, {got}" + (f"; did you mean {hint}?" if hint else "")
        found.append((("methods", name, "method.name"), said))
        method = None
    for key, value in entry.items():
        if key == RANKS_FROM:
            wrong = _no_source(name, value, experiment)
        elif key == SWEEP:
            wrong = _no_joint_sweep(value, entry, method)
        else:
            wrong = _wrong_with(key, value, method)
        if wrong:
            found.append((("methods", name, key), wrong))
    return found


def _wrong_with(key: str, value: Any, method: str | None, *, together: bool = False) -> str | None:
    """What is wrong with a recipe's key and its value in an entry of `method`, or `together` with others in a mapping,
    where a key that takes one value has one; None where nothing is.
    """
    if key == f"method.{RANKS_FROM}":
        return f"names one run for all seeds; write {RANKS_FROM}: {{method: NAME}} for another entry's runs"
    if _takes_away(key, value):
        return None
    if wrong := _no_key_of_methods(key):
        return wrong
    if not is_swept(key, value, method):
        return None
    return f"takes one value in each mapping, got {show(value)}" if together else _no_sweep(value)


def _takes_away(key: str, value: Any) -> bool:
    """Whether this is the way to take a section away that a recipe need not have."""
    return key == "federated" and value is None


def is_swept(key: str, value: Any, method: str | None) -> bool:
    """Whether an entry's value is a list for a key that takes one value."""
    return isinstance(value, list) and not _takes_list(key, method)


def _takes_list(key: str, method: str | None) -> bool:
    """Whether the recipe's key takes a list as its one value."""
    section, _, name = key.partition(".")
    model = section_keys(section, {"name": method} if section == "method" and method else {})
    if model is None or name not in model.model_fields:
        return False
    return _holds_tuple(model.model_fields[name].annotation)


def _holds_tuple(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) is tuple or any(map(_holds_tuple, get_args(annotation)))


def _no_sweep(values: list[Any]) -> str | None:
    """Why the key cannot be swept over `values`; None where it can."""
    if not values:
        return "sweeps no values; give at least one, or leave the key out"
    if odd := _no_part_of_a_name(values):
        return f"sweeps numbers and words of up to {LONGEST_VALUE} characters, got {show(odd[0])}"
    if _repeated(values):
        return f"sweeps a value twice, got {show(values)}; give each once"
    return None


def _no_part_of_a_name(values: Sequence[Any]) -> list[Any]:
    """Those that no variant could be called by."""
    return [
        value for value in values if not isinstance(value, str | int | float | None) or len(str(value)) > LONGEST_VALUE
    ]


def _repeated(values: Sequence[Any]) -> list[str]:
    """What stands more than once among them, as a name has it."""
    found = Counter(map(spelled, values))
    return [value for value, times in found.items() if times > 1]


def _no_joint_sweep(values: Any, entry: Mapping[str, Any], method: str | None) -> str | None:
    """Why values cannot be swept together; None where they can."""
    example = "[{method.rank: 1, method.alpha: 4}, {method.rank: 2, method.alpha: 8}]"
    if not (isinstance(values, list) and values and all(isinstance(value, dict) and value for value in values)):
        return f"must be a list of mappings with the same keys, such as {example}, got {show(values)}"
    keys = list(values[0])
    if odd := next((value for value in values if list(value) != keys), None):
        return f"must have the same keys in each mapping, in one order ({', '.join(map(str, keys))}), got {show(odd)}"
    for key in keys:
        if key in OF_AN_ENTRY:
            return f"has {key}, which is a key of the entry, not of a recipe; take it out of the mappings"
        if key == "method.name":
            return f"has {key}, which is one in an entry; give it beside sweep alone, and another method its own entry"
        if key in entry:
            return f"has {key}, which the entry has, too; keep it in one place"
        for value in values:
            if wrong := _wrong_with(key, value[key], method, together=True):
                return f"has {key}, which {wrong}"
    first = [value[keys[0]] for value in values]
    if others := _no_part_of_a_name(first):
        return (
            f"has {keys[0]} first, by which variants are told apart: that takes numbers and words of up to "
            f"{LONGEST_VALUE} characters, got {show(others[0])}"
        )
    if twice := _repeated(first):
        fix = "put the key that differs first, by which variants are told apart" if len(keys) > 1 else "give each once"
        return f"has {keys[0]} {twice[0]} twice; {fix}"
    return None


def _no_source(name: str, source: Any, experiment: Experiment) -> str | None:
    """Why an entry cannot take its ranks from `source`; None where it can."""
    if not (isinstance(source, dict) and list(source) == ["method"] and isinstance(source["method"], str)):
        return f"must be {{method: NAME}} of another entry, got {show(source)}"
    other, entry = source["method"], experiment.methods[name]
    if other == name or other not in experiment.methods:
        return f"must name another entry of methods, got {show(other)}"
    if RANKS_FROM in experiment.methods[other]:
        return f"{other} takes its ranks from another entry itself; name that one"
    if name == experiment.baseline:
        return "the baseline waits for nobody; compare with an entry whose ranks are its own"
    method, theirs = entry.get("method.name"), experiment.methods[other].get("method.name")
    if method in list(METHODS) and RANKS_FROM not in METHODS[method].model_fields:
        return f"{method} takes no ranks of another run; {_names('ranks_from')} does"
    if theirs in list(METHODS) and about(theirs).ranks == "none":
        return f"{other} is {theirs}, which has no ranks"
    if "method.ranks" in entry or _sweeps(entry, "method.ranks"):
        return "takes ranks from another entry, and method.ranks gives them; keep one of the two"
    return None


def _names(key: str) -> str:
    return " or ".join(name for name, section in METHODS.items() if key in section.model_fields)


def _beside_the_baseline(experiment: Experiment) -> list[tuple[Path, str]]:
    """Swept values that leave an entry, or the baseline, without another to be compared with."""
    if experiment.baseline not in experiment.methods:
        return []
    found: list[tuple[Path, str]] = []
    base = experiment.methods[experiment.baseline]
    swept = _swept(base)
    for name, entry in experiment.methods.items():
        if name == experiment.baseline:
            continue
        whole = _whole_sweep(entry, experiment)
        for key, values in whole.items():
            alone = [value for value in values if key in swept and value not in swept[key]]
            if alone:
                place = name if key in _swept(entry) else entry[RANKS_FROM]["method"]
                where, verb = (key, "is") if key in experiment.methods[place] else (SWEEP, f"has {key}")
                said = (
                    f"{verb} {_listed(alone)} where {experiment.baseline}, the baseline, is not run with that "
                    f"({_listed(swept[key])}); sweep the same values in both, or leave one unswept"
                )
                found.append((("methods", place, where), said))
        sized = _is_sized_by(entry, base, experiment) and "method.rank" not in whole
        if sized and ("method.rank" in swept or "method.rank" in _later(base)):
            where, verb = (
                ("method.rank", "sweeps") if "method.rank" in base else (SWEEP, "has method.rank, which sweeps")
            )
            said = (
                f"{verb} sizes, but beside {name} the baseline stores as much as {name} does; sweep method.rank in "
                f"{name} too, leave it unswept here, or set match: none"
            )
            found.append((("methods", experiment.baseline, where), said))
        found += _not_paired(name, experiment)
    return found


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(spelled, values))


def _not_paired(name: str, experiment: Experiment) -> list[tuple[Path, str]]:
    """Later keys of values that go together, in an entry or the baseline, that the other one sweeps as well: only the
    first keys make pairs.
    """
    baseline, found = experiment.baseline, list[tuple[Path, str]]()
    entry, base = experiment.methods[name], experiment.methods[baseline]
    whole, swept = _whole_sweep(entry, experiment), _swept(base)
    apart = set() if whole.keys() & swept.keys() else set(_later(entry)) & set(_later(base))
    for place, later, other, theirs in (
        (name, _later(entry), f"{baseline}, the baseline,", swept),
        (baseline, _later(base), name, whole),
    ):
        for key in later:
            if key in theirs or key in apart:
                said = (
                    f"has {key} after another key, and {other} sweeps it, too; put {key} first: variants are told "
                    "apart, and paired, by the first key; or leave it unswept in one of the two"
                )
                found.append((("methods", place, SWEEP), said))
    return found


def _later(entry: Mapping[str, Any]) -> list[str]:
    """The keys after the first of the values that go together in an entry."""
    return list(entry[SWEEP][0])[1:] if SWEEP in entry else []


def _of_pool(experiment: Experiment) -> list[tuple[Path, str]]:
    """Pooled keys that an entry does not sweep, or over other values than the baseline."""
    if experiment.baseline not in experiment.methods:
        return []
    sweeps = {name: _whole_sweep(entry, experiment) for name, entry in experiment.methods.items()}
    found: list[tuple[Path, str]] = []
    for key in dict.fromkeys(experiment.pool):
        if experiment.tune is not None and key == experiment.tune.key:
            continue  # which is said
        without = [name for name, swept in sweeps.items() if key not in swept]
        if len(without) == len(sweeps):
            hint = nearest(key, dict.fromkeys(swept for sweep in sweeps.values() for swept in sweep))
            end = f"did you mean {hint}?" if hint else f"give its values in every entry: {key}: [...]"
            found.append((("pool",), f"no entry sweeps {key}, so nothing is averaged over; {end}"))
        elif without:
            verb = "does" if len(without) == 1 else "do"
            said = f"{', '.join(without)} {verb} not sweep {key}; sweep it in every entry, or take it out here"
            found.append((("pool",), said))
        else:
            found += _fewer_values(key, sweeps, experiment.baseline)
    return found


def _fewer_values(key: str, sweeps: Mapping[str, Mapping[str, list[Any]]], baseline: str) -> list[tuple[Path, str]]:
    """Entries whose mean over a pooled key would leave out values of the baseline's; `_beside_the_baseline` refuses
    those that have more.
    """
    values, found = sweeps[baseline][key], list[tuple[Path, str]]()
    for name, swept in sweeps.items():
        if missing := [value for value in values if value not in swept[key]]:
            said = (
                f"{name} does not sweep {key} over {_listed(missing)}, as {baseline}, the baseline, does; what is "
                "averaged over is the same for all, so give it the same values in every entry"
            )
            found.append((("pool",), said))
    return found


def _whole_sweep(entry: Mapping[str, Any], experiment: Experiment) -> dict[str, list[Any]]:
    """What is swept in an entry and in the one whose ranks it takes."""
    source = _swept(experiment.methods[entry[RANKS_FROM]["method"]]) if RANKS_FROM in entry else {}
    return {**source, **_swept(entry)}


def _is_sized_by(entry: Mapping[str, Any], base: Mapping[str, Any], experiment: Experiment) -> bool:
    method, its = entry["method.name"], base["method.name"]
    return (
        experiment.match == "stored-parameters"
        and RANKS_FROM not in entry
        and method != its
        and about(method).ranks != "none"
        and RANKS_FROM in METHODS[its].model_fields
    )


def _swept(entry: Mapping[str, Any]) -> dict[str, list[Any]]:
    own = {
        key: value
        for key, value in entry.items()
        if key not in OF_AN_ENTRY and is_swept(key, value, entry["method.name"])
    }
    if SWEEP not in entry:
        return own
    together = entry[SWEEP]
    first = next(iter(together[0]))
    return {first: [value[first] for value in together], **own}


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
