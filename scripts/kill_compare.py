"""An experiment that is killed again and again comes to what the straight one comes to.

    python scripts/kill_compare.py [EXPERIMENT] [--kills 5] [--seed 0] [--jobs N] [--output DIR]

EXPERIMENT (configs/compare/demo.yaml) is made twice: straight, and killed at KILLS moments drawn at random over the
time that the straight one took, gone on with each time. Every second kill takes the workers too, as a power cut does;
the others take the process alone, whose workers then save what they are at.

Compared are comparison.json and every run's metrics.json, but for times and memory, and the bytes of every adapter. The
exit code is 1 if anything differs. Both folders stay in DIR if it is given.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TIMES = {"seconds", "peak_memory_bytes", "timing"}
"""Keys of records that say how long something took, and how much memory."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="?", type=Path, default=Path("configs/compare/demo.yaml"))
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--output", type=Path, metavar="DIR")
    args = parser.parse_args(argv)
    with contextlib.ExitStack() as stack:
        place = args.output or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dora-kills-")))
        straight, killed = place / "straight", place / "killed"
        began = time.monotonic()
        _start(args.experiment, straight, args.jobs).wait()
        whole = time.monotonic() - began
        print(f"straight: {whole:.0f} s", flush=True)
        moments = random.Random(args.seed)
        for number in range(1, args.kills + 1):
            after = moments.uniform(0.1, 1.0) * 2 * whole / (args.kills + 1)
            process = _start(args.experiment, killed, args.jobs)
            try:
                process.wait(after)
                print(f"kill {number}: it had ended before {after:.0f} s", flush=True)
                break
            except subprocess.TimeoutExpired:
                workers = _workers(process.pid)
                process.kill()
                for pid in workers if number % 2 == 0 else ():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                process.wait()
            ended = sum(1 for _ in killed.rglob("metrics.json"))
            print(f"kill {number} after {after:.0f} s: {ended} runs finished", flush=True)
        code = _start(args.experiment, killed, args.jobs).wait()
        differ = [*([f"exit code {code}"] if code else []), *differences(straight, killed)]
    for line in differ:
        print(line)
    print("equal" if not differ else f"{len(differ)} differences")
    return 1 if differ else 0


def _start(experiment: Path, output: Path, jobs: int | None) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "dora_cli", "compare", str(experiment), "--output", str(output), "--quiet"]
    words += ["--resume"] if (output / "experiment.yaml").is_file() else []
    words += ["--jobs", str(jobs)] if jobs is not None else []
    return subprocess.Popen(words, stdout=subprocess.DEVNULL)


def _workers(pid: int) -> list[int]:
    """The processes that `pid` has started, where the system tells."""
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in found.read_text().split()] if found.is_file() else []


def differences(one: Path, other: Path) -> list[str]:
    """What two folders of an experiment differ in, a line each; times and memory apart."""
    found = []
    if _record(one / "comparison.json") != _record(other / "comparison.json"):
        found.append("comparison.json differs")
    runs = [{path.parent.relative_to(folder) for path in folder.rglob("metrics.json")} for folder in (one, other)]
    found += [f"{run} is in one folder alone" for run in sorted(runs[0] ^ runs[1])]
    for run in sorted(runs[0] & runs[1]):
        if _record(one / run / "metrics.json") != _record(other / run / "metrics.json"):
            found.append(f"{run}: metrics.json differs")
        for path in sorted((one / run / "adapter").glob("*.safetensors")):
            if path.read_bytes() != (other / run / "adapter" / path.name).read_bytes():
                found.append(f"{run}: {path.name} differs")
    return found


def _record(path: Path) -> Any:
    return _without_times(json.loads(path.read_text(encoding="utf-8")))


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(inner) for key, inner in value.items() if key not in TIMES}
    return [_without_times(inner) for inner in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
