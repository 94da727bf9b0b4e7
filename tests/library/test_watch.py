"""A method that is never told of a step: it is said once."""

from __future__ import annotations

from dora_cli.library.own_loop import attach
from tests.library.test_own_loop import SETTINGS, bert, passes


def test_training_without_the_method_warns_once() -> None:
    model = bert().train()
    attach(model, warn_after=5, **SETTINGS)
    assert passes(model, 4) == []
    (said,) = passes(model, 40)
    assert said.startswith(
        "5 training passes went through the adapted BertForSequenceClassification without a call of the method's "
        "after_step: no component is scored or pruned, and the ranks stay what they are. "
    )
    assert "method.after_step(step) after optimizer.step()" in said
    assert "dora_cli.DoraCallback(method)" in said
