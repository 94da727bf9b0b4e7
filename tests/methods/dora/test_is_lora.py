"""DoRA with LoRA's start, fixed gates, nothing to prune and no regulariser is LoRA, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dora_cli import train
from tests.training.conftest import MakeRecipe, make_recipe, tiny_model
from tests.training.test_run import lines, read

__all__ = ["make_recipe", "tiny_model"]

PLAIN = "start: lora, gates: fixed, start_rank: 3, dem_weight: 0"
LAST = "checkpoints/step-12"  # of DoRA only epochs after the freeze are selected
SMALL = (
    "data.max_train_samples=46",
    "data.max_eval_samples=16",
    "train.batch_size=8",
    "train.epochs=2",
    "train.log_every=1",
)


@pytest.mark.parametrize(
    ("seed", "common", "overrides"),
    [
        (1, "dropout: 0.2", ()),
        (2, "dropout: 0.2, learning_rate_ratio: 4", ("train.batch_size=4", "train.gradient_accumulation=2")),
        (3, "dropout: 0.1, flatness: 0.2", ()),
        (4, "dropout: 0.2, learning_rate_ratio: 0.5", ("train.precision=bf16",)),
        (5, "dropout: 0.2, gradients: pro", ()),
        (6, "dropout: 0.2, learning_rate_ratio: 2, gradients: riemannian, damping: 0.05", ()),
        (7, "dropout: 0.2, step_bound: 2.0e-4", ()),
    ],
    ids=["dropout", "rates", "noise", "bf16", "pro", "riemannian", "held"],
)
def test_a_run_is_that_of_lora_bit_for_bit(
    make_recipe: MakeRecipe,
    tmp_path: Path,
    seed: int,
    common: str,
    overrides: tuple[str, ...],
) -> None:
    for name, own in (("lora", ""), ("dora", f", {PLAIN}, events: 3")):
        method = f"method={{name: {name}, rank: 3, alpha: 6, {common}{own}}}"
        recipe = make_recipe(method, *SMALL, *overrides, f"train.seed={seed}")
        train(recipe, tmp_path / name)
    for file in ("adapter", "head"):
        lora, dora = (load_file(tmp_path / name / LAST / f"{file}.safetensors") for name in ("lora", "dora"))
        assert lora.keys() == dora.keys() - {"scores", "keep", "frozen", "compacted"}
        for key, value in lora.items():
            assert torch.equal(value, dora[key]), key
            assert file == "head" or value.any(), "it has been trained"
    lora, dora = (
        [
            (line["loss"], line["grad_norm"], line["learning_rate"])
            for line in lines(tmp_path / name / "log.jsonl")
            if line["type"] == "train"
        ]
        for name in ("lora", "dora")
    )
    assert lora == dora
    lora, dora = (read(tmp_path / name / "metrics.json") for name in ("lora", "dora"))
    assert [epoch["metrics"] for epoch in lora["epochs"]] == [epoch["metrics"] for epoch in dora["epochs"]]
    assert lora["budget"]["adapter_parameters_final"] == dora["budget"]["adapter_parameters_final"]
