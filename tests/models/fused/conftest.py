"""What tests of compiled passes share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from dora_cli.methods.low_rank.lean import lean_pass
from tests.methods.low_rank.same_input.plain_many import TogetherKernels


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plain operations in the place of a GPU's kernels, with which passes look for what reads the same input; nothing
    is compiled before or kept.
    """
    monkeypatch.setattr(lean_pass, "kernels_for", lambda device, *_: TogetherKernels(device))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
