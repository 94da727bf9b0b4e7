"""Runs of one script in parallel processes, each in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from math import sqrt
from pathlib import Path

import torch

from dora_cli import parse_recipe


class Pool:
    """Runs ``python SCRIPT --one FOLDER METHOD RANK OVERRIDES`` for many folders, spread over the CUDA devices there
    are.
    """

    def __init__(self, script: str, jobs: int, overrides: Sequence[str], threads: int) -> None:
        self.script = script
        self.jobs, self.overrides, self.threads = jobs, list(overrides), threads
        self.devices = torch.cuda.device_count()

    def run(self, folders: Sequence[tuple[Path, str, int]]) -> None:
        waiting = [item for item in folders if not finished(item[0])]
        running: dict[subprocess.Popen[bytes], Path] = {}
        started = 0
        while waiting or running:
            while waiting and len(running) < self.jobs:
                folder, method, rank = waiting.pop(0)
                env = os.environ | {
                    "OMP_NUM_THREADS": str(self.threads),
                    "TOKENIZERS_PARALLELISM": "false",
                    "HF_HUB_OFFLINE": "1",
                }
                if self.devices:
                    env["CUDA_VISIBLE_DEVICES"] = str(started % self.devices)
                command = [sys.executable, self.script, "--one", str(folder), method, str(rank), *self.overrides]
                with open(folder / "log.txt", "wb") as log:
                    running[subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)] = folder
                started += 1
            for process in [process for process in running if process.poll() is not None]:
                folder = running.pop(process)
                if process.returncode:
                    print(f"FAILED {folder}: {(folder / 'log.txt').read_text()[-600:]}", flush=True)
            time.sleep(0.2)


def prepare(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    parse_recipe(text)
    (folder / "wanted.yaml").write_text(text)
    return folder


def finished(folder: Path) -> bool:
    return (folder / "run" / "metrics.json").exists()


def statistics(values: Sequence[float]) -> str:
    mean = sum(values) / len(values)
    sd = sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1)) if len(values) > 1 else float("nan")
    return f"{mean:.4f} +- {sd:.4f}"
