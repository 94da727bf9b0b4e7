"""The device a run asks for, and machines that have none."""

from __future__ import annotations

import re

import pytest
import torch

from dora_cli.errors import DeviceError
from dora_cli.machine.devices import check_gpus, resolve_device


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
    says = (
        f"train.device is cuda:1, but PyTorch {torch.__version__} sees no CUDA device here; set "
        "train.device: cpu or auto"
    )
    with pytest.raises(DeviceError, match=f"^{re.escape(says)}$"):
        resolve_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("auto") == torch.device("cuda")
    with pytest.raises(DeviceError, match=r"^train\.device is cuda:1, .* 1 CUDA device\(s\), cuda:0 to cuda:0; "):
        resolve_device("cuda:1")


def test_every_process_needs_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_gpus(torch.device("cuda"), 2)
    check_gpus(torch.device("cpu"), 3)
    with pytest.raises(DeviceError, match=r"^3 processes need a GPU each, and PyTorch .* sees 2 here; start 2 at most"):
        check_gpus(torch.device("cuda"), 3)
