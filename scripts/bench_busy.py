"""`dora train` beside other busy processes: does it take longer than its share of the cores explains?

    python scripts/bench_busy.py [--recipe RECIPE] [--set KEY=VALUE ...] [--steps 300] [--busy 0,1,2,4] [--rounds 1]
    [--json FILE]

Runs the demonstration for 300 steps, the whole command in a new process each time, alone and beside 1, 2 and 4
processes that count without end, and prints of each:

    seconds   from the command's start to its end, the fewest of all rounds
    ratio     seconds, over those alone
    fair      what the ratio would be if all that compute had equal shares of the cores: (busy + threads) / cores, at
        least 1
    over      ratio / fair

The run's own environment.json says how many threads it had. Threads that spin while they wait for each other show in
`over`: the mark is at most 1.5, and above it the exit code is 1. Needs an otherwise idle machine. FILE holds the same
figures with `cores` and `threads`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MARK = 1.5
_COUNT = "while True: pass"
start = subprocess.Popen


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=ROOT / "configs" / "demo" / "sst2.yaml")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument(
        "--busy", type=lambda text: [int(part) for part in text.split(",")], default=[0, 1, 2, 4], metavar="0,1,2,4"
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    if args.busy[0] != 0 or min(args.busy) < 0 or args.rounds < 1:
        parser.error("--busy begins with 0, the command alone, and --rounds is at least 1")
    overrides = [f"train.max_steps={args.steps}", *args.overrides]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    seconds: dict[int, float] = {}
    threads = 1
    for _ in range(args.rounds):
        for busy in args.busy:
            with beside(busy):
                took, threads = run(args.recipe, overrides)
            seconds[busy] = min(took, seconds.get(busy, took))
    rows = compare(seconds, cores=cores, threads=threads)
    print(f"{args.steps} steps of {args.recipe.name}: {threads} thread(s) on {cores} core(s)")
    print(f"{'busy':>4}  {'seconds':>7}  {'ratio':>5}  {'fair':>5}  {'over':>5}")
    for row in rows:
        print(
            f"{row['busy']:>4}  {row['seconds']:>7.1f}  {row['ratio']:>5.2f}  {row['fair']:>5.2f}  {row['over']:>5.2f}"
        )
    if args.json:
        args.json.write_text(
            json.dumps({"cores": cores, "threads": threads, "steps": args.steps, "rows": rows}, indent=1) + "\n"
        )
    return int(any(row["over"] > MARK for row in rows))


@contextlib.contextmanager
def beside(count: int) -> Iterator[None]:
    """So many processes that keep a core busy each."""
    processes = [start([sys.executable, "-c", _COUNT]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def run(recipe: Path, overrides: Sequence[str]) -> tuple[float, int]:
    """Seconds of the whole command, and the threads that its run had."""
    with tempfile.TemporaryDirectory(prefix="dora-busy-") as folder:
        output = Path(folder) / "run"
        changes = [part for override in overrides for part in ("--set", override)]
        command = [sys.executable, "-m", "dora_cli", "train", str(recipe), "--output", str(output), "--quiet", *changes]
        began = time.monotonic()
        subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
        took = time.monotonic() - began
        return took, json.loads((output / "environment.json").read_text())["cpu_threads"]


def compare(seconds: dict[int, float], *, cores: int, threads: int) -> list[dict[str, Any]]:
    """What is printed: ``busy, seconds, ratio, fair, over`` of each number of busy processes."""
    rows = []
    for busy, took in seconds.items():
        ratio, fair = took / seconds[0], max(1.0, (busy + min(threads, cores)) / cores)
        rows.append({"busy": busy, "seconds": took, "ratio": ratio, "fair": fair, "over": ratio / fair})
    return rows


if __name__ == "__main__":
    sys.exit(main())
