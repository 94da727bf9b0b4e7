"""The demonstration does what its recipe and the README promise: the slowest test, one whole run of it (about 30 s on one core)."""

from __future__ import annotations

from pathlib import Path

from dora_cli import load_recipe, train

RECIPE = Path(__file__).parents[1] / "configs" / "demo" / "sst2.yaml"


def test_dora_passes_090_and_the_head_alone_stays_015_below(tmp_path: Path) -> None:
    dora = train(load_recipe(RECIPE), tmp_path / "dora").metrics
    assert dora["metrics"]["accuracy"] > 0.9
    assert dora["budget"]["live_components"] == dora["budget"]["final_components"] == 72

    # As many steps, its best learning rate of a grid from 3e-4 to 1e-1 (and the recipe's own), and its best epoch.
    for rate in ("7.0e-3", "1.0e-2"):
        overrides = ["method={name: head}", f"train.learning_rate={rate}", "eval.select=best"]
        head = train(load_recipe(RECIPE, overrides), tmp_path / f"head-{rate}").metrics
        assert head["epochs"][-1]["step"] == dora["epochs"][-1]["step"] == 1000
        assert head["metrics"]["accuracy"] <= dora["metrics"]["accuracy"] - 0.15
