"""Weights that do not fit what is built are refused, and the first misfit is named."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from dora_cli.assembly.weights import Weights, weights_in
from dora_cli.errors import CheckpointError
from dora_cli.methods.head import HeadOnly
from dora_cli.runs.checkpoints import ADAPTER, HEAD
from dora_cli.runs.checkpoints import STATE as STATE_FILE

STATE = {
    "schema_version": 1,
    "method": "head",
    "step": 3,
    "epoch": 1,
    "phase": "final",
    "frozen": True,
    "metrics": None,
}
NAN = float("nan")


def built(**head: torch.Tensor) -> Any:
    """What `Weights.restore` asks of an adapted model."""
    return SimpleNamespace(method=HeadOnly(), head={name: nn.Parameter(tensor) for name, tensor in head.items()})


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (
            {},
            (
                "head tensor bias is missing from the checkpoint; the base model or the task is not the one the run "
                "was trained with"
            ),
        ),
        (
            {"bias": torch.ones(2), "odd\n": torch.ones(1)},
            (
                "head tensor odd\\n is in the checkpoint but not in this model's head; the base model or the task is "
                "not the one the run was trained with"
            ),
        ),
        (
            {"bias": torch.ones(3)},
            "head tensor bias is torch.float32 (3,) in the checkpoint; this model needs torch.float32 (2,)",
        ),
        (
            {"bias": torch.ones(2).double()},
            "head tensor bias is torch.float64 (2,) in the checkpoint; this model needs torch.float32 (2,)",
        ),
    ],
)
def test_a_head_that_does_not_fit(head: dict[str, torch.Tensor], says: str) -> None:
    adapted = built(bias=torch.zeros(2))
    with pytest.raises(CheckpointError, match=f"^{re.escape(says)}$"):
        Weights.of({}, head, STATE).restore(adapted)
    assert adapted.head["bias"].tolist() == [0, 0]
    Weights.of({}, {"bias": torch.ones(2)}, STATE).restore(adapted)
    assert adapted.head["bias"].tolist() == [1, 1]


def test_weights_of_another_method() -> None:
    with pytest.raises(CheckpointError, match=r"^the checkpoint is of the method 'lora', the recipe .* of 'head'; "):
        Weights.of({}, {}, {**STATE, "method": "lora"}).restore(built())


def test_values_that_are_not_finite_are_named_by_tensor() -> None:
    bad = {f"t{number}": torch.tensor([1.0, NAN]) for number in range(6)}
    parts: dict[str, Any] = {
        ADAPTER: {"fine": torch.ones(1)},
        HEAD: {**bad, "t1": torch.tensor([2])},
        STATE_FILE: STATE,
    }
    says = r"head\.safetensors holds values that are not finite \(NaN or infinite\), in t0, t2, t3, t4 and 1 more; "
    with pytest.raises(CheckpointError, match=says):
        weights_in(Path("run"), parts)
    parts[HEAD] = {}
    assert weights_in(Path("run"), parts).adapter["fine"].tolist() == [1]
