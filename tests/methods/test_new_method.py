"""A method that another package brings, in one module and a section of keys, goes through everything that the product
does with a method.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dora_cli.recipe import load_recipe
from dora_cli.recipe.dump import dump_recipe
from tests.brought import Command, installed
from tests.runs.test_resume import assert_equal_runs
from tests.training.conftest import MakeRecipe
from tests.training.test_run import read

BROUGHT = Path(__file__).parent / "brought"
ENTRY_POINTS = """
[dora_cli.methods]
scale = scale_method:Scale

[dora_cli.recipes]
scale = scale_keys
"""


@pytest.fixture(scope="module", name="installed")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """`dora` in a process in which the package that brings the method is installed."""
    modules = [BROUGHT / name for name in ("scale_method.py", "scale_keys.py")]
    with installed(tmp_path_factory.mktemp("site"), modules, ENTRY_POINTS) as run:
        yield run


@pytest.fixture
def recipe(make_recipe: MakeRecipe, tmp_path: Path) -> Path:
    """A recipe of 24 steps that names the method."""
    text = dump_recipe(make_recipe("method={name: head}", "train.learning_rate=0.1", "save.every_steps=4"))
    file = tmp_path / "recipe.yaml"
    file.write_text(text.replace("name: head\n", "name: scale\n  targets: [attention]\n", 1))
    return file


def test_from_training_to_export(installed: Command, recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    planned = installed("train", recipe, "--dry-run").out
    assert "momentum: 0.9" in planned  # the section's default
    installed("train", recipe, "--output", run)
    metrics, ranks = read(run / "metrics.json"), read(run / "ranks.json")
    entries = 4 * 16  # a block of four attention projections, a vector of the width of the model each
    assert metrics["budget"]["adapter_parameters_final"] == entries
    assert f"adapter {entries:,}" in " ".join(planned.split())
    assert (metrics["method"], ranks["layers"], ranks["start_rank"]) == ("scale", [], None)

    evaluated = installed("eval", "--checkpoint", run)
    assert "identical to the run's record" in evaluated.out
    assert "has no ranks to show" in installed("ranks", run).out
    assert "none a rank" in installed("ranks", run, "--history", code=2).err
    installed("report", run, "--output", tmp_path / "report.html")
    installed("predict", "--checkpoint", run, "--split", "validation", "--output", tmp_path / "out.jsonl")

    merged = installed("export", "--checkpoint", run, "--format", "merged", "--output", tmp_path / "merged")
    assert f"{entries:,} parameters" in merged.out
    assert read(tmp_path / "merged" / "dora_export.json")["live_parameters"] == entries
    refused = installed("export", "--checkpoint", run, "--format", "peft", "--output", tmp_path / "peft", code=2)
    assert refused.err.count("\n") == 1
    assert "method scale is no plain LoRA" in refused.err
    assert not (tmp_path / "peft").exists()


def test_killed_and_resumed_bit_for_bit(installed: Command, recipe: Path, tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    installed("train", recipe, "--output", straight)
    installed("train", recipe, "--output", killed, code=-signal.SIGKILL, killed_at=11)
    assert not (killed / "metrics.json").exists()
    installed("train", recipe, "--output", killed, "--resume")
    assert_equal_runs(straight, killed)


def test_its_keys_are_checked_like_all_others(installed: Command, recipe: Path) -> None:
    def refused(*overrides: str) -> str:
        flags = [part for override in overrides for part in ("--set", override)]
        return installed("train", recipe, "--dry-run", *flags, code=2).err

    assert "method.momentum" in refused("method.momentum=1.0")
    assert "did you mean method.momentum?" in refused("method.momentums=0.5")
    assert "needs method.momentum above 0" in refused("method.nesterov=true", "method.momentum=0")
    assert "must be one of dora, lora, head, scale, got the text 'scales'; did you mean scale?" in refused(
        "method={name: scales}"
    )


def test_without_the_package_its_method_is_unknown(recipe: Path) -> None:
    with pytest.raises(ValueError, match="must be one of dora, lora, head"):
        load_recipe(recipe)


@pytest.mark.gpu
def test_captured_on_a_gpu(installed: Command, recipe: Path, tmp_path: Path) -> None:
    """The trial tries this method, its own optimiser included; captured steps give what eager ones do."""
    flags = ["--set", "train.device=cuda", "--set", "train.precision=fp32", "--set", "train.deterministic=true"]
    for name, setting in (("captured", "on"), ("eager", "off")):
        flag = f"train.cuda_graph={setting}"
        installed("train", recipe, "--output", tmp_path / name, *flags, "--set", flag)
    one, two = (read(tmp_path / name / "metrics.json") for name in ("captured", "eager"))
    losses = [[entry["train_loss"] for entry in metrics["epochs"]] for metrics in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
