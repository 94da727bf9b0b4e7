"""The experiment file: what it may say, and what is said of one that says something else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dora_cli.compare.experiment import FIRST_TUNING_SEED, Experiment, load_experiment
from dora_cli.compare.variants import design
from dora_cli.errors import ExperimentError, RecipeError
from dora_cli.recipe import load_recipe, parse_recipe
from dora_cli.recipe.shipped_recipes import find_experiment

ROOT = Path(__file__).parents[2]
METHODS = """\
methods:
  lora: {method.name: lora}
  dora: {method.name: dora}
"""
WHOLE = f"tasks: [demo/sst2]\n{METHODS}baseline: lora\n"
TUNE = "tune: {train.learning_rate: {from: 1.0e-4, to: 1.0e-2, points: 3}}\n"


def load(folder: Path, text: str) -> Experiment:
    file = folder / "x.yaml"
    file.write_text(text)
    return load_experiment(file)


def problems(folder: Path, text: str) -> list[str]:
    """What is wrong with it, as ``line: key: message``."""
    with pytest.raises(ExperimentError) as found:
        load(folder, text)
    assert all(problem.startswith(f"{folder / 'x.yaml'}") for problem in found.value.problems)
    return [problem.removeprefix(f"{folder / 'x.yaml'}:") for problem in found.value.problems]


def places(folder: Path, text: str) -> list[str]:
    """The same, but for the messages."""
    found = [re.match(r"(\d+: [^ ].*?): ", problem) for problem in problems(folder, text)]
    return [match.group(1) if match else "?" for match in found]


# -- what it may say ---------------------------------------------------------------------------------------------------


def test_what_is_not_said(tmp_path: Path) -> None:
    found = load(tmp_path, WHOLE)
    assert found.seeds == tuple(range(1, 11))
    assert (found.match, found.tune, found.margin, found.set) == ("stored-parameters", None, "pilot", {})


@pytest.mark.parametrize(("said", "seeds"), [("3", (1, 2, 3)), ("1", (1,)), ("[7]", (7,)), ("[5, 2, 0]", (5, 2, 0))])
def test_seeds_are_how_many_or_which(tmp_path: Path, said: str, seeds: tuple[int, ...]) -> None:
    assert load(tmp_path, f"{WHOLE}seeds: {said}\n").seeds == seeds


def test_tuning(tmp_path: Path) -> None:
    tune = load(tmp_path, WHOLE + TUNE.replace("}}", "}, seeds: 3, held_out: 0.2}")).tune
    assert tune is not None
    assert (tune.key, tune.grid.low, tune.grid.high, tune.grid.points) == ("train.learning_rate", 1e-4, 1e-2, 3)
    assert (tune.held_out, tune.keep, tune.extend) == (0.2, "halving", 4)
    assert tune.seed_list == [FIRST_TUNING_SEED + index for index in range(3)]


def test_a_list_sweeps_a_key_that_takes_one_value_and_is_the_value_of_one_that_takes_lists(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        "tasks: [demo/sst2]\nbaseline: lora\nmethods:\n"
        "  lora: {method.name: lora, method.rank: [2, 8], method.targets: [attention], train.adam_betas: [0.9, 1]}\n"
        "  dora: {method.name: dora, method.rank: [8, 2]}\n",
    )
    ran = {variant.name: variant for variant in design(found).variants}
    assert {"dora rank=8", "dora rank=2", "lora rank=2", "lora rank=8"} == set(ran)
    assert ran["lora rank=2"].keys["method.targets"] == ["attention"]
    assert ran["lora rank=2"].keys["train.adam_betas"] == [0.9, 1]


@pytest.mark.parametrize("name", ["demo", "compare/demo"])
def test_those_that_come_with_the_program_are_found_by_name(name: str, tmp_path: Path) -> None:
    assert load_experiment(find_experiment(Path(name))).baseline == "lora"
    assert find_experiment(Path("compare/demmo")) == Path("compare/demmo")
    assert find_experiment(tmp_path / "demo") == tmp_path / "demo"


# -- what is wrong with it ---------------------------------------------------------------------------------------------


def test_every_problem_is_said_at_once_with_its_line(tmp_path: Path) -> None:
    text = """\
