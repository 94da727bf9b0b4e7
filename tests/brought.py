"""Packages that bring something of their own by entry points, installed for the time of a few tests."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.patience import PATIENCE
from tests.processes import Done

ROOT = Path(__file__).parents[1]
SERVER = """
import json, os, signal, sys, tempfile
import tests.preload
from dora_cli.training.loop import Loop

step = Loop._step
for line in sys.stdin:
    arguments, killed_at, environments = json.loads(line)
    streams, children = [tempfile.TemporaryFile() for _ in range(2)], []
    for environment in environments:
        children.append(os.fork())
        if children[-1]:
            continue
        for number, stream in enumerate(streams, start=1):
            os.dup2(stream.fileno(), number)
        os.environ.update(environment)

        def killed(self, number, epoch, group):
            if number == killed_at:
                os.kill(os.getpid(), signal.SIGKILL)
            step(self, number, epoch, group)

        Loop._step = killed
        from dora_cli.__main__ import main

        code = 0
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code or 0
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # as those of multiprocessing do: tearing down what is loaded takes as long as a command
    code = max((os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children), key=abs)
    for stream in streams:
        stream.seek(0)
    print(json.dumps([code, *(stream.read().decode() for stream in streams)]), flush=True)
os._exit(0)
"""
"""Runs commands in processes forked from one in which the package is installed, and which is as warm as that of
`tests.processes`; one may be killed before a step, and several may train one model together.
"""

Command = Callable[..., Done]


def together(processes: int) -> list[dict[str, str]]:
    """What torch's launcher tells processes that train one model."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    size = str(processes)
    common = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    return [
        {**common, "ACCELERATE_USE_CPU": "true", "RANK": str(rank), "LOCAL_RANK": str(rank)}
        for rank in range(processes)
    ]


@contextmanager
def installed(site: Path, modules: Sequence[Path], entry_points: str) -> Iterator[Command]:
    """`dora` in a process in which a package of these modules, with these entry points, is installed in `site`."""
    for module in modules:
        (site / module.name).write_bytes(module.read_bytes())
    info = site / "dora_brought-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dora-brought\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    path = os.pathsep.join((str(ROOT), str(site), *filter(None, [os.environ.get("PYTHONPATH")])))
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "200"}
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        questions, answers = server.stdin, server.stdout

        def run(
            *arguments: object, code: int = 0, killed_at: int | None = None, processes: int = 1, forked: bool = True
        ) -> Done:
            words = list(map(str, arguments))
            if forked:
                environments = [{}] if processes == 1 else together(processes)
                print(json.dumps([words, killed_at, environments]), file=questions, flush=True)
                done = Done(*json.loads(answers.readline()))
            else:  # CUDA does not live through a fork
                command = [sys.executable, "-m", "dora_cli", *words]
                plain = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
                done = Done(plain.returncode, plain.stdout, plain.stderr)
            assert done.code == code, done.out + done.err
            return done

        yield run
        questions.close()
