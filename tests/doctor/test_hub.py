"""Whether the hub answers; asked of a server of our own, by a process each, as its library reads the environment when
it is loaded.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dora_cli.doctor.hub import _SWITCHES
from tests.commands.conftest import environment
from tests.patience import PATIENCE

_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def ask(tmp_path: Path, timeout: float = 3.0, **changes: str) -> dict[str, Any]:
    code = f"import json; from dora_cli.doctor.hub import ask_the_hub; print(json.dumps(ask_the_hub({timeout})))"
    changes = {**dict.fromkeys((*_SWITCHES, *_PROXIES), ""), "no_proxy": "*", "HF_HOME": str(tmp_path), **changes}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(**changes), capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@contextmanager
def server(status: int, body: bytes = b"{}", **headers: str) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}"
        finally:
            running.shutdown()
            thread.join()


def test_it_answers(tmp_path: Path) -> None:
    with server(200, b'{"id": "FacebookAI/roberta-base", "sha": "0", "siblings": [], "tags": []}') as endpoint:
        found = ask(tmp_path, PATIENCE, HF_ENDPOINT=endpoint)
        switched = ask(tmp_path, PATIENCE, HF_ENDPOINT=endpoint, HF_DATASETS_OFFLINE="1")
    assert (found["endpoint"], found["state"], found["detail"]) == (endpoint, "reachable", None)
    assert found["seconds"] >= 0
    assert (switched["state"], switched["detail"]) == (
        "reachable",
        "HF_DATASETS_OFFLINE set: data sets are read from their cache alone",
    )


def test_a_mirror_without_the_model(tmp_path: Path) -> None:
    with server(404, **{"X-Error-Code": "RepoNotFound"}) as endpoint:
        found = ask(tmp_path, PATIENCE, HF_ENDPOINT=endpoint)
    assert (found["state"], found["detail"]) == ("reachable", "404 when asked for FacebookAI/roberta-base")


@pytest.mark.parametrize("status", [403, 404])
def test_another_server(tmp_path: Path, status: int) -> None:
    with server(status) as endpoint:
        found = ask(tmp_path, PATIENCE, HF_ENDPOINT=endpoint)
    assert found["state"] == "unreachable"
    assert found["detail"].startswith(f"{status} ")


def test_nobody_answers(tmp_path: Path) -> None:
    with socket.socket() as silent:  # takes connections, says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        found = ask(tmp_path, 0.5, HF_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert found["state"] == "unreachable"
    assert found["detail"]
    refused = ask(tmp_path, HF_ENDPOINT=found["endpoint"])
    assert refused["state"] == "unreachable"


@pytest.mark.parametrize("switch", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_it_is_not_asked_where_it_must_not_be(tmp_path: Path, switch: str) -> None:
    found = ask(tmp_path, HF_ENDPOINT="http://127.0.0.1:1", **{switch: "1"})
    assert (found["state"], found["detail"], found["seconds"]) == ("offline", f"not asked: {switch} set", None)
