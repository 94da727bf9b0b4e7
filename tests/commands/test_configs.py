"""Every recipe that comes with the project is ready to run: it loads, and its dry run needs neither weights nor a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from dora_cli.recipe import load_recipe
from tests.commands.conftest import CONFIGS, dora

ALL = sorted(CONFIGS.rglob("*.y*ml"))
ON_THE_HUB = [path for path in ALL if not load_recipe(path).model.name.startswith("builtin:")]


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def words(text: str) -> list[tuple[str, ...]]:
    """The lines of `text` by their words: how wide a column is does not matter."""
    return [tuple(line.split()) for line in text.splitlines()]


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the configuration of the default RoBERTa, which is roberta-base's size, and nothing else."""
    from transformers import RobertaConfig

    folder = tmp_path_factory.mktemp("roberta")
    RobertaConfig().save_pretrained(folder)
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    return folder


@pytest.fixture(autouse=True)
def _no_network_and_empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    assert huggingface_hub.constants.HF_HUB_OFFLINE
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_there_are_recipes() -> None:
    assert {path.parent.name for path in ALL} >= {"demo", "glue"}
    assert len(ON_THE_HUB) >= 9


@pytest.mark.parametrize("path", ALL, ids=name)
def test_every_recipe_dry_runs_on_a_model_of_which_only_the_configuration_is_there(path: Path, roberta: Path, tmp_path: Path) -> None:
    done = dora("train", path, "--dry-run", "--set", f"model.name={roberta}")
    assert (done.code, done.err) == (0, "")
    assert list(tmp_path.iterdir()) == []
    recipe = load_recipe(path)
    rank, start = recipe.method.rank, recipe.method.start_rank or -(-3 * recipe.method.rank // 2)  # type: ignore[union-attr]
    # 12 blocks x (query, key, value, attention.output: 768 + 768 each; intermediate and output: 768 + 3072 each)
    assert recipe.method.targets == ("attention", "ffn")  # type: ignore[union-attr]
    assert "  projections       72\n" in done.out
    assert "  per unit of rank  165,888\n" in done.out
    assert f"  adapter, start    {165_888 * start:,}\n" in done.out
    assert f"  adapter, final    {165_888 * rank:,} if " in done.out
    assert f"  components  {72 * start} -> {72 * rank} in 72 projections\n" in done.out
    assert f"  output             runs/{path.parent.name}-{path.stem}\n" in done.out


@pytest.mark.parametrize("path", ON_THE_HUB, ids=name)
def test_a_model_out_of_reach_costs_the_parameter_counts_alone(path: Path, roberta: Path) -> None:
    known = dora("train", path, "--dry-run", "--set", f"model.name={roberta}").out
    done = dora("train", path, "--dry-run")
    assert (done.code, done.err) == (0, "")
    model = load_recipe(path).model.name
    assert f"'{model}'" in done.out
    assert "need the model's configuration" in done.out
    assert "per unit of rank" not in done.out
    lost = set(words(known.partition("\nParameters\n")[0].replace(str(roberta), model))) - set(words(done.out))
    assert {line[0] for line in lost} == {"components"}, "all that does not depend on the model is still said"


@pytest.mark.parametrize("path", [path for path in ALL if path not in ON_THE_HUB], ids=name)
def test_a_built_in_model_dry_runs_as_it_is(path: Path) -> None:
    done = dora("train", path, "--dry-run")
    assert (done.code, done.err) == (0, "")
    assert "per unit of rank" in done.out
