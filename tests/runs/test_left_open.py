"""What a recipe leaves open is settled when a run begins, and a run of an older version stays what it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from dora_cli import evaluate, load_recipe, train, train_seeds
from dora_cli.assembly.data import HELD_OUT, load_data
from dora_cli.assembly.resolve import resolve
from dora_cli.errors import CheckpointError, OutputError
from dora_cli.recipe import Recipe, parse_recipe
from dora_cli.runs.left_open import read_recipe, scaled_as, settled
from dora_cli.runs.resume import recipe_hash
from dora_cli.runs.run_folder import RunRecords
from tests.runs.test_resume import Cut, PowerCutError, assert_equal_runs
from tests.training.conftest import MakeRecipe

BY_ROWS = "eval.held_out_by=rows"
OLDER = "data.scale=[9.0, 3.0]"
"""A scale as versions found it that counted what is held out too; any that today's does not find."""


def from_before(run: Path) -> None:
    """Makes of a run by rows one of a version that knew nothing else."""
    file = run / "recipe.yaml"
    lines = file.read_text().splitlines(keepends=True)
    kept = [line for line in lines if "held_out_by" not in line]
    assert len(kept) == len(lines) - 1
    file.write_text("".join(kept))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen texts, each five times: by rows nearly all of them are on both sides."""
    folder = tmp_path_factory.mktemp("data")
    rows = [f"film {number} is {word},{word}" for number, word in enumerate(["good", "bad"] * 8)]
    (folder / "train.csv").write_text(
        "\n".join(["sentence,label", *rows * 5, ""]).replace("good\n", "1\n").replace("bad\n", "0\n")
    )
    (folder / "dev.csv").write_text("sentence,label\nit is good,1\nit is bad,0\n")
    return folder


@pytest.fixture
def make(make_recipe: MakeRecipe, table: Path) -> MakeRecipe:
    def made(*changes: str) -> Recipe:
        own = ("data.source=files", f"data.path={table}", "data.max_train_samples=null", "data.max_eval_samples=null")
        return make_recipe(*own, "eval.held_out=0.2", "save.every_steps=1", *changes)

    return made


def shared(recipe: Recipe) -> set[str]:
    data = load_data(*resolve(recipe))
    return set(data.training.texts[0]) & set(data.evaluated[HELD_OUT].texts[0])


def test_the_hash_of_an_older_run() -> None:
    """The version before the key computed the same."""
    text = "task: glue/rte\nmodel: {name: some/model}\nmethod: {}\neval: {held_out: 0.1}\n"
    before = "c12d06a0952d0a2332086c7c0191a87965a9f3529940d135e0b50834d7fd1dd1"
    assert recipe_hash(parse_recipe(text, overrides=[BY_ROWS])) == before
    assert recipe_hash(settled(parse_recipe(text))) != before


def test_it_is_settled_once(tmp_path: Path) -> None:
    path, text = tmp_path / "recipe.yaml", "task: glue/rte\nmodel: {name: some/model}\n"
    path.write_text(text)
    recipe = load_recipe(path)
    assert recipe.eval.held_out_by is None
    assert read_recipe(path).eval.held_out_by == "rows"
    assert settled(recipe).eval.held_out_by == "text"
    assert settled(recipe, read_recipe(path)).eval.held_out_by == "rows"
    path.write_text(f"{text}eval: {{held_out_by: text}}\n")
    assert read_recipe(path).eval.held_out_by == "text"
    assert settled(load_recipe(path), settled(recipe, read_recipe(path))).eval.held_out_by == "text"


def test_a_new_run_is_by_text_and_goes_on_so(make: MakeRecipe, tmp_path: Path) -> None:
    assert not shared(make())
    assert shared(make(BY_ROWS))
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    train(make(), straight)
    assert load_recipe(straight / "recipe.yaml").eval.held_out_by == "text"
    with pytest.raises(PowerCutError):
        train(make(), stopped, listener=Cut(step=7))
    with pytest.raises(CheckpointError, match=r"eval\.held_out_by was 'text' and is 'rows'"):
        train(make(BY_ROWS), stopped, resume=True)
    train(make(), stopped, resume=True)
    assert_equal_runs(stopped, straight)
    assert evaluate(straight)["identical"] is True


def test_an_older_run_goes_on_and_is_evaluated_by_rows(make: MakeRecipe, tmp_path: Path) -> None:
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    train(make(BY_ROWS), straight)
    with pytest.raises(PowerCutError):
        train(make(BY_ROWS), stopped, listener=Cut(step=7))
    from_before(stopped)
    with pytest.raises(CheckpointError, match=r"eval\.held_out_by was 'rows' and is 'text'"):
        train(make("eval.held_out_by=text"), stopped, resume=True)
    train(make(), stopped, resume=True)
    assert_equal_runs(stopped, straight)
    assert load_recipe(stopped / "recipe.yaml").eval.held_out_by == "rows"
    from_before(stopped)
    assert evaluate(stopped)["identical"] is True


def test_new_seeds_beside_older_ones_are_parted_alike(make: MakeRecipe, tmp_path: Path) -> None:
    output, changes = tmp_path / "seeds", ("train.max_steps=6", "eval.every=end", "method={name: lora, rank: 1}")
    train_seeds(make(*changes, BY_ROWS), output, (1,))
    from_before(output / "seed-1")
    train_seeds(make(*changes), output, (1, 2))
    one, two = (RunRecords(output / f"seed-{seed}").read_environment()["data"] for seed in (1, 2))
    assert one == two
    assert load_recipe(output / "seed-2" / "recipe.yaml").eval.held_out_by == "rows"
    with pytest.raises(OutputError, match=r"held_out_by"):
        train_seeds(make(*changes, "eval.held_out_by=text"), output, (1, 2))


@pytest.fixture
def numbers(make_recipe: MakeRecipe, tmp_path: Path) -> MakeRecipe:
    """Makes a recipe of a regression that holds a fifth out."""
    folder = tmp_path / "numbers"
    folder.mkdir()
    rows = "".join(f"film {number},{number % 9}\n" for number in range(60))
    for split in ("train", "dev"):
        (folder / f"{split}.csv").write_text(f"text,label\n{rows}")

    def made(*changes: str) -> Recipe:
        own = ("task=regression", "data.source=files", f"data.path={folder}", "data.max_train_samples=null")
        length = ("train.max_steps=6", "eval.every=end", "save.every_steps=1", "method={name: lora, rank: 1}")
        return make_recipe(*own, *length, "eval.held_out=0.2", *changes)

    return made


def test_a_regression_of_an_older_version_goes_on_with_its_scale(numbers: MakeRecipe, tmp_path: Path) -> None:
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    train(numbers(OLDER), straight)
    with pytest.raises(PowerCutError):
        train(numbers(OLDER), stopped, listener=Cut(step=3))
    with pytest.raises(CheckpointError, match=r"data\.scale was \(9\.0, 3\.0\)"):
        train(numbers("data.scale=[9.0, 4.0]"), stopped, resume=True)
    train(numbers(), stopped, resume=True)
    assert_equal_runs(stopped, straight)
    assert load_recipe(stopped / "recipe.yaml").data.scale == (9.0, 3.0)
    assert evaluate(stopped)["identical"] is True


def test_new_seeds_beside_older_ones_have_their_scale(numbers: MakeRecipe, tmp_path: Path) -> None:
    output = tmp_path / "seeds"
    train_seeds(numbers(OLDER), output, (1,))
    train_seeds(numbers(), output, (1, 2))
    assert load_recipe(output / "seed-2" / "recipe.yaml").data.scale == (9.0, 3.0)
    train_seeds(numbers(), tmp_path / "new", (1,))
    assert load_recipe(tmp_path / "new" / "seed-1" / "recipe.yaml").data.scale != (9.0, 3.0)


def test_another_task_takes_no_scale(numbers: MakeRecipe, make: MakeRecipe) -> None:
    before = numbers(OLDER)
    assert scaled_as(numbers(), before).data.scale == (9.0, 3.0)
    assert scaled_as(numbers("data.scale=[1.0, 2.0]"), before).data.scale == (1.0, 2.0)
    assert scaled_as(make(), before).data.scale is None
