"""Set up before anything is imported: no network, no progress bars of other libraries, one thread layout."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # matrices this small only lose by sharing them between cores
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest
import torch

from dora_cli import hub

LONGEST = ("test_resume.py", "test_kill.py", "test_demo.py", "test_signals.py", "test_distributed.py", "test_process.py")
"""Files that take half of the time; they come first, or one core would end with them alone."""


@pytest.fixture(autouse=True)
def _a_hub_that_was_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that did not answer is left alone for a minute: not from one test to the next."""
    monkeypatch.setattr(hub, "_memory", hub._Memory())


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config.option, "loadscopereorder"):  # of pytest-xdist, whose own order is by the number of tests in a file
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
