"""Numbers that an export cannot hold."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dora_cli.errors import ExportError
from dora_cli.export.merged import merge
from tests.export.given import Given


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    nn.init.constant_(model[0].bias, value)
    with pytest.raises(ExportError, match=r"0\.bias holds values that are not finite in the run"):
        merge(model, Given(model), [], "float32")


def test_numbers_that_a_type_cannot_hold_are_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    method = Given(model, _0=torch.full((2, 2), 9e4))
    with pytest.raises(
        ExportError,
        match=r"0\.weight holds values that are not finite in float16; choose --dtype "
        r"bfloat16",
    ):
        merge(model, method, method.sites, "float16")
