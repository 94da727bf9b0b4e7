from __future__ import annotations

import pytest
import torch

from dora_cli.machine.seeds import set_deterministic


@pytest.mark.parametrize("before", ["off", "warns", "on"])  # what a user's own process may have set
@pytest.mark.parametrize("on", [True, False])
def test_determinism_is_as_asked(monkeypatch: pytest.MonkeyPatch, before: str, on: bool) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if before != "off":
        torch.use_deterministic_algorithms(True, warn_only=before == "warns")
    try:
        set_deterministic(on)
        assert torch.are_deterministic_algorithms_enabled() == on
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.backends.cuda.mem_efficient_sdp_enabled() != on
    finally:
        torch.use_deterministic_algorithms(False)
        set_deterministic(False)
