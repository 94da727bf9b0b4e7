"""DoRA with noise on the adapted weights: ranks that shrink, and loops of a user's own."""

from __future__ import annotations

import pytest
import torch

from dora_cli.methods.low_rank.layer import AdaptedProjection
from tests.methods.small import Training, classification, new_dora, small_encoder

STEPS, FREEZE = 40, 20


def trained(compact: bool, *, flatness: float = 0.3) -> Training:
    dora = new_dora(rank=2, start_rank=5, dropout=0.0, prune_interval=7, compact=compact, flatness=flatness)
    run = Training(small_encoder().train(), dora, total_steps=STEPS, learning_rate=3e-3)
    run.model.get_submodule("blocks.1.up").c.requires_grad_(False)  # at zero, so that it loses every component
    run.run(1, STEPS, classification())
    return run


def test_masked_and_compacted_training_see_the_same_noise() -> None:
    """A projection that has lost all its components has none after the freeze, whether it has left memory or not."""
    compacted, masked, quiet = trained(True), trained(False), trained(True, flatness=0.0)
    torch.testing.assert_close(compacted.losses, masked.losses, rtol=0, atol=1e-11)
    gaps = [abs(one - other) for one, other in zip(compacted.losses, quiet.losses, strict=True)]
    assert gaps[0] < 1e-2 < max(gaps[1:FREEZE]), "a loop of one's own has noise, on a ramp"
    assert max(gaps[FREEZE:]) > 1e-2
    layers = {name: module for name, module in masked.model.named_modules() if isinstance(module, AdaptedProjection)}
    assert [name for name, layer in layers.items() if layer.noise is None] == ["blocks.1.up"]


@pytest.mark.parametrize("compact", [True, False])
def test_a_state_of_the_final_phase_brings_its_quiet_projections(compact: bool) -> None:
    """What goes on from it sees the noise that the straight run sees."""
    run = trained(compact)
    other = Training(small_encoder().train(), new_dora(**settings(compact)), total_steps=STEPS)
    other.dora.load_state_dict(run.dora.state_dict())
    with torch.no_grad():
        for one, two in zip(other.head, run.head, strict=True):
            one.copy_(two)
    x = torch.randn(4, 10, dtype=torch.float64)
    run.dora.begin_step(31, 0.0)
    other.dora.begin_step(31, 0.0)
    torch.testing.assert_close(other.model(x), run.model(x), rtol=0, atol=1e-12)
    assert not torch.allclose(run.model(x), run.model.eval()(x), atol=1e-2)


def settings(compact: bool) -> dict[str, object]:
    return {
        "rank": 2, "start_rank": 5, "dropout": 0.0, "prune_interval": 7, "compact": compact, "flatness": 0.3
    }  # fmt: skip
