"""Trains every method, and a task that generates, for a few steps, evaluates it and prints its ranks, by the program's
commands; a process a core takes one after the other, with its libraries loaded once.

    python scripts/try_methods.py [NAME ...] [--steps N] [--output DIR]

Ends with exit code 1 at the first command that fails.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from dora_cli.recipe.methods import METHODS

DEMO = Path(__file__).resolve().parents[1] / "configs" / "demo"
GENERATES = "e2e"


def commands(name: str, run: Path, steps: int) -> list[list[str]]:
    """What is run, one after the other."""
    if name == GENERATES:
        recipe = [str(DEMO / "e2e.yaml"), "--set", "data.max_eval_samples=16"]
    else:
        recipe = [str(DEMO / "sst2.yaml"), "--set", f"method.name={name}"]
    train = ["train", *recipe, "--set", f"train.max_steps={steps}", "--quiet", "--output", str(run)]
    return [train, ["eval", "--checkpoint", str(run)], ["ranks", str(run)]]


def attempt(name: str, run: Path, steps: int) -> tuple[str, bool]:
    """What the commands print, and whether all succeeded."""
    from dora_cli.commands import program

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        for command in commands(name, run, steps):
            print(f"$ dora {' '.join(command)}")
            try:
                program()(command, prog_name="dora")
            except SystemExit as end:
                if end.code:
                    return said.getvalue(), False
    return said.getvalue(), True


def main() -> None:
    parser = argparse.ArgumentParser(description="Tries every method by the program's commands.")
    parser.add_argument("names", nargs="*", default=[GENERATES, *METHODS], help="methods, or e2e; default: all")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--output", type=Path, help="where the runs are kept; default: nowhere")
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as unkept:
        output = chosen.output or Path(unkept)
        with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
            tries = [pool.submit(attempt, name, output / name, chosen.steps) for name in chosen.names]
            for done in as_completed(tries):
                said, succeeded = done.result()
                print(said, flush=True)
                if not succeeded:
                    pool.shutdown(cancel_futures=True)
                    sys.exit(1)


if __name__ == "__main__":
    main()
