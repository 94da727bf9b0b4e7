"""What the doctor says."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from dora_cli.reports.doctor import print_doctor

FOUND: dict[str, Any] = {
    "dora": "0.1.0",
    "python": {"version": "3.11.7", "executable": "/usr/bin/python3"},
    "platform": "Linux",
    "packages": [
        {"name": "torch", "version": "2.13.0", "wanted": ">=2.6", "problem": None},
        {"name": "rich", "version": None, "wanted": ">=13.7", "problem": "is not installed; pip install 'rich>=13.7'"},
    ],
    "devices": [
        {
            "device": "cpu",
            "name": "8 cores",
            "memory_bytes": 16 << 30,
            "free_bytes": 4 << 30,
            "precisions": ["fp32", "bf16"],
            "note": None,
        },
        {
            "device": "cuda:0",
            "name": "GPU",
            "memory_bytes": 80 << 30,
            "free_bytes": None,
            "precisions": [],
            "note": "cannot be used now: busy",
        },
    ],
    "threads": {
        "cores": 8,
        "torch": 4,
        "most": 4,
        "large": 4,
        "environment": {"OMP_NUM_THREADS": "4"},
        "load": [9.5, 1.25, 0.0],
    },
    "caches": [
        {"name": "models", "path": "/a [b]", "needed": False, "exists": True, "free_bytes": 1 << 30, "problem": None},
        {"name": "data", "path": "/c", "needed": False, "exists": False, "free_bytes": 1 << 30, "problem": None},
        {
            "name": "temporary",
            "path": None,
            "needed": True,
            "exists": False,
            "free_bytes": None,
            "problem": "No folder",
        },
    ],
    "extras": [
        {"name": "plots", "missing": [], "install": "pip install 'dora-cli[plots]'"},
        {"name": "e2e", "missing": ["pycocoevalcap"], "install": "pip install 'dora-cli[e2e]'"},
    ],
    "hub": {"endpoint": "https://example.org", "state": "reachable", "detail": None, "seconds": 0.24},
    "java": {"path": None, "version": None, "problem": "install Java (on PATH)"},
    "problems": ["rich: is not installed; pip install 'rich>=13.7'", "temporary: No folder"],
}


def shown(found: dict[str, Any], width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    print_doctor(console, found)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_all_of_it() -> None:
    assert (
        shown(FOUND)
        == """\
dora 0.1.0
  python  3.11.7, /usr/bin/python3
  system  Linux

Packages
  torch  2.13.0
  rich   missing: is not installed; pip install 'rich>=13.7'

Devices
  cpu     8 cores, 16.0 GiB (4.0 GiB free), fp32 bf16
  cuda:0  GPU, 80.0 GiB; cannot be used now: busy

Threads
  PyTorch          4 threads
  auto             1 for a tiny model, 4 for RoBERTa-base, 4 at most (train.threads)
  OMP_NUM_THREADS  4
  load             9.50, 1.25, 0.00 (averages of 1, 5 and 15 minutes); more than 8 cores can do, so everything takes \
longer

Folders
  models     /a [b]: writable, 1.0 GiB free
  data       /c: not there yet, can be made, 1.0 GiB free
  temporary  No folder

Extras
  plots  installed
  e2e    without pycocoevalcap; pip install 'dora-cli[e2e]'

Network and Java
  hub     https://example.org: reachable in 0.2 s
  METEOR  cannot be computed: install Java (on PATH)

2 problems: dora cannot work before they are fixed
  rich: is not installed; pip install 'rich>=13.7'
  temporary: No folder
"""
    )


def test_where_nothing_is_broken() -> None:
    hub = {
        "endpoint": "https://example.org",
        "state": "offline",
        "detail": "not asked: HF_HUB_OFFLINE set",
        "seconds": None,
    }
    java = {"path": "/usr/bin/java", "version": 'openjdk version "17"', "problem": None}
    text = shown({**FOUND, "problems": [], "devices": [], "hub": hub, "java": java})
    assert "Devices" not in text
    assert "  hub     https://example.org: offline (not asked: HF_HUB_OFFLINE set)\n" in text
    assert '  METEOR  openjdk version "17", /usr/bin/java\n' in text
    assert text.endswith("\nNothing that dora needs is broken.\n")