tasks: [a, a]
set:
  train.seed: 3
  model: {name: x}
methods:
  lo ra: {}
  c: {method.name: loar, data.max_length: 3}
  d: {method.name: lora, ranks_from: c, eval.metric: loss}
tune:
  train.learning_rate: {from: 2, too: 1, points: 2}
  held_out: 2
seeds: [1, 1]
baseline: zz
margn: 3
margin: -1
"""
    assert places(tmp_path, text) == [
        "1: tasks",
        "3: set.train.seed",
        "4: set.model",
        "6: methods.lo ra",
        "6: methods.lo ra.method.name",
        "7: methods.c.method.name",
        "7: methods.c.data.max_length",
        "8: methods.d.ranks_from",
        "8: methods.d.eval.metric",
        "10: tune.train.learning_rate.to",
        "10: tune.train.learning_rate.points",
        "10: tune.train.learning_rate.too",
        "11: tune.held_out",
        "12: seeds",
        "13: baseline",
        "14: margn",
        "15: margin",
    ]


def test_an_empty_experiment_says_what_it_needs(tmp_path: Path) -> None:
    assert [line.split(": ")[1] for line in problems(tmp_path, "seeds: 3\n")] == ["tasks", "methods", "baseline"]


@pytest.mark.parametrize("text", ["", "~", "[1, 2]", "5", "lora"])
def test_no_mapping(tmp_path: Path, text: str) -> None:
    (found,) = problems(tmp_path, text)
    assert "is a mapping with the keys tasks, methods and baseline" in found


@pytest.mark.parametrize(
    ("line", "key", "words"),
    [
        ("tune: 5", "tune", "got 5"),
        ("tune: {}", "tune", "names no key"),
        ("tune: {seeds: 3}", "tune", "names no key"),
        ("tune: {a.b: {from: 1, to: 2, points: 3}, c.d: {from: 1, to: 2, points: 3}}", "tune", "a.b, c.d"),
        ("tune: {train: {learning_rate: {from: 1, to: 2, points: 3}}}", "tune.train", "train.epochs"),
        ("tune: {train.learning_rate: 3}", "tune.train.learning_rate", "grid"),
        ("tune: {train.learning_rate: [1, 2, 3]}", "tune.train.learning_rate", "grid"),
        ("tune: {train.learning_rate: {from: 2, to: 1, points: 3}}", "tune.train.learning_rate", "from 2 to 1"),
        ("tune: {train.learning_rate: {from: 0, to: 1, points: 3}}", "tune.train.learning_rate.from", "above 0"),
        ("tune: {train.learning_rate: {from: 1, to: .inf, points: 3}}", "tune.train.learning_rate.to", "finite"),
        ("tune: {train.learning_rate: {from: 1, to: 2, points: 2}}", "tune.train.learning_rate.points", "at least 3"),
        ("tune: {train.epochs: {from: 1, to: 8, points: 3}}", "tune.train.epochs", "no fractions"),
        ("tune: {data.max_length: {from: 1, to: 2, points: 3}}", "tune.data.max_length", "same for all"),
        ("tune: {train.seed: {from: 1, to: 2, points: 3}}", "tune.train.seed", "decided by the experiment"),
        ("seeds: 0", "seeds", "got 0"),
        ("seeds: 1001", "seeds", "1 to 1000"),
        ("seeds: 1.5", "seeds", "got 1.5"),
        ("seeds: true", "seeds", "got true"),
        ("seeds: []", "seeds", "the list []"),
        ("seeds: [1, -1]", "seeds", "[1, -1]"),
        ("seeds: [1, 1]", "seeds", "twice"),
        ("margin: pilo", "margin", "'pilo'"),
        ("margin: 0", "margin", "got 0"),
        ("margin: pilot", "margin", "there are none"),
        ("match: size", "match", "stored-parameters"),
        ("measure: test", "measure", "held-out"),
        ("set: 5", "set", "got 5"),
        ("set: {task: glue/rte}", "set.task", "the recipes"),
        ("set: {method.name: lora}", "set.method.name", "entries"),
        ("set: {eval.held_out: 0.1}", "set.eval.held_out", "held_out in tune"),
        ("set: {eval.select: best}", "set.eval.select", "last weights"),
        ("sets: {}", "sets", "did you mean set?"),
    ],
)  # fmt: skip
def test_one_problem(tmp_path: Path, line: str, key: str, words: str) -> None:
    (found,) = problems(tmp_path, f"{WHOLE}{line}\n")
    assert found.startswith(f"6: {key}: ")
    assert words in found


@pytest.mark.parametrize(
    ("entry", "key", "words"),
    [
        ("5", "", "must be a mapping"),
        ("{}", ".method.name", "is not given"),
        ("{method.name: lroa}", ".method.name", "did you mean lora?"),
        ("{method.name: [lora, dora]}", ".method.name", "must be one of"),
        ("{method: {name: lora}}", ".method", "join"),
        ("{method.name: lora, train.seed: 3}", ".train.seed", "decided by the experiment"),
        ("{method.name: lora, eval.every: epoch}", ".eval.every", "same for all"),
        ("{method.name: lora, model.name: x}", ".model.name", "same for all"),
        ("{method.name: lora, task: glue/rte}", ".task", "same for all"),
        ("{method.name: lora, decode.beams: 1}", ".decode.beams", "same for all"),
        ("{method.name: lora, method.rank: []}", ".method.rank", "no values"),
        ("{method.name: lora, method.rank: [2, 2]}", ".method.rank", "twice"),
        ("{method.name: lora, method.rank: [null, 'null']}", ".method.rank", "twice"),
        ("{method.name: lora, sweep: null}", ".sweep", "got null"),
        ("{method.name: lora, method.rank: [{a: 1}]}", ".method.rank", "words"),
        ("{method.name: lora, method.ranks_from: runs/x}", ".method.ranks_from", "one run"),
        ("{method.name: lora, ranks_from: dora}", ".ranks_from", "{method: NAME}"),
        ("{method.name: lora, ranks_from: {method: other}}", ".ranks_from", "another entry"),
        ("{method.name: lora, ranks_from: {method: doar}}", ".ranks_from", "another entry"),
        ("{method.name: lora, ranks_from: {method: lora, seed: 1}}", ".ranks_from", "{method: NAME}"),
        ("{method.name: dora, ranks_from: {method: lora}}", ".ranks_from", "takes no ranks"),
        ("{method.name: lora, ranks_from: {method: dora}, method.ranks: {q: 1}}", ".ranks_from", "keep one"),
    ],
)  # fmt: skip
def test_one_problem_of_an_entry(tmp_path: Path, entry: str, key: str, words: str) -> None:
    (found,) = problems(tmp_path, f"tasks: [demo/sst2]\n{METHODS}  other: {entry}\nbaseline: lora\n")
    assert found.startswith(f"5: methods.other{key}: ")
    assert words in found


def test_ranks_of_what_has_none(tmp_path: Path) -> None:
    more = "  head: {method.name: head}\n  other: {method.name: lora, ranks_from: {method: head}}\n"
    (found,) = problems(tmp_path, f"tasks: [a]\n{METHODS}{more}baseline: lora\n")
    assert found.startswith("6: methods.other.ranks_from: ")
    assert "no ranks" in found


def test_the_baseline_takes_no_ranks(tmp_path: Path) -> None:
    text = WHOLE.replace("method.name: lora", "method.name: lora, ranks_from: {method: dora}")
    assert places(tmp_path, text) == ["3: methods.lora.ranks_from"]


def test_ranks_of_ranks(tmp_path: Path) -> None:
    more = "  a: {method.name: lora, ranks_from: {method: dora}}\n  b: {method.name: lora, ranks_from: {method: a}}\n"
    assert places(tmp_path, f"tasks: [a]\n{METHODS}{more}baseline: lora\n") == ["6: methods.b.ranks_from"]


@pytest.mark.parametrize("name", ["a b", "a/b", "..", "-a", "", "x" * 41, "é"])
def test_names_that_are_none_for_a_folder(tmp_path: Path, name: str) -> None:
    found = problems(tmp_path, f'tasks: [a]\n{METHODS}  "{name}": {{method.name: lora}}\nbaseline: lora\n')
    assert len(found) == 1
    assert found[0].startswith("5: methods")


def test_names_that_differ_in_capitals_alone(tmp_path: Path) -> None:
    text = f"tasks: [a]\n{METHODS}  LoRA: {{method.name: lora}}\nbaseline: lora\n"
    assert places(tmp_path, text) == ["5: methods.LoRA"]


def test_one_method_is_no_comparison(tmp_path: Path) -> None:
    assert places(tmp_path, "tasks: [a]\nmethods: {lora: {method.name: lora}}\nbaseline: lora\n") == ["2: methods"]


def test_what_is_tuned_is_set_nowhere(tmp_path: Path) -> None:
    text = WHOLE.replace("method.name: dora", "method.name: dora, train.learning_rate: 1") + TUNE
    text += "set: {train.learning_rate: 1}\n"
    assert places(tmp_path, text) == ["4: methods.dora.train.learning_rate", "7: set.train.learning_rate"]


def test_seeds_are_none_that_chose_the_settings(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, f"{WHOLE}{TUNE}seeds: [1, {FIRST_TUNING_SEED + 1}]\n")
    assert found.startswith("7: seeds: ")


@pytest.mark.parametrize(
    ("base", "other", "place", "words"),
    [
        ("method.rank: [2, 8]", "method.rank: [2, 4]", "dora", "is 4 where lora"),
        ("method.rank: [2, 8]", "method.rank: [2, null]", "dora", "is null where lora"),
        ("method.rank: [2, 8]", "method.rank: 4", "lora", "stores as much as dora"),
    ],
)
def test_sweeps_that_leave_something_alone(tmp_path: Path, base: str, other: str, place: str, words: str) -> None:
    text = f"tasks: [a]\nmethods:\n  lora: {{method.name: lora, {base}}}\n  dora: {{method.name: dora, {other}}}\n"
    (found,) = problems(tmp_path, text + "baseline: lora\n")
    assert found.startswith(f"{3 if place == 'lora' else 4}: methods.{place}.method.rank: ")
    assert words in found
    if place == "lora":  # without matching each size of the baseline is one of its own
        assert load(tmp_path, text + "baseline: lora\nmatch: none\n").match == "none"


SWEPT = """\
tasks: [demo/sst2]
methods:
  lora: {method.name: lora, method.rank: [1, 2]}
  dora: {method.name: dora, method.rank: [2, 1]}
  same: {method.name: lora, ranks_from: {method: dora}}
