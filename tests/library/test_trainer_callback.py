"""DoRA under transformers' own Trainer."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainingArguments

from dora_cli import DoraCallback, attach, load_adapter
from dora_cli.errors import BudgetError, CheckpointError, DeviceError, DoraError, ModelError, RecipeError
from dora_cli.library.own_loop import shrink
from dora_cli.methods.dora import AdaptedProjection
from tests.library.test_own_loop import PROJECTIONS, SETTINGS, T, bert, trainable

BATCH = 4


class Rows(IterableDataset):  # type: ignore[type-arg]
    """Always the same rows in the same order."""

    def __iter__(self) -> Any:
        generator = torch.Generator().manual_seed(7)
        for _ in range(T * BATCH * 2):
            ids = torch.randint(40, (10,), generator=generator)
            yield {"input_ids": ids, "labels": int(ids[0]) % 3}


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    settings: dict[str, Any] = {
        "output_dir": str(folder), "max_steps": T, "per_device_train_batch_size": BATCH, "use_cpu": True,
        "save_strategy": "no",
        "report_to": [], "disable_tqdm": True, "logging_steps": 1, "max_grad_norm": 0.5,
    }  # fmt: skip
    return TrainingArguments(**(settings | changes))


def optimisers(model: Any) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = torch.optim.AdamW(trainable(model), lr=1e-2, weight_decay=0.01)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)


def make(folder: Path, model: Any, method: Any, **changes: Any) -> Trainer:
    return Trainer(
        model,
        arguments(folder, **changes),
        train_dataset=Rows(),
        callbacks=[DoraCallback(method)],
        optimizers=optimisers(model),
    )


@dataclass(frozen=True)
class Saved:
    """A training whose Trainer has saved every fifth step; nobody changes it."""

    folder: Path
    base: Any
    model: Any
    method: Any


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    folder, model = tmp_path_factory.mktemp("saved"), bert()
    base = copy.deepcopy(model)
    method = attach(model, **SETTINGS)
    make(folder, model, method, save_strategy="steps", save_steps=T // 4).train()
    return Saved(folder, base, model.eval(), method)


def by_hand(model: Any, method: Any, accumulation: int) -> list[float]:
    """The Trainer's order: clipping comes before the method."""
    rows, losses = iter(Rows()), []
    optimizer, _ = optimisers(model)
    model.train()
    for step in range(1, T + 1):
        total = 0.0
        for _ in range(accumulation):
            batch = [next(rows) for _ in range(BATCH)]
            loss = model(
                input_ids=torch.stack([row["input_ids"] for row in batch]),
                labels=torch.tensor([row["labels"] for row in batch]),
            ).loss
            (loss / accumulation).backward()
            total += float(loss.detach()) / accumulation
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        method.adjust_gradients()
        optimizer.step()
        shrink(optimizer, method.after_step(step))
        model.zero_grad()
        losses.append(total)
    return losses


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_trainer_and_the_same_loop_by_hand_agree(tmp_path: Path, accumulation: int) -> None:
    model = bert()
    method = attach(model, warn_after=3, **SETTINGS)  # two passes a step are no reason to warn
    other = copy.deepcopy(model)
    twin = other.__dict__["_dora_method"]
    trainer = make(tmp_path, model, method, gradient_accumulation_steps=accumulation)
    # else it leaves the division by the accumulation to BERT, which makes none
    trainer.model_accepts_loss_kwargs = False
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=".*(pin_memory|lr_scheduler).*")
        trainer.train()
    assert method.frozen
    assert method.last_step == T
    assert sum(item.rank for item in method.allocation()) == 2 * PROJECTIONS
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert len(losses) == T
    assert all(torch.tensor(losses).isfinite())
    assert losses == pytest.approx(by_hand(other, twin, accumulation), abs=2e-4)
    assert [item.rank for item in twin.allocation()] == [item.rank for item in method.allocation()]
    theirs = dict(other.named_parameters())
    assert any(isinstance(module, AdaptedProjection) for module in model.modules())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, theirs[name], atol=1e-6, rtol=1e-5)
    held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in trainable(model)}


def test_the_trainer_saves_the_adapters(saved: Saved) -> None:
    """Before the freeze and after it: a file holds every tensor of the model."""
    held = load_file(saved.folder / f"checkpoint-{T // 4 * 4}" / "model.safetensors")
    assert (saved.folder / f"checkpoint-{T // 4}").is_dir()
    assert any(name.endswith(".B") for name in held)
    assert all(torch.equal(held[name], parameter) for name, parameter in saved.model.named_parameters())


