"""What the device remembers of a training's steps, carried over an interruption."""

from __future__ import annotations

import math

import pytest
import torch

from dora_cli.training.ledger import Ledger


def steps(ledger: Ledger, losses: dict[int, float]) -> None:
    """Takes steps of these losses, of two loss units each."""
    for number, loss in losses.items():
        ledger.begin(number, 2)
        ledger.loss.fill_(loss)
        ledger.grad_norm.fill_(1.0)
        ledger.judge()
        ledger.book()


def test_a_ledger_that_was_interrupted_tells_the_same() -> None:
    straight, before, after = (Ledger(torch.device("cpu"), skip_nonfinite=1, scaled=False) for _ in range(3))
    first, second = {1: 1.0, 2: float("nan"), 3: 3.0}, {4: 5.0, 5: float("inf"), 6: 7.0}
    steps(straight, first | second)
    steps(before, first)
    state = before.state_dict()
    assert state == {
        "halted": False,
        "bad_steps": 1,
        "first_bad": -1,
        "loss_sum": 4.0,
        "steps": 2,
        "epoch_loss": 8.0,
        "epoch_units": 4,
    }
    assert {type(value) for value in state.values()} == {bool, int, float}
    after.load_state_dict(state)
    steps(after, second)
    assert after.state_dict() == straight.state_dict()
    # the second bad step is one too many: nothing counts from it on
    assert (bool(after.halted), int(after.first_bad), int(after.bad_steps)) == (True, 5, 2)
    assert after.take_loss() == (1.0 + 3.0 + 5.0) / 3


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize("loss", [1.5, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("norm", [0.0, 3e38, math.nan, math.inf])
def test_a_step_is_bad_where_its_loss_or_its_norm_is_not_finite(loss: float, norm: float, scaled: bool) -> None:
    ledger = Ledger(torch.device("cpu"), skip_nonfinite=3, scaled=scaled)
    ledger.begin(1, 2)
    ledger.loss.fill_(loss)
    ledger.grad_norm.fill_(norm)
    bad = not (math.isfinite(loss) and math.isfinite(norm))
    assert bool(ledger.judge()) == bad
    ledger.book()
    assert (float(ledger.loss), int(ledger.bad_steps), bool(ledger.halted)) == (0.0, int(bad), False)
    state = ledger.state_dict()
    added = (0.0, 0, 0.0, 0) if bad else (loss, 1, 2 * loss, 2)
    assert tuple(state[key] for key in ("loss_sum", "steps", "epoch_loss", "epoch_units")) == added
