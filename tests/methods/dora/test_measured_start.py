"""Starts whose directions are measured before the first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dora_cli import train
from dora_cli.assembly.dry_run import dry_run
from dora_cli.errors import ModelError
from dora_cli.evaluation.calibration import Calibrator
from dora_cli.methods import Dora
from dora_cli.methods.base import Calibration, Measured
from tests.methods.small import SmallEncoder, classification, linear_maps, new_dora, sites, small_encoder
from tests.runs.test_resume import Runs
from tests.training.conftest import MakeRecipe, make_recipe, tiny_model

__all__ = ["make_recipe", "tiny_model"]

RANK = 3


def attached(model: SmallEncoder, **settings: Any) -> Dora:
    dora = new_dora(rank=2, start_rank=RANK, gates="fixed", dropout=0.0, dem_weight=0.0, **settings)
    model.requires_grad_(False)
    dora.attach(model, sites(linear_maps(model, "blocks")), seed=1)
    return dora


def gradients_of(model: SmallEncoder, classes: int = 3) -> dict[str, torch.Tensor]:
    """Those of whole weights, ``(d_out, d_in)``."""
    weights = {name: module.weight for name, module in linear_maps(model, "blocks").items()}
    found = torch.autograd.grad(
        classification(classes=classes)(model), [weight.requires_grad_() for weight in weights.values()]
    )
    return {name: g.T if name.endswith("up") else g for name, g in zip(weights, found, strict=True)}


def test_the_first_step_of_B_is_the_best_of_its_rank() -> None:
    """Gradient descent moves every weight along the best approximation of its gradient; none other of that rank is
    nearer (Eckart-Young).
    """
    torch.manual_seed(0)
    model = SmallEncoder(classes=5).double()  # the last gradient has one direction less than there are classes
    gradients = gradients_of(model, 5)
    dora = attached(model, start="gradient")
    assert dora.calibration() == Calibration("gradients", 256)
    loss_of = classification(classes=5)
    before = loss_of(model)
    dora.calibrate(Measured(gradients={name: g.clone() for name, g in gradients.items()}))
    assert torch.equal(loss_of(model), before), "the start computes what the base does"
    loss_of(model).backward()
    for site in dora.sites:
        layer, g = dora._adapters.layers[site.name], gradients[site.name]
        assert layer.B.grad is not None
        with torch.no_grad():
            layer.B.sub_(layer.B.grad)
        U, S, Vh = torch.linalg.svd(g)
        best = (U[:, :RANK] * S[:RANK]) @ Vh[:RANK]
        moved = dora.delta(site, torch.float64)
        torch.testing.assert_close(moved, -(dora.scaling**2) * best / 3, rtol=1e-6, atol=1e-12)


def test_a_start_by_inputs_reads_as_much_of_them_as_it_can() -> None:
    model = small_encoder()
    dora = attached(model, start="inputs", calibration_examples=7)
    assert dora.calibration() == Calibration("inputs", 7)
    moments = {}
    for site in dora.sites:
        x = torch.randn(40, site.shape[1], dtype=torch.float64) @ torch.diag(
            torch.logspace(0, -2, site.shape[1]).double()
        )
        moments[site.name] = x.T @ x / 40
    dora.calibrate(Measured(inputs=moments))
    for site in dora.sites:
        A, C = dora._adapters.layers[site.name].A.detach(), moments[site.name]
        read = float((A @ C @ A.T).trace()) * 3
        assert read == pytest.approx(float(torch.linalg.eigvalsh(C)[-RANK:].sum()), rel=1e-9)


def test_all_processes_take_what_the_first_has_computed() -> None:
    dora = attached(small_encoder(), start="inputs")
    shared = {id(tensor) for tensor in dora.computed_start()}
    assert shared == {id(layer.A) for layer in dora._adapters.layers.values()}
    drawn = attached(small_encoder(), start="lora")
    assert drawn.calibration() is None
    assert not drawn.computed_start()


def test_what_is_not_finite_is_refused_by_name() -> None:
    model = small_encoder()
    dora = attached(model, start="gradient")
    gradients = gradients_of(small_encoder())
    gradients["blocks.1.down"][0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"blocks\.1\.down"):
        dora.calibrate(Measured(gradients=gradients))


@pytest.mark.parametrize("start", ["gradient", "inputs"])
def test_it_is_measured_once_and_never_on_a_resume(
    make_recipe: MakeRecipe,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    start: str,
) -> None:
    """And what is measured decides: the run is another than LoRA's start gives."""
    wanted: list[str] = []
    plain = Calibrator.__call__

    def call(self: Calibrator, what: Calibration) -> Measured:
        wanted.append(f"{what.kind} {what.examples}")
        return plain(self, what)

    monkeypatch.setattr(Calibrator, "__call__", call)
    method = "{{name: dora, rank: 2, gates: fixed, dem_weight: 0, targets: [attention], start: {}}}"
    common = ("data.max_train_samples=46", "data.max_eval_samples=16", "train.batch_size=8", "save.every_steps=1")
    recipe = make_recipe(f"method={method.format(start)}", *common)
    said = " ".join(text for _, text in dry_run(recipe).rows)
    assert "46 training examples before the first step" in said
    runs = Runs(tmp_path_factory)
    runs.cut(recipe, tmp_path / "run", step=4)
    assert wanted == [f"{'gradients' if start == 'gradient' else 'inputs'} 256"]
    train(recipe, tmp_path / "run", resume=True)
    assert len(wanted) == 1
    other = make_recipe(f"method={method.format('lora')}", *common)
    assert "before the first step" not in " ".join(text for _, text in dry_run(other).rows)
    train(other, tmp_path / "lora")
    assert len(wanted) == 1
    adapters = [(tmp_path / name / "adapter" / "adapter.safetensors").read_bytes() for name in ("run", "lora")]
    assert adapters[0] != adapters[1]
