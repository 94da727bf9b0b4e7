"""What a checkpoint's numbers mean to the run that goes on."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from dora_cli.assembly.length import RunLength
from dora_cli.errors import CheckpointError
from dora_cli.runs.run_folder import RunRecords
from dora_cli.training.checkpoint import newest_checkpoint, position_in

LENGTH = RunLength(examples=12, global_batch=4, steps_per_epoch=3, total_steps=8, epochs=3, lr_warmup=0)


@pytest.mark.parametrize(
    ("step", "epoch", "groups", "trained"),
    [(2, 1, 2, False), (3, 1, 3, True), (3, 2, 0, False), (7, 3, 1, False), (8, 3, 2, True), (8, 4, 0, False)],
)
def test_an_epoch_whose_steps_were_all_skipped_is_trained_all_the_same(
    step: int, epoch: int, groups: int, trained: bool
) -> None:
    """Its mean loss is undefined, which is null in JSON; the last epoch has two steps."""
    at = position_in({"at": {"step": step, "epoch": epoch, "groups": groups, "train_loss": None}}, LENGTH)
    assert (at.step, at.epoch, at.groups) == (step, epoch, groups)
    assert (at.train_loss is not None and math.isnan(at.train_loss)) == trained


def test_a_loss_that_is_known_stays() -> None:
    assert position_in({"at": {"step": 3, "epoch": 1, "groups": 3, "train_loss": 0.5}}, LENGTH).train_loss == 0.5


def test_checkpoints_that_are_none_are_named_with_what_is_wrong(tmp_path: Path) -> None:
    run = RunRecords(tmp_path)
    (run.checkpoints / "step-3").mkdir(parents=True)
    with pytest.raises(CheckpointError) as caught:
        newest_checkpoint(run)
    first, second = str(caught.value).splitlines()
    assert first == (
        f"{tmp_path} has no checkpoint that a run can go on from; start it again with --overwrite or another --output"
    )
    assert second.startswith("step-3 is not used: ")
