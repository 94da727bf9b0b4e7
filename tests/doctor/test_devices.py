"""The CPU and GPUs of this machine, and machines that lack something."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from dora_cli.doctor import devices
from dora_cli.doctor.devices import look_at_devices
from dora_cli.wording import plural


def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    no_gpu(monkeypatch)
    monkeypatch.setattr(torch.version, "cuda", None)
    (cpu,) = look_at_devices()
    assert (cpu["device"], cpu["precisions"], cpu["note"]) == ("cpu", ["fp32", "bf16"], None)
    assert cpu["name"] == f"{plural(len(os.sched_getaffinity(0)), 'core')}, {plural(torch.get_num_threads(), 'thread')}"
    assert 0 < cpu["free_bytes"] < cpu["memory_bytes"]
    monkeypatch.delattr(devices.os, "sysconf")  # not every system has it
    assert look_at_devices()[0]["memory_bytes"] is None


def test_a_gpu_that_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    no_gpu(monkeypatch)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    (cpu,) = look_at_devices()
    assert cpu["note"] == (
        "PyTorch is built for CUDA 13.0 but sees no device: is there a GPU, and a driver for this CUDA?"
    )


@pytest.mark.parametrize("obstacle", [None, "it is not installed"])
def test_gpus(monkeypatch: pytest.MonkeyPatch, obstacle: str | None) -> None:
    """Two, of which the second is held by somebody else."""

    class Chosen:
        def __init__(self, index: int) -> None:
            self.index = index

        def __enter__(self) -> None:
            if self.index == 1:
                raise RuntimeError("CUDA error: all CUDA-capable devices are busy\nmore")

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(name=f"GPU {index}", total_memory=80 << 30)
    )
    monkeypatch.setattr(torch.cuda, "device", Chosen)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (70 << 30, 80 << 30))
    monkeypatch.setattr(devices, "_without_triton", lambda: obstacle)
    _, first, second = look_at_devices()
    assert first == {
        "device": "cuda:0",
        "name": "GPU 0",
        "memory_bytes": 80 << 30,
        "free_bytes": 70 << 30,
        "precisions": ["fp32", "bf16", "fp16"],
        "note": obstacle and "training is slower without Triton: it is not installed",
    }
    assert (second["precisions"], second["note"]) == (
        [],
        "cannot be used now: CUDA error: all CUDA-capable devices are busy",
    )
