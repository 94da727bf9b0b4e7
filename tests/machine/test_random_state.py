"""Random states of a process are set again as they were, or refused."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from dora_cli.errors import CheckpointError
from dora_cli.machine.random_state import random_state, restore_random_state

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    before = random_state(CPU)
    yield
    restore_random_state(before, CPU)


def draws() -> tuple[float, float, float, float, float]:
    return (
        random.random(), random.gauss(0, 1), float(np.random.random()), float(np.random.normal()), float(torch.rand(()))
    )  # fmt: skip


def test_the_same_is_drawn_again() -> None:
    random.gauss(0, 1)  # python and numpy keep the second of two normal draws
    np.random.normal()
    state = random_state(CPU)
    first = draws()
    assert draws() != first
    restore_random_state(state, CPU)
    assert draws() == first


@pytest.mark.parametrize(
    ("name", "tensor", "says"),
    [
        ("torch", None, r"^the checkpoint has no random state 'torch' for this device; resume on the kind of device"),
        ("python", torch.zeros(3), r"^the checkpoint's random state 'python' is torch\.float32 \(3,\), which is none;"),
        ("torch", torch.full((5056,), 255, dtype=torch.uint8), r"^the checkpoint's random state is none \(.*\); it is"),
    ],
)
def test_what_is_no_state_is_refused(name: str, tensor: torch.Tensor | None, says: str) -> None:
    state = random_state(CPU)
    if tensor is None:
        del state[name]
    else:
        state[name] = tensor
    with pytest.raises(CheckpointError, match=says):
        restore_random_state(state, CPU)
