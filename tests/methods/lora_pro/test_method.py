"""LoRA-Pro behind its contract: its name, keys, moments, memory and bad steps."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dora_cli.assembly.dry_run import dry_run
from dora_cli.errors import CheckpointError, RecipeError
from dora_cli.machine.devices import make_accelerator
from dora_cli.methods import LoraPro
from dora_cli.methods.lora import full_moments
from dora_cli.models import find_projections
from dora_cli.recipe import Recipe, load_recipe
from dora_cli.recipe.methods import arguments
from dora_cli.recipe.methods.lora_pro import LoraProMethod
from dora_cli.training.optimizer import load_moments, make_optimizer, make_scheduler, moments_of
from dora_cli.training.step import TrainingStep
from tests.methods.small import SmallEncoder, linear_maps, new_lora, sites, small_encoder, tiny_roberta

MODES = pytest.mark.parametrize("moments", ["low-rank", "full"])
HEAD = ("head", "classifier")


def new_lora_pro(**settings: Any) -> LoraPro:
    return LoraPro(**(arguments(LoraProMethod()) | settings))


class Run:
    """A model under `TrainingStep`."""

    def __init__(self, method: Any, model: nn.Module, *, rate: float = 1e-2, skip: int = 0, **settings: Any) -> None:
        self.method, self.model = method, model.train().requires_grad_(False)
        places = find_projections(model) if hasattr(model, "config") else sites(linear_maps(model, "blocks"))
        head = [p.requires_grad_() for name, p in model.named_parameters() if name.startswith(HEAD)]
        method.attach(model, places, head, method.plan(200, places), seed=1)
        self.optimizer = make_optimizer(method, learning_rate=rate, weight_decay=0.1, betas=(0.9, 0.999), eps=1e-8)
        device = next(model.parameters()).device
        self.step = TrainingStep(
            model=model,
            method=method,
            loss=self.loss,
            optimizer=self.optimizer,
            scheduler=make_scheduler(self.optimizer, warmup_steps=2, total_steps=200),
            accelerator=make_accelerator(device, "fp32"),
            max_grad_norm=1.0,
            skip_nonfinite=skip,
            **settings,
        )
        self.done = 0

    @staticmethod
    def loss(outputs: Any, batch: Any) -> torch.Tensor:
        logits = getattr(outputs, "logits", outputs)
        if batch["labels"].is_floating_point():
            return (logits - batch["labels"]).square().mean(1)
        return F.cross_entropy(logits, batch["labels"], reduction="none")

    def __call__(self, batch: dict[str, torch.Tensor]) -> None:
        self.done += 1
        self.step(self.done, [batch], len(next(iter(batch.values()))), event=False)

    def everything(self) -> dict[str, torch.Tensor]:
        """Weights and moments."""
        moments = {f"moments.{key}": value.clone() for key, value in moments_of(self.optimizer).items()}
        weights = {name: p.detach().clone() for name, p in self.model.named_parameters() if p.requires_grad}
        return {**weights, **moments}


def batch_of(seed: int = 5, scale: float = 1.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(16, 10, generator=generator, dtype=torch.float64)
    return {"x": scale * x, "labels": torch.randint(3, (16,), generator=generator)}


@MODES
def test_it_is_a_name_for_lora_with_its_gradients(moments: Any) -> None:
    settings = {"rank": 3, "alpha": 6.0, "dropout": 0.0, "moments": moments, "damping": 1e-6}
    named, plain = (
        Run(method, small_encoder()) for method in (new_lora_pro(**settings), new_lora(gradients="pro", **settings))
    )
    for run in (named, plain):
        for seed in range(4):
            run(batch_of(seed))
    for name, tensor in plain.everything().items():
        assert torch.equal(named.everything()[name], tensor)


@pytest.mark.parametrize("moments", ["low-rank", "full"])
@pytest.mark.parametrize("bad", [1, 4])
def test_a_bad_step_changes_nothing(moments: Any, bad: int) -> None:
    """The first one, before which there is no moment, or a later one; training goes on after it."""
    run = Run(new_lora_pro(rank=3, moments=moments), small_encoder(), skip=5)
    for seed in range(bad - 1):
        run(batch_of(seed))
    before = run.everything()
    run(batch_of(scale=float("nan")))
    after = run.everything()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name
    assert not any(tensor.any() for name, tensor in after.items() if name not in before), "AdamW's, made by the step"
    for seed in range(3):
        run(batch_of(seed))
    assert all(tensor.isfinite().all() for tensor in run.everything().values())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in run.everything().items() if name in before)


def test_full_moments_have_the_weights_size_and_no_adapter_holds_them() -> None:
    method = new_lora_pro(rank=2, ranks={"up": 0, "blocks.0.att": 3}, moments="full")
    run = Run(method, small_encoder())
    run(batch_of())
    shapes = {name: tuple(layer.shape) for name, layer in method.state_dict().items()}
    moments = moments_of(run.optimizer)
    large = [value for key, value in moments.items() if key.endswith(("exp_avg", "exp_avg_sq"))]
    weights = [tuple(value.shape) for value in large if value.shape in {(10, 10), (10, 14)}]
    assert sorted(set(weights)) == [(10, 10), (10, 14)]
    assert len(weights) == 2 * 4, "att and down of two blocks; up has rank 0"
    assert all(name.endswith((".A", ".B")) for name in shapes)
    said = method.remarks(sites(linear_maps(small_encoder(), "blocks")))
    entries = sum(2 * d_out * d_in for d_out, d_in in weights[::2])
    assert f"{entries * 8:,} bytes" in said[0], "float64"
    assert sum(value.numel() * 8 for value in large if tuple(value.shape) in set(weights)) == entries * 8
    assert new_lora_pro().remarks(method.sites) == []


def test_full_moments_are_loaded_where_they_lie() -> None:
    """And a run that goes on with them is the run that was not stopped."""
    straight = Run(new_lora_pro(rank=3, moments="full"), small_encoder())
    for seed in range(3):
        straight(batch_of(seed))
    saved = {key: value.clone() for key, value in moments_of(straight.optimizer).items()}
    weights = {name: p.detach().clone() for name, p in straight.model.named_parameters() if p.requires_grad}
    other = Run(new_lora_pro(rank=3, moments="full"), small_encoder())
    load_moments(other.optimizer, saved)
    with torch.no_grad():
        for name, parameter in other.model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(weights[name])
    other.done = straight.done
    for run in (straight, other):
        run(batch_of(9))
    for name, tensor in straight.everything().items():
        assert torch.equal(other.everything()[name], tensor), name


def test_how_many_weights_are_worked_on_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    for at_once in (full_moments._AT_ONCE, 1):
        monkeypatch.setattr(full_moments, "_AT_ONCE", at_once)
        runs.append(Run(new_lora_pro(rank=3, moments="full"), small_encoder()))
        for seed in range(3):
            runs[-1](batch_of(seed))
    together, alone = (run.everything() for run in runs)
    for name, tensor in together.items():
        torch.testing.assert_close(alone[name], tensor, rtol=1e-9, atol=1e-12)


def test_a_dry_run_says_what_full_moments_take(tmp_path: Any) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "task: glue/sst2\nmodel: {name: builtin:tiny-encoder}\ndata: {source: builtin}\nmethod: {name: lora-pro}\n"
    )
    ahead = [dry_run(load_recipe(path, [f"method.moments={moments}"])) for moments in ("low-rank", "full")]
    low_rank, full = ("\n".join(text for _, text in found.rows) for found in ahead)
    # three blocks of four projections of 96 to 96, one of 96 to 288 and one back
    assert f"{2 * 4 * 3 * (4 * 96 * 96 + 2 * 96 * 288):,} bytes" in full
    assert "bytes" not in low_rank


@pytest.mark.parametrize("damage", ["shape", "missing", "not finite"])
def test_damaged_full_moments_are_refused(damage: str) -> None:
    run = Run(new_lora_pro(rank=3, moments="full"), small_encoder())
    run(batch_of())
    saved = {key: value.clone() for key, value in moments_of(run.optimizer).items()}
    if damage == "shape":
        saved["0.exp_avg"] = saved["0.exp_avg"][:3]
    if damage == "missing":
        del saved["0.exp_avg"]
    if damage == "not finite":
        saved["0.exp_avg"][0, 0] = torch.nan
    with pytest.raises(CheckpointError, match=r"0\."):
        load_moments(run.optimizer, saved)


@pytest.mark.parametrize(
    ("keys", "blamed"),
    [
        ("name: lora, gradients: pro, learning_rate_ratio: 4", "method.learning_rate_ratio"),
        ("name: lora, moments: full", "method.moments"),
        ("name: lora, gradients: riemannian, moments: full", "method.moments"),
        ("name: lora, damping: 1.0e-3", "method.damping"),
        ("name: lora, gradients: pro, damping: 0", "method.damping"),
        ("name: lora-pro, rank: 8, ranks: {a: 2}, ranks_from: runs/other", "method.ranks"),
        ("name: lora-pro, learning_rate_ratio: 4", "method.learning_rate_ratio"),
    ],
)
def test_keys_that_do_not_go_together(keys: str, blamed: str, tmp_path: Any) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"task: glue/rte\nmodel: {{name: builtin:tiny-encoder}}\nmethod: {{{keys}}}\n")
    with pytest.raises(RecipeError, match=blamed):
        load_recipe(path)


def test_riemannian_gradients_go_with_a_ratio_of_rates(tmp_path: Any) -> None:
    path, method = tmp_path / "recipe.yaml", "{name: lora, gradients: riemannian, learning_rate_ratio: 4}"
    path.write_text(f"task: glue/rte\nmodel: {{name: builtin:tiny-encoder}}\nmethod: {method}\n")
    assert isinstance(load_recipe(path), Recipe)


@pytest.mark.parametrize(
    "settings", [{"gradients": "pro"}, {"gradients": "pro", "moments": "full"}, {"gradients": "riemannian"}]
)
def test_a_teacher_with_changed_projections_is_learned(settings: dict[str, Any]) -> None:
    """Far better than by the head alone, for which a least-squares fit stands here: nothing can do it better."""
    torch.manual_seed(0)
    student = SmallEncoder()
    teacher, x = copy.deepcopy(student), torch.randn(128, 10)
    with torch.no_grad():
        for block in teacher.blocks:  # a change of rank 2 in each of two projections
            for weight in (block.att.weight, block.down.weight):
                weight += torch.linalg.qr(torch.randn(len(weight), 2))[0] @ torch.randn(2, weight.shape[1]) / 2
        wanted, read = teacher(x), x
        for block in student.blocks:
            read = block(read)
        features = torch.cat([read, torch.ones(128, 1)], 1)
        head_alone = F.mse_loss(features @ torch.linalg.lstsq(features, wanted).solution, wanted)
    run = Run(new_lora(rank=4, alpha=8.0, dropout=0.0, **settings), student)
    for _ in range(120):
        run({"x": x, "labels": wanted})
    assert float(F.mse_loss(run.model(x), wanted).detach()) < float(head_alone) / 4


@pytest.mark.gpu
@pytest.mark.parametrize("moments", ["low-rank", "full"])
def test_captured_steps_are_the_eager_ones(moments: Any) -> None:
    found = []
    for graph in (False, True):
        model = tiny_roberta(dtype=torch.float32).cuda()
        run = Run(new_lora_pro(rank=3, moments=moments, damping=1e-4), model, rate=1e-3, cuda_graph=graph)
        ids = torch.randint(3, 40, (8, 6), generator=torch.Generator().manual_seed(4)).cuda()
        for _ in range(20):
            run({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % 3})
        found.append(run.everything())
    eager, captured = found
    for name, tensor in eager.items():
        torch.testing.assert_close(captured[name], tensor, rtol=1e-3, atol=1e-4)
