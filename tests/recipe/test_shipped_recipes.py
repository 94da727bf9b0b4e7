"""The recipes in the package are those of configs/."""

from __future__ import annotations

from pathlib import Path

import pytest

from dora_cli.errors import RecipeError
from dora_cli.recipe import load_recipe
from dora_cli.recipe import shipped_recipes as examples
from dora_cli.recipe.shipped_recipes import find_recipe, shipped_recipes

ROOT = Path(__file__).parents[2]


def test_they_are_those_of_configs() -> None:
    files = {
        path.relative_to(ROOT / "configs").with_suffix("").as_posix(): path
        for path in (ROOT / "configs").rglob("*.y*ml")
        if path.parent.name != examples.EXPERIMENTS
    }
    assert examples.shipped_recipes() == {name: load_recipe(path) for name, path in files.items()}
    assert len(files) >= 25


def test_the_package_holds_them() -> None:
    """An installed package has no configs/ beside it: what is inside must be the same files, and be packed."""
    inside = ROOT / "dora_cli" / "recipe" / "shipped"
    assert examples._PLACES[0] == inside
    assert inside.resolve() == ROOT / "configs"
    assert '"dora_cli.recipe" = ["shipped/*/*.yaml", "shipped/*/*/*.yaml"]' in (ROOT / "pyproject.toml").read_text(
        encoding="utf-8"
    )


@pytest.fixture
def forgotten():
    examples.shipped_recipes.cache_clear()
    yield
    examples.shipped_recipes.cache_clear()


@pytest.mark.usefixtures("forgotten")
def test_a_checkout_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shipped").write_text("../../configs")  # how git leaves a link where it cannot make one
    monkeypatch.setattr(examples, "_PLACES", (tmp_path / "shipped", ROOT / "configs"))
    assert "glue/rte" in examples.shipped_recipes()


@pytest.mark.usefixtures("forgotten")
def test_a_damaged_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "_PLACES", (tmp_path / "shipped",))
    with pytest.raises(RecipeError, match="install dora-cli again"):
        examples.shipped_recipes()


def test_the_method_cola_and_the_task_glue_cola_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`glue/cola` is the task's recipe, `glue/cola/rte` that of the method; a folder is never taken for the file."""
    monkeypatch.chdir(tmp_path)
    task, method = (load_recipe(find_recipe(Path(name))) for name in ("glue/cola", "glue/cola/rte"))
    assert (task.task, task.method.name) == ("glue/cola", "dora")
    assert (method.task, method.method.name) == ("glue/rte", "cola")
    monkeypatch.chdir(ROOT / "configs")  # where a folder has the name of the task's recipe
    assert find_recipe(Path("glue/cola")).resolve() == ROOT / "configs" / "glue" / "cola.yaml"
    monkeypatch.chdir(ROOT)
    folder = find_recipe(Path("configs/glue/cola"))
    with pytest.raises(
        RecipeError, match=r"is a folder, .* in it, or configs/glue/cola\.yaml, which stands beside it$"
    ):
        load_recipe(folder)


def test_a_recipe_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_recipe(find_recipe(Path("glue/rte"))) == shipped_recipes()["glue/rte"]
    with pytest.raises(RecipeError, match=r"^glue/rt: .*; nearest: glue/rte"):
        find_recipe(Path("glue/rt"))
    with pytest.raises(RecipeError, match=r"; there are .*glue/rte"):
        find_recipe(Path("zzz"))
    with pytest.raises(RecipeError, match=r"; nearest: .*glue/rte"):
        find_recipe(Path("rte"))
    assert find_recipe(Path("nowhere.yaml")) == Path("nowhere.yaml")
    (tmp_path / "glue").mkdir()
    assert find_recipe(Path("glue/rte")) != Path("glue/rte")
    (tmp_path / "glue" / "rte").write_text("task: glue/rte")
    assert find_recipe(Path("glue/rte")) == Path("glue/rte")
