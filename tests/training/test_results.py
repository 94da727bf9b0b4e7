"""What the loop has found, kept in a checkpoint and brought back."""

from __future__ import annotations

import json

from dora_cli.training.results import Outcome
from dora_cli.training.selection import Selection


def test_an_outcome_goes_on_from_its_state() -> None:
    outcome = Outcome(Selection("best", "accuracy"), examples=64)
    outcome.epochs.append({"epoch": 1, "step": 4, "phase": "pruning", "train_loss": 0.5, "metrics": {"accuracy": 0.75}})
    outcome.history.append({"step": 3, "phase": "pruning", "budget": 30, "live": 30})
    assert outcome.selection.offer(epoch=1, step=4, metrics={"accuracy": 0.75}, frozen=False)
    outcome.clocks.training.total, outcome.clocks.evaluation.total, outcome.clocks.saving.total = 1.5, 2.5, 0.25

    state = json.loads(json.dumps(outcome.state()))
    again = Outcome(Selection("best", "accuracy"))
    again.load_state(state)
    assert again == outcome
    assert again.state() == state
    assert not again.selection.offer(epoch=2, step=8, metrics={"accuracy": 0.7}, frozen=True)
