"""Devices, folders, Java: what this machine has, and machines that lack something."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dora_cli.doctor import caches, devices
from dora_cli.doctor.caches import look_at_caches
from dora_cli.doctor.devices import look_at_devices
from dora_cli.doctor.threads import look_at_threads
from dora_cli.machine.threads import most_threads
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


def test_threads_and_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    monkeypatch.setattr(os, "getloadavg", lambda: (3.14159, 2.0, 1.0))
    for name in ("MKL_NUM_THREADS", "LOCAL_WORLD_SIZE", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    found = look_at_threads()
    assert (found["cores"], found["torch"], found["load"]) == (len(os.sched_getaffinity(0)), 6, [3.14, 2.0, 1.0])
    assert found["large"] == found["most"] == most_threads()  # RoBERTa-base takes what there is
    assert found["environment"] == {"OMP_NUM_THREADS": "6"}
    monkeypatch.delattr(os, "getloadavg")  # Windows
    assert look_at_threads()["load"] is None


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setattr(caches, "_hub_cache", lambda: tmp_path / "not" / "yet")
    monkeypatch.setattr(caches, "_datasets_cache", lambda: tmp_path / "file" / "cache")
    models, data, here, temporary = look_at_caches()
    assert (models["exists"], models["problem"]) == (False, None)
    assert models["free_bytes"] > 0
    assert data["problem"] == f"cannot be made: {tmp_path / 'file'} is a file"
    assert (here["path"], here["exists"], here["problem"]) == (str(tmp_path), True, None)
    assert (temporary["path"], temporary["needed"], temporary["problem"]) == (tempfile.gettempdir(), True, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"], "nothing is left behind"


def test_folders_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(dir: Path) -> None:
        raise PermissionError(13, "Permission denied")

    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(caches.tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(caches.tempfile, "gettempdir", nowhere)
    monkeypatch.setattr(caches, "_hub_cache", lambda: tmp_path)
    monkeypatch.setattr(caches, "_datasets_cache", lambda: None)
    models, data, _, temporary = look_at_caches()
    assert models["problem"] == "cannot be written: Permission denied"
    assert data["problem"].startswith("is not known")
    assert temporary["problem"] == "No usable temporary directory found; set TMPDIR to a writable folder"
