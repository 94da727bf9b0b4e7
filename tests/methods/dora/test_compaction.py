"""Compacted against masked training: the same numbers, in less memory."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch

from tests.methods.small import Training, classification, new_dora, small_encoder

STEPS, FREEZE = 60, 30
STEEP = classification(scale=20.0)  # gradients far above the clipping norm, also late in training


def trained(compact: bool, dtype: torch.dtype, until: int, *, empty: bool = False) -> Training:
    dora = new_dora(
        rank=2, start_rank=5, dropout=0.0, prune_interval=7, dem_weight=0.5, dem_until="end", compact=compact
    )
    run = Training(small_encoder(dtype=dtype), dora, total_steps=STEPS, learning_rate=3e-3)
    if empty:  # one projection keeps its gates at zero, and so loses every component
        run.model.get_submodule("blocks.1.up").c.requires_grad_(False)
    run.run(1, until, STEEP)
    return run


@lru_cache
def pair(dtype: torch.dtype, empty: bool) -> tuple[Training, Training]:
    return trained(True, dtype, STEPS, empty=empty), trained(False, dtype, STEPS, empty=empty)


@pytest.mark.parametrize(
    ("dtype", "tolerance", "empty"),
    [(torch.float64, 1e-11, False), (torch.float64, 1e-11, True), (torch.float32, 1e-6, True)],
    ids=["float64", "float64, one projection at rank 0", "float32, one projection at rank 0"],
)
def test_thirty_steps_after_the_freeze_have_the_same_losses(dtype: torch.dtype, tolerance: float, empty: bool) -> None:
    compacted, masked = pair(dtype, empty)
    assert compacted.losses[:FREEZE] == masked.losses[:FREEZE]
    assert sum(parameter.numel() for parameter in compacted.dora.parameters()) < 0.5 * sum(
        p.numel() for p in masked.dora.parameters()
    )
    # STEEP multiplies the task's loss, and its rounding, by 20.
    torch.testing.assert_close(
        [v / 20 for v in compacted.losses], [v / 20 for v in masked.losses], rtol=0, atol=tolerance
    )
    torch.testing.assert_close(compacted.norms[FREEZE:], masked.norms[FREEZE:], rtol=100 * tolerance, atol=0)
    assert min(compacted.norms[FREEZE:]) > 1  # clipping is active in every step that is compared
    assert compacted.losses[-1] < compacted.losses[FREEZE]


@pytest.mark.parametrize("empty", [False, True])
def test_the_runs_end_at_the_same_weights(empty: bool) -> None:
    compacted, masked = pair(torch.float64, empty)
    assert compacted.dora.allocation() == masked.dora.allocation()
    small, whole, keep = compacted.dora.state_dict(), masked.dora.state_dict(), masked.dora.state_dict()["keep"]
    for row, item in enumerate(masked.dora.allocation()):
        if item.rank:
            torch.testing.assert_close(
                small[f"{item.name}.A"], whole[f"{item.name}.A"][keep[row]], rtol=1e-10, atol=1e-12
            )
            torch.testing.assert_close(
                small[f"{item.name}.B"], whole[f"{item.name}.B"][:, keep[row]], rtol=1e-10, atol=1e-12
            )
            torch.testing.assert_close(
                small[f"{item.name}.c"], whole[f"{item.name}.c"][keep[row]], rtol=1e-10, atol=1e-12
            )
        else:
            assert empty
            assert f"{item.name}.A" not in small
    for one, other in zip(compacted.head, masked.head, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("after", [0, 1, 10])
def test_moments_are_those_of_the_kept_indices(after: int) -> None:
    compacted, masked = trained(True, torch.float64, FREEZE + after), trained(False, torch.float64, FREEZE + after)
    keep = masked.dora.state_dict()["keep"]
    assert 0 < int(keep.sum()) < keep.numel()
    compared = 0
    for row, item in enumerate(masked.dora.allocation()):
        small, whole = compacted.model.get_submodule(item.name), masked.model.get_submodule(item.name)
        for suffix in ("A", "B", "c"):
            mine, theirs = (
                compacted.optimizer.state[getattr(small, suffix)],
                masked.optimizer.state[getattr(whole, suffix)],
            )
            assert mine.keys() == theirs.keys() == {"step", "exp_avg", "exp_avg_sq"}
            assert float(mine["step"]) == float(theirs["step"]) == FREEZE + after
            for moment in ("exp_avg", "exp_avg_sq"):
                wanted = theirs[moment][:, keep[row]] if suffix == "B" else theirs[moment][keep[row]]
                if after:
                    torch.testing.assert_close(mine[moment], wanted, rtol=1e-9, atol=1e-13)
                else:  # sliced, not computed
                    assert torch.equal(mine[moment], wanted)
                assert bool(wanted.any())
                compared += wanted.numel()
    assert compared == 2 * sum(parameter.numel() for parameter in compacted.dora.parameters())


def test_the_optimiser_holds_what_the_model_holds() -> None:
    compacted, _ = pair(torch.float64, True)
    assert "blocks.1.up" in {item.name for item in compacted.dora.allocation() if item.rank == 0}
    trainable = {id(parameter) for parameter in compacted.model.parameters() if parameter.requires_grad}
    assert {id(parameter) for parameter in compacted.trainable()} == trainable
    assert {id(parameter) for parameter in compacted.optimizer.state} == trainable