baseline: lora
"""


def test_what_is_pooled(tmp_path: Path) -> None:
    assert load(tmp_path, SWEPT).pool == ()
    assert load(tmp_path, f"{SWEPT}pool: [method.rank]\n").pool == ("method.rank",)
    assert load(tmp_path, f"{SWEPT}pool: []\n").pool == ()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("method.rank", ["a list of swept keys", "[method.rank]"]),
        ("[method.rank, method.rank]", ["method.rank twice"]),
        ("[method.rnak]", ["no entry sweeps method.rnak", "did you mean method.rank?"]),
        ("[train.epochs]", ["no entry sweeps train.epochs", "train.epochs: [...]"]),
        ("[ranks_from]", ["no entry sweeps ranks_from"]),
    ],
)
def test_what_cannot_be_pooled(tmp_path: Path, said: str, words: list[str]) -> None:
    (found,) = problems(tmp_path, f"{SWEPT}pool: {said}\n")
    assert found.startswith("7: pool: ")
    assert [word for word in words if word not in found] == []


def test_what_is_tuned_is_not_pooled(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, f"{SWEPT}{TUNE}pool: [train.learning_rate]\n")
    assert found.startswith("8: pool: train.learning_rate is tuned")


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("dora, method.rank: [2, 1]", "dora", "dora, same do not sweep method.rank"),
        ("lora, method.rank: [1, 2]", "lora, method.rank: 1", "lora does not sweep method.rank"),
        ("dora, method.rank: [2, 1]", "dora, method.rank: [2]", "dora does not sweep method.rank over 1, as lora"),
        ("baseline", "  head: {method.name: head}\nbaseline", "head does not sweep method.rank"),
    ],
)
def test_what_is_pooled_is_swept_alike_in_every_entry(tmp_path: Path, before: str, after: str, words: str) -> None:
    assert SWEPT.count(before) == 1
    found = problems(tmp_path, f"{SWEPT.replace(before, after)}match: none\npool: [method.rank]\n")
    assert all(": pool: " in problem for problem in found)
    assert words in found[0]


@pytest.mark.parametrize(
    "text",
    [
        "set: &a [*a]\n",
        "tasks: [a\n",
        f"{WHOLE}set: !!python/object:os.system {{}}\n",
        f"{WHOLE}baseline: dora\n",
        "a: " + "[" * 5000 + "]" * 5000,
        "tasks: [a]\n1: 2\n",
        f"{WHOLE}? [a, b]\n: c\n",
        WHOLE.replace("lora: {", "3: {"),
        "\ufeff" + WHOLE + "\x00",
        "tasks: &x [" + ", ".join(["a"] * 100) + "]\nset: {a: [*x, *x], b: " + "[*x, " * 15 + "*x" + "]" * 15 + "}\n",
    ],
)
def test_hostile_yaml(tmp_path: Path, text: str) -> None:
    assert problems(tmp_path, text)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    large.write_text("#" * (1 << 19))
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("tasks: [é]".encode("latin-1"))
    for file, words in (
        (tmp_path / "away.yaml", "no such"),
        (tmp_path, "folder"),
        (large, "larger than"),
        (latin, "latin.yaml:1"),
    ):
        with pytest.raises(ExperimentError) as found:
            load_experiment(file)
        assert words in str(found.value)
        assert str(file) in str(found.value)


# -- one for the other -------------------------------------------------------------------------------------------------


def test_a_recipe_is_no_experiment() -> None:
    file = ROOT / "configs" / "demo" / "sst2.yaml"
    with pytest.raises(ExperimentError, match="dora train") as found:
        load_experiment(file)
    assert len(found.value.problems) == 1


def test_an_experiment_is_no_recipe() -> None:
    file = ROOT / "configs" / "compare" / "demo.yaml"
    with pytest.raises(RecipeError, match=re.escape(f"dora compare {file}")) as found:
        load_recipe(file)
    assert len(found.value.problems) == 1
    with pytest.raises(RecipeError):
        parse_recipe("task: glue/sst2\nmethods: {}\ntasks: []\n")


def test_how_is_held_out_may_be_set_for_all(tmp_path: Path) -> None:
    """Unlike how much, which is the experiment's own."""
    assert load(tmp_path, f"{WHOLE}set: {{eval.held_out_by: rows}}\n").set == {"eval.held_out_by": "rows"}
    (found,) = problems(tmp_path, WHOLE.replace("{method.name: lora", "{eval.held_out_by: rows, method.name: lora", 1))
    assert "eval.held_out_by: is the same for all that is compared" in found


@pytest.mark.parametrize("file", sorted((ROOT / "configs" / "compare").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_shipped_ones_are_well_formed(file: Path) -> None:
    assert design(load_experiment(file)).pairs
