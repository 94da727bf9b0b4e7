"""Losses that are not finite, planted at known steps: nothing moves there, and the run ends at exactly the one too
many.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from dora_cli import train
from dora_cli.errors import DivergedError
from dora_cli.methods import Dora
from dora_cli.recipe import dump_recipe
from dora_cli.runs.run_folder import RunRecords
from dora_cli.training.checkpoint import newest_checkpoint
from dora_cli.training.step import TrainingStep
from tests.commands.conftest import dora
from tests.runs.test_resume import assert_equal_runs
from tests.training.conftest import MakeRecipe
from tests.training.test_run import lines, read

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
# Losses are planted from Python, which a captured step would not see.
STEADY = ("method.dropout=0.1", "train.deterministic=true", "train.precision=fp32", "train.cuda_graph=off")
Moved = dict[int, bool]
"""Whether a step changed anything: weights, moments or scores."""


def state_of(step: TrainingStep) -> list[torch.Tensor]:
    """Weights, moments with their step counters, and scores."""
    parameters = [parameter for group in step.optimizer.param_groups for parameter in group["params"]]
    moments = [
        value for parameter in parameters for _, value in sorted(step.optimizer.state.get(parameter, {}).items())
    ]
    scores = [step.method._selection.scores] if isinstance(step.method, Dora) else []
    return [tensor.detach().clone() for tensor in (*parameters, *moments, *scores)]


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[int, float]], Moved]:
    """Makes the losses of given steps infinite or not a number; says afterwards which steps moved anything."""
    plain = TrainingStep.__call__

    def plant(values: Mapping[int, float]) -> Moved:
        moved: Moved = {}

        def call(self: TrainingStep, step: int, micro_batches: Sequence[Any], units: int, *, event: bool) -> Any:
            loss = self.loss
            if step in values:
                self.loss = lambda outputs, batch: loss(outputs, batch) * values[step]
            before = state_of(self)
            try:
                return plain(self, step, micro_batches, units, event=event)
            finally:
                self.loss = loss
                after = state_of(self)
                # the optimiser makes its moments at the first step, and an event shrinks tensors
                alike = len(before) == len(after) and all(
                    one.shape == two.shape for one, two in zip(before, after, strict=True)
                )
                moved[step] = not alike or any(
                    not torch.equal(one, two) for one, two in zip(before, after, strict=True)
                )

        monkeypatch.setattr(TrainingStep, "__call__", call)
        return moved

    return plant


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("step", "value", "where", "noticed", "saved"),
    [
        # the flag is read at logged steps (5, 10, ...), before events (9, 11), at epochs' ends (6, 12, ...) and before
        # saving
        (2, NAN, r"epoch 1, batch 2 of 6", 5, None),
        (7, INF, r"epoch 2, batch 1 of 6", 9, 6),
        (16, -INF, r"epoch 3, batch 4 of 6", 18, 12),
        (24, NAN, r"epoch 4, batch 6 of 6", 24, 18),
    ],
)
def test_the_step_is_named_and_nothing_moves(
    make_recipe: MakeRecipe,
    plant: Callable[[Mapping[int, float]], Moved],
    tmp_path: Path,
    device: str,
    step: int,
    value: float,
    where: str,
    noticed: int,
    saved: int | None,
) -> None:
    moved = plant({step: value})
    recipe = make_recipe(*STEADY, f"train.device={device}")
    # 5e-3 from the second step on (one step of warm-up), falling to 0 over 23 steps
    rate = f"{5e-3 * (24 - (step - 1)) / 23:.3g}"
    with pytest.raises(
        DivergedError,
        match=rf"step {step} \({where}\) .* {rate}; .* step {noticed}\b",
    ):
        train(recipe, tmp_path / "run")
    assert [number for number, any_change in moved.items() if not any_change] == list(range(step, noticed + 1))
    if saved is None:
        assert not (tmp_path / "run" / "checkpoints").exists()
    else:
        assert newest_checkpoint(RunRecords(tmp_path / "run")).snapshot.progress["at"]["step"] == saved


@pytest.mark.parametrize("device", DEVICES)
def test_an_epoch_of_which_nothing_is_left(
    make_recipe: MakeRecipe, plant: Callable[[Mapping[int, float]], Moved], tmp_path: Path, device: str
) -> None:
    plant(dict.fromkeys(range(7, 13), NAN))
    overrides = (*STEADY, f"train.device={device}", "train.skip_nonfinite=6")
    result = train(make_recipe(*overrides), tmp_path / "run")
    losses = [entry["train_loss"] for entry in read(tmp_path / "run" / "metrics.json")["epochs"]]
    assert [loss is None for loss in losses] == [False, True, False, False]
    before, after = (epoch["metrics"] for epoch in result.metrics["epochs"][:2])
    assert before["accuracy"] == after["accuracy"]
    assert before["loss"] == pytest.approx(after["loss"], abs=1e-4)  # pruning goes on


@pytest.mark.parametrize(("method", "noticed"), [("dora", 9), ("head", 24)])
def test_a_run_in_which_no_step_learns_anything_is_no_result(
    make_recipe: MakeRecipe, plant: Callable[[Mapping[int, float]], Moved], tmp_path: Path, method: str, noticed: int
) -> None:
    """However many steps may pass: found at the first event, or at the end where there is none."""
    plant(dict.fromkeys(range(1, 25), NAN))
    changes = ("method={name: head}",) if method == "head" else ()
    with pytest.raises(DivergedError, match=f" {noticed} .*train.skip_nonfinite"):
        train(make_recipe(*STEADY, *changes, "train.device=cpu", "train.skip_nonfinite=1000"), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.parametrize("device", DEVICES)
def test_so_many_are_let_pass(
    make_recipe: MakeRecipe, plant: Callable[[Mapping[int, float]], Moved], tmp_path: Path, device: str
) -> None:
    """Three, in warm-up, while pruning and at the end of an epoch after the freeze; means leave them out."""
    moved = plant({2: NAN, 8: INF, 18: NAN})
    result = train(
        make_recipe(*STEADY, f"train.device={device}", "train.skip_nonfinite=3", "train.log_every=1"), tmp_path / "run"
    )
    assert [step for step, any_change in moved.items() if not any_change] == [2, 8, 18]
    assert result.metrics["budget"]["live_components"] == 12
    assert all(entry["train_loss"] > 0 for entry in result.metrics["epochs"])
    steps = [entry for entry in lines(tmp_path / "run" / "log.jsonl") if entry["type"] == "train"]
    assert [entry["step"] for entry in steps if entry["loss"] is None] == [2, 8, 18], "there is no mean over no step"
    assert [entry["step"] for entry in steps if entry["grad_norm"] is None] == [2, 8, 18]
    epoch = [entry["loss"] for entry in steps[:6] if entry["loss"] is not None]
    # the last batch of the epoch is smaller: 14 of 16 examples; step 2 and its 16 are left out
    assert result.metrics["epochs"][0]["train_loss"] == pytest.approx(
        (16 * sum(epoch[:4]) + 14 * epoch[4]) / 78, rel=1e-5
    )


@pytest.mark.parametrize("device", DEVICES)
def test_one_more_ends_the_run_which_goes_on_from_before(
    make_recipe: MakeRecipe,
    plant: Callable[[Mapping[int, float]], Moved],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
) -> None:
    """Two are let pass and the third is not; what was counted is counted on after the interruption."""
    recipe = make_recipe(*STEADY, f"train.device={device}", "train.skip_nonfinite=2", "save.every_steps=1")
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    command = ("train", tmp_path / "recipe.yaml", "--output", tmp_path / "run")
    plant({4: NAN, 10: INF, 17: NAN})
    done = dora(*command)
    assert done.code == 3
    assert re.search(r"step 17 \(epoch 3, batch 5 of 6\) .* 2 that train\.skip_nonfinite .* step 17\b", done.err)
    assert "Traceback" not in done.err
    assert newest_checkpoint(RunRecords(tmp_path / "run")).snapshot.progress["at"]["step"] == 16
    assert not (tmp_path / "run" / "metrics.json").exists()
    again = dora(*command, "--resume")
    assert again.code == 3, "the same step, counted on"
    assert "step 17 (epoch 3, batch 5 of 6)" in again.err
    monkeypatch.undo()
    assert dora(*command, "--resume").code == 0
    with pytest.MonkeyPatch.context() as patch:
        plain = TrainingStep.__call__

        def call(self: TrainingStep, step: int, *arguments: Any, **options: Any) -> Any:
            loss = self.loss
            if step in (4, 10):
                self.loss = lambda outputs, batch: loss(outputs, batch) * NAN
            try:
                return plain(self, step, *arguments, **options)
            finally:
                self.loss = loss

        patch.setattr(TrainingStep, "__call__", call)
        train(recipe, tmp_path / "straight")
    assert_equal_runs(tmp_path / "straight", tmp_path / "run")
    assert read(tmp_path / "run" / "metrics.json")["budget"]["live_components"] == 12


@pytest.mark.parametrize("device", DEVICES)
def test_no_ranks_are_chosen_by_scores_that_are_not_finite(
    make_recipe: MakeRecipe, tmp_path: Path, device: str
) -> None:
    """A hopeless learning rate, and every step may pass: losses say nothing, scores do."""
    recipe = make_recipe(
        f"train.device={device}",
        "train.skip_nonfinite=1000",
        "train.learning_rate=1.0e30",
        "train.lr_warmup_fraction=0",
        "train.precision=fp32",
    )
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    done = dora("train", tmp_path / "recipe.yaml", "--output", tmp_path / "run")
    assert (done.code, "Traceback" in done.err) == (3, False), done.err
    assert "diverged" in done.err
    seeds = dora("train", tmp_path / "recipe.yaml", "--output", tmp_path / "seeds", "--seeds", "1,2")
    assert seeds.code == 3
    assert all("--overwrite" in told.err for told in (done, seeds)), "the folder will be refused without it"
    saved = [path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*")]
    assert saved in ([], ["step-6"]), "the first event is that of step 9"
    assert not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("where", "value"), [("adapters", NAN), ("head", INF)])
def test_nothing_is_saved_of_weights_that_are_not_finite(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, value: float, where: str
) -> None:
    """They become so in step 14, after the freeze, where no event would look; the epoch's checkpoint,
    of step 18, does.
    """
    plain = TrainingStep.__call__

    def call(self: TrainingStep, step: int, *arguments: Any, **options: Any) -> Any:
        report = plain(self, step, *arguments, **options)
        if step == 14:
            with torch.no_grad():
                self._parameters[0 if where == "adapters" else -1].view(-1)[0] = value
        return report

    monkeypatch.setattr(TrainingStep, "__call__", call)
    recipe = make_recipe(*STEADY, f"train.device={device}", "train.skip_nonfinite=1000")
    with pytest.raises(DivergedError):
        train(recipe, tmp_path / "run")
    assert newest_checkpoint(RunRecords(tmp_path / "run")).snapshot.progress["at"]["step"] == 12