def test_the_callback_writes_adapters_beside_the_trainers_checkpoints(saved: Saved) -> None:
    """From before the freeze at 10 for `load_adapter` alone, afterwards for PEFT too."""
    from peft import PeftModel

    early, last = saved.folder / "checkpoint-5" / "adapter", saved.folder / f"checkpoint-{T}" / "adapter"
    assert not (early / "adapter_config.json").exists()
    batch = {
        key: torch.tensor([row[key]]) if key == "labels" else row[key][None]
        for row in [next(iter(Rows()))]
        for key in row
    }
    with torch.no_grad():
        expected = saved.model(**batch).logits
        again = copy.deepcopy(saved.base)
        with pytest.raises(CheckpointError, match=r"\(step 5\).*allow_unfrozen=True"):
            load_adapter(early, again)
        load_adapter(early, again, allow_unfrozen=True)
        assert not torch.equal(again.eval()(**batch).logits, expected)
        again = copy.deepcopy(saved.base)
        load_adapter(last, again)
        assert torch.equal(again.eval()(**batch).logits, expected)
        theirs = PeftModel.from_pretrained(copy.deepcopy(saved.base), last).eval()
        torch.testing.assert_close(theirs(**batch).logits, expected, atol=1e-6, rtol=0)
    assert {path.suffix for path in last.iterdir()} == {".json", ".safetensors"}
    assert (
        sum(path.stat().st_size for path in last.glob("*.safetensors"))
        < (last.parent / "model.safetensors").stat().st_size
    )


def test_the_trainers_own_optimiser_and_epochs_work_too(tmp_path: Path) -> None:
    rows = [row for row, _ in zip(Rows(), range(BATCH * T // 2), strict=False)]
    model = bert()
    method = attach(model, **SETTINGS)
    callback = DoraCallback(method)
    settings = arguments(tmp_path, max_steps=-1, num_train_epochs=2, learning_rate=1e-2)
    Trainer(model, settings, train_dataset=rows, callbacks=[callback]).train()  # type: ignore[arg-type]
    assert sum(item.rank for item in method.allocation()) == 2 * PROJECTIONS
    assert callback.report is not None
    assert (callback.report.phase, callback.report.live) == ("final", 2 * PROJECTIONS)


def test_another_number_of_steps_is_an_error_that_names_both(tmp_path: Path) -> None:
    model = bert()
    trainer = make(tmp_path, model, attach(model, **SETTINGS), max_steps=T + 5)
    with pytest.raises(BudgetError, match=rf"total_steps={T}, but the Trainer makes {T + 5} optimiser steps"):
        trainer.train()


def begin(callback: DoraCallback, model: Any, optimizer: Any, **settings: Any) -> None:
    """What the Trainer does before the first step, as far as the callback is concerned."""
    arguments: Any = SimpleNamespace(world_size=1, max_grad_norm=1.0)
    for name, value in settings.items():
        setattr(arguments, name, value)
    state: Any = SimpleNamespace(max_steps=T, global_step=0)
    control: Any = None
    callback.on_train_begin(arguments, state, control, model=model, optimizer=optimizer)


def test_a_second_training_is_refused(saved: Saved) -> None:
    with pytest.raises(BudgetError, match=rf"starts after step 0, but the method has made {T}"):
        begin(DoraCallback(saved.method), saved.model, optimisers(saved.model)[0])


def test_the_model_and_the_optimiser_must_be_those_of_the_method() -> None:
    model, other = bert(), bert()
    method = attach(model, **SETTINGS)
    with pytest.raises(ModelError, match="not the one that the method is attached to"):
        begin(DoraCallback(method), other, optimisers(other)[0])
    early = bert()
    optimizer, _ = optimisers(early)
    with pytest.raises(ModelError, match="optimiser does not hold the adapters"):
        begin(DoraCallback(attach(early, **SETTINGS)), early, optimizer)


REFUSED: list[tuple[dict[str, Any], type[DoraError], str]] = [
    ({"world_size": 2}, DeviceError, "2 processes.*compact=False"),
    ({"deepspeed": "zero3.json"}, DeviceError, "shards the model"),
    ({"fp16": True, "max_grad_norm": 0.0}, RecipeError, "still be scaled"),
    ({"load_best_model_at_end": True}, RecipeError, "load_best_model_at_end"),
]


@pytest.mark.parametrize(("changes", "error", "says"), REFUSED)
def test_what_cannot_work_is_refused_before_the_first_step(
    changes: dict[str, Any], error: type[DoraError], says: str
) -> None:
    model = bert()
    callback = DoraCallback(attach(model, **SETTINGS))
    begin(callback, model, optimisers(model)[0])
    with pytest.raises(error, match=says):
        begin(callback, model, optimisers(model)[0], **changes)


def test_an_early_end_is_said(tmp_path: Path) -> None:
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step == 5

    model = bert()
    method = attach(model, **SETTINGS)
    trainer = make(tmp_path, model, method)
    trainer.add_callback(Stop())
    with pytest.warns(UserWarning, match="ended at step 5, before the freeze at 10: the ranks are not final"):
        trainer.train()


def test_a_step_that_the_scaler_skipped_changes_no_score() -> None:
    model = bert()
    method = attach(model, **SETTINGS)
    callback = DoraCallback(method)
    optimizer = SimpleNamespace(step_was_skipped=True, param_groups=[], state={})
    with torch.no_grad():
        method.parameters()[2].fill_(1.0)
    callback.on_optimizer_step(None, SimpleNamespace(global_step=0), None, optimizer=optimizer)
    assert not method.state_dict()["scores"].any()
    optimizer.step_was_skipped = False
    callback.on_optimizer_step(None, SimpleNamespace(global_step=1), None, optimizer=optimizer)
    assert method.state_dict()["scores"].any()
