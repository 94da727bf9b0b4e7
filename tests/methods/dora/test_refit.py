"""A refit in the course of training: at an event, and where ranks differ by then."""

from __future__ import annotations

import torch

from dora_cli.methods import Dora
from dora_cli.methods.base import StepReport
from tests.methods.dora.test_scores_in_training import WHOLE, started


def state(method: Dora) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The `B` of every projection, and the second moments of what its `A` gives, by the averages that a run keeps."""
    kept, found = method.training_state(), {}
    names = iter(method._adapters.order)
    for number, group in enumerate(method._adapters.groups()):
        for layer, C in zip(group.layers, kept[f"second_moments.{number}"], strict=True):
            found[next(names)] = layer.B.detach().clone(), C[: layer.rank, : layer.rank].clone()
    return found


def test_what_is_left_gives_what_there_was_as_nearly_as_it_can() -> None:
    step, method = started("refit")
    schedule = method.schedule
    assert schedule is not None
    before: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    advance = method.advance

    def watched(number: int) -> StepReport:
        if schedule.is_event(number):
            before.update(state(method))
        return advance(number)

    method.advance = watched  # type: ignore[method-assign]
    there = {name: torch.arange(layer.rank) for name, layer in method._adapters.layers.items()}
    moved = []
    for number in range(1, schedule.freeze_step + 1):
        one = WHOLE[number % len(WHOLE)]
        event = schedule.is_event(number)
        report = step(number, [one], len(one["labels"]), event=event)
        assert report.event == event
        if not event:
            continue
        for allocation in method.allocation():
            if allocation.name not in before:
                continue
            assert allocation.live is not None
            B, C = before[allocation.name]
            keep = torch.isin(there[allocation.name], torch.tensor(allocation.live))
            there[allocation.name] = there[allocation.name][keep]
            if not allocation.rank:
                continue
            shares = torch.linalg.lstsq(C[keep][:, keep], C[keep][:, ~keep]).solution
            expected = B[:, keep] + B[:, ~keep] @ shares.T
            scale = float(B.abs().max())
            torch.testing.assert_close(
                method._adapters.layers[allocation.name].B.detach(), expected, rtol=0, atol=1e-3 * scale
            )
            moved.append(float((expected - B[:, keep]).abs().max()) / scale)
        before.clear()
    assert max(moved) > 0.05  # there was something to make up for
