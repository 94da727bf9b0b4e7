"""What the device remembers of a training's steps, carried over an interruption."""

from __future__ import annotations

import math

import pytest
import torch

from dora_cli.training import ledger as room
from dora_cli.training.ledger import MAX_SKIPPED_FP16, Ledger
from tests.triton_kernels import DEVICE, INTERPRETED

kernels = pytest.mark.usefixtures("_triton") if INTERPRETED else pytest.mark.gpu


@pytest.fixture
def _triton() -> None:
    pytest.importorskip("triton")


def steps(ledger: Ledger, losses: dict[int, float]) -> None:
    """Takes steps of these losses, of two loss units each."""
    for number, loss in losses.items():
        ledger.begin(number, 2)
        ledger.loss.fill_(loss)
        ledger.judge(torch.tensor(1.0))


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
    bad = not (math.isfinite(loss) and math.isfinite(norm))
    assert bool(ledger.judge(torch.tensor(norm))) == bad
    assert float(ledger.grad_norm) == pytest.approx(norm, nan_ok=True)
    assert (float(ledger.loss), int(ledger.bad_steps), bool(ledger.halted)) == (0.0, int(bad), False)
    state = ledger.state_dict()
    added = (0.0, 0, 0.0, 0) if bad else (loss, 1, 2 * loss, 2)
    assert tuple(state[key] for key in ("loss_sum", "steps", "epoch_loss", "epoch_units")) == added


GOOD = [(0.1 * number, 1.0 / number) for number in range(1, 8)]
BAD = [(loss, norm) for loss in (0.7, math.nan, math.inf, -math.inf) for norm in (0.3, math.nan, math.inf)][1:]
STEPS = [*GOOD, BAD[0], *GOOD, *BAD[1:3], *GOOD, *BAD * 3, *GOOD, *BAD[:2]]
"""Losses and norms: good ones, whose sums are rounded, and each kind of bad ones, more in a row than fp16 lets pass."""


@kernels
@pytest.mark.parametrize("skip", [0, 2])
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
def test_one_kernel_does_what_the_plain_operations_do(scaled: bool, skip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, after each step: through sums that are taken, steps that were counted elsewhere, and a halt."""
    made, device = [], torch.device(DEVICE)
    for by_triton in (False, True):
        monkeypatch.setattr(room, "takes_triton", lambda _, by_triton=by_triton: by_triton)
        made.append(Ledger(device, skip_nonfinite=skip, scaled=scaled))
    assert len(BAD * 3) > MAX_SKIPPED_FP16
    numbers = [index + (1 if index < 5 else 11) for index in range(len(STEPS))]  # a resumed run begins with the sixth
    for index, (number, (loss, norm)) in enumerate(zip(numbers, STEPS, strict=True)):
        for ledger in made:
            ledger.begin(number, 3 + index % 5)
            ledger.loss += loss
            ledger.judge(torch.tensor(norm, device=device if index % 2 else "cpu"))
        for key, value in vars(made[0]).items():
            if torch.is_tensor(value) and not key.startswith("_"):
                ours = vars(made[1])[key]
                torch.testing.assert_close(ours, value, rtol=0, atol=0, equal_nan=True, msg=f"{key}, step {number}")
        if index in (3, 8):
            assert made[1].take_loss() == made[0].take_loss() > 0
    bad = [number for number, step in zip(numbers, STEPS, strict=True) if step in BAD]
    assert bool(made[1].halted)
    assert int(made[1].first_bad) == (bad[3] if scaled else bad[skip])
    assert made[1].state_dict() == made[0].state_dict()


@kernels
def test_announcing_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "takes_triton", lambda _: True)
    ledger = Ledger(torch.device(DEVICE), skip_nonfinite=0, scaled=False)
    ledger.loss += 2
    before = ledger.state_dict()
    ledger.announce()
    assert (ledger.state_dict(), float(ledger.loss), int(ledger.number)) == (before, 2.0, 0)
