"""A hub that does not answer costs one question of a few seconds, whatever asks and however often."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import pytest
from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError

from dora_cli import hub
from dora_cli.data import load_examples
from dora_cli.errors import DataError, ModelError
from dora_cli.hub import HOLDS, PATIENCE, ask, patience, silent, within
from dora_cli.models.source import find_source
from dora_cli.tasks import get_task
from tests.commands.conftest import CONFIGS, environment, process


class Hub:
    """Counts what it is asked, and answers with `answer` or raises it."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.asked = answer, 0

    def __call__(self, *_: object, **keywords: Any) -> Any:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def refusal() -> Exception:
    """The hub's own errors want an HTTP response of whatever client its version uses; the class is all that counts
    here.
    """
    return RepositoryNotFoundError.__new__(RepositoryNotFoundError)


def test_what_is_no_answer() -> None:
    answered = OSError("502")
    answered.response = SimpleNamespace(status_code=502)  # type: ignore[attr-defined]
    assert [silent(error) for error in (ConnectionError("no route"), TimeoutError(), OfflineModeIsEnabled("off"))] == [
        True
    ] * 3
    assert [silent(error) for error in (refusal(), answered)] == [False] * 2


def test_a_question_that_hangs_is_given_up() -> None:
    end = threading.Event()
    try:
        with pytest.raises(TimeoutError):
            within(0.01, lambda seconds: end.wait(60))
    finally:
        end.set()
    assert within(60, lambda seconds: seconds) == 60


def test_the_patience_is_the_librarys_where_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_ETAG_TIMEOUT", raising=False)
    assert patience() == PATIENCE <= 3
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "20")
    assert patience() == 20
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "long")
    assert patience() == PATIENCE


_CACHES = """
import os, sys
import pandas, pyarrow  # take long, and read none of the variables
for variable in ("", "HF_HOME", "HF_DATASETS_CACHE"):
    if not os.fork():
        if variable:
            os.environ[variable] = sys.argv[1]
        from dora_cli.hub import data_cache
        here = data_cache()
        import datasets.config
        print(here, datasets.config.HF_DATASETS_CACHE, sep="\\n", flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="processes cannot be forked")
def test_data_are_kept_where_their_library_keeps_them(tmp_path: Path) -> None:
    """In processes of their own: the library reads the variables once."""
    kept = {name: value for name, value in environment().items() if name not in ("HF_HOME", "HF_DATASETS_CACHE")}
    command = [sys.executable, "-c", _CACHES, str(tmp_path)]
    done = subprocess.run(command, env=kept, capture_output=True, text=True, timeout=600)
    ours, theirs = done.stdout.splitlines()[::2], done.stdout.splitlines()[1::2]
    assert ours == theirs, done.stderr
    assert [here.startswith(str(tmp_path)) for here in ours] == [False, True, True]


def test_a_hub_that_did_not_answer_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(hub, "time", SimpleNamespace(monotonic=lambda: now[0]))
    asked = Hub(ConnectionError("no route"))
    for moment in (0.0, HOLDS / 2, HOLDS - 1):
        now[0] = 1000 + moment
        with pytest.raises(ConnectionError):
            ask(asked)
    assert asked.asked == 1
    now[0] = 1000 + HOLDS
    asked.answer = "here"
    assert [ask(asked), ask(asked), asked.asked] == ["here", "here", 3]


@pytest.mark.parametrize("error", [refusal(), OfflineModeIsEnabled("off")])
def test_an_answer_and_a_ban_are_not_remembered(error: Exception) -> None:
    asked = Hub(error)
    for _ in range(2):
        with pytest.raises(type(error)):
            ask(asked)
    assert asked.asked == 2


def test_one_question_for_all_splits_and_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    about_data, about_models = Hub(ConnectionError("no route")), Hub(ConnectionError("no route"))
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", about_data)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", about_models)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    looked: list[bool] = []

    def look(*_: object, **__: object) -> None:
        looked.append(datasets.config.HF_HUB_OFFLINE)
        raise ConnectionError("not in the cache")

    monkeypatch.setattr(datasets, "load_dataset", look)
    for split in ("train", "validation"):
        with pytest.raises(DataError, match="no route"):
            load_examples(get_task("glue/rte").fields, "hub", split)
    with pytest.raises(ModelError):
        find_source("nobody/nothing")
    assert (about_data.asked, about_models.asked) == (1, 0)
    assert looked == [True, True], "the cache alone, which may have it"
    assert datasets.config.HF_HUB_OFFLINE is False


def test_where_the_hub_answers_the_library_may_ask_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    for answer in (SimpleNamespace(sha="0"), refusal()):
        monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", Hub(answer))
        looked: list[bool] = []

        def look(*_: object, looked: list[bool] = looked, **__: object) -> None:
            looked.append(datasets.config.HF_HUB_OFFLINE)
            raise ValueError("what the library says")

        monkeypatch.setattr(datasets, "load_dataset", look)
        with pytest.raises(DataError, match="what the library says"):
            load_examples(get_task("glue/rte").fields, "hub", "train")
        assert looked == [False]


@contextmanager
def hanging_up() -> Iterator[tuple[str, list[bytes]]]:
    """A server that reads every request and hangs up, and the paths that it was asked for so far."""
    paths: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    paths.append(connection.makefile("rb").readline().split()[1])

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", paths
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_the_command_asks_once_and_says_what_to_do(tmp_path: Path) -> None:
    """Its library alone would ask six times for the first file, with 23 seconds between them."""
    with hanging_up() as (endpoint, paths):
        online = {
            "HF_HUB_OFFLINE": "",
            "HF_DATASETS_OFFLINE": "",
            "HF_ENDPOINT": endpoint,
            "no_proxy": "*",
            "HF_HOME": str(tmp_path / "hf"),
        }
        done = process("train", CONFIGS / "glue" / "rte.yaml", "--output", "run", cwd=tmp_path, **online)
    assert done.code == 2
    assert "data.source: glue-tsv" in done.err
    assert [path for path in paths if b"/datasets/" in path] == [b"/api/datasets/nyu-mll/glue"]
    assert not (tmp_path / "run").exists()
