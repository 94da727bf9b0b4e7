"""Many short runs through the worker processes of `dora compare`: how many seconds each takes, and where they go.

    python scripts/bench_compare.py [--runs 150] [--steps 500] [--model builtin:tiny-encoder] [--task cola]
    [--data FOLDER] [--methods lora,dora] [--batch 16] [--device auto] [--jobs N] [--set KEY=VALUE ...] [--output DIR]
    [--json FILE]

The runs take turns over the methods and over seeds from 1 on. FOLDER holds the official files of the GLUE task; without
it examples are generated. Every run is evaluated once, at its end. They go into a temporary folder unless DIR is given.

Printed are the seconds from the first worker's start to the last run's end, in all and for each run, and the mean
seconds of a run in its worker:

    read         examples of all splits
    load         base model and tokenizer
    adapt        adapters attached, model fingerprinted and moved to the device
    encode       all texts made tokens, of the evaluated split too
    rehearse     the trial of a few rows before the run
    capture      CUDA graphs made, within training
    steps        the rest of training
    evaluation, saving
    rest         checks, records and whatever else

The runs of one worker follow each other, so the workers' seconds add up to more than those of the clock. `first` are
the runs that a worker began with, which load libraries and compile kernels; `warm` all others. FILE holds all of it.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench_train import WRAPPED

PARTS = ("read", "load", "adapt", "encode", "rehearse", "capture", "steps", "evaluation", "saving", "rest")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=150)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--model", default="builtin:tiny-encoder")
    parser.add_argument("--task", default="cola", help="of GLUE")
    parser.add_argument("--data", type=Path, metavar="FOLDER")
    parser.add_argument("--methods", default="lora,dora")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--output", type=Path, metavar="DIR")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    if args.json and not args.json.absolute().parent.is_dir():
        parser.error(f"--json {args.json}: there is no folder {args.json.absolute().parent}")
    from dora_cli.errors import StoppedError

    with tempfile.TemporaryDirectory(prefix="dora-bench-") as folder:
        try:
            record = bench(args, (args.output or Path(folder)).absolute())
        except StoppedError as error:
            print(error, file=sys.stderr)
            return error.exit_code
    print_table(record)
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def bench(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Makes the runs; raises what ends one of them."""
    from dora_cli.compare.workers.local import LocalPool
    from dora_cli.compare.workers.stopping import closing

    left = jobs(args, folder)
    found: list[dict[str, Any]] = []
    notes: list[str] = []
    began, under_way, most = time.perf_counter(), 0, 0
    new = LocalPool(args.device, args.jobs, runs=len(left), note=notes.append, load=timed)
    with closing(new, "start it again") as pool:
        while left or under_way:
            while left and pool.free:
                pool.submit(left.pop(0))
                under_way += 1
            most = max(most, under_way)
            for job, ended in pool.wait():
                under_way -= 1
                if ended.outcome not in ("finished", "diverged"):
                    raise SystemExit(f"{job.name}: {ended.message}")
                found.append(
                    {"name": job.name, "ended_at": time.perf_counter() - began, "outcome": ended.outcome}
                    | json.loads(phases_of(job.folder).read_text())
                )
    wall = time.perf_counter() - began
    return {
        "model": args.model,
        "task": args.task,
        "steps": args.steps,
        "batch": args.batch,
        "methods": args.methods,
        "overrides": args.overrides,
        "device": args.device,
        "workers": most,
        "runs": len(found),
        "wall_seconds": wall,
        "seconds_per_run": wall / len(found),
        "seconds_in_worker": {
            kind: summary([run for run in found if kind == "all" or run["first"] == (kind == "first")])
            for kind in ("all", "first", "warm")
        },
        "notes": notes,
        "each": found,
    }


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    """Mean and median seconds of a run, and the mean of each part."""
    if not runs:
        return None
    seconds = [run["seconds"] for run in runs]
    parts = {part: statistics.fmean(run["parts"][part] for run in runs) for part in PARTS}
    return {"mean": statistics.fmean(seconds), "median": statistics.median(seconds), **parts}


def jobs(args: argparse.Namespace, folder: Path) -> list[Any]:
    """The runs that are wanted."""
    from dora_cli import parse_recipe
    from dora_cli.compare.jobs import Job

    methods = args.methods.split(",")
    data = {"source": "builtin"} if args.data is None else {"source": "glue-tsv", "path": str(args.data.absolute())}
    local = Path(args.model)
    sections = {
        "task": f"glue/{args.task}",
        "model": {"name": str(local.absolute()) if local.is_dir() else args.model},
        "data": data,
        "train": {"epochs": 1000, "max_steps": args.steps, "batch_size": args.batch, "learning_rate": 1e-3,
                  "device": args.device, "threads": 1, "log_every": 100},
        "eval": {"batch_size": 256, "every": "end"},
    }  # fmt: skip
    found = []
    for number in range(args.runs):
        method, seed = methods[number % len(methods)], 1 + number // len(methods)
        text = json.dumps(sections | {"method": {"name": method}})  # YAML holds JSON
        recipe = parse_recipe(text, overrides=[*args.overrides, f"train.seed={seed}"])
        name = f"{method}-{seed}"
        found.append(Job(name, folder / name, recipe))
    return found


def phases_of(run: Path) -> Path:
    """Where a worker writes down the parts of a run."""
    return run.with_name(f"{run.name}.phases.json")


def print_table(record: dict[str, Any]) -> None:
    """To stdout."""
    print(
        f"{record['runs']:,} runs of {record['steps']:,} steps, {record['model']}, {record['task']}, batch "
        f"{record['batch']}: {record['wall_seconds']:.1f} s with {record['workers']} at once, "
        f"{record['seconds_per_run']:.2f} s a run"
    )
    kinds = {kind: found for kind, found in record["seconds_in_worker"].items() if found is not None}
    print(f"  {'in its worker':<14}" + "".join(f"{kind:>9}" for kind in kinds))
    for part in ("mean", "median", *PARTS):
        print(f"  {part:<14}" + "".join(f"{found[part]:>7.2f} s" for found in kinds.values()))
    for note in record["notes"]:
        print(f"  {note}")


# -- in a worker -------------------------------------------------------------------------------------------------------


class Clock:
    """Seconds of the parts of the run under way."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - began

        return timed


def timed() -> Callable[[Any], Any]:
    """What `dora_cli.compare.workers.worker.ready` gives, with a clock around the product's functions."""
    from dora_cli.assembly import data, prepare, warm
    from dora_cli.compare.workers.worker import ready
    from dora_cli.machine.graphs import Graphs

    began = time.perf_counter()
    clock, make = Clock(), ready()
    for name, part in (WRAPPED | {"rehearse": "rehearse"}).items():
        place: Any = next(module for module in (prepare, warm, data) if hasattr(module, name))
        setattr(place, name, clock.around(part, getattr(place, name)))
    Graphs._capture = clock.around("capture", Graphs._capture)  # type: ignore[method-assign]
    loading = [time.perf_counter() - began]

    def timed_make(job: Any) -> Any:
        clock.seconds.clear()
        began = time.perf_counter()
        ended, used = make(job)
        wall = time.perf_counter() - began
        parts = dict(clock.seconds)
        if ended.outcome == "finished":
            timing = json.loads((job.folder / "metrics.json").read_text())["timing"]
            parts["steps"] = timing["train_seconds"] - parts.get("capture", 0.0)
            parts["evaluation"], parts["saving"] = timing["evaluation_seconds"], timing["saving_seconds"]
        parts["rest"] = wall - sum(parts.values())
        record = {"seconds": wall, "parts": {part: parts.get(part, 0.0) for part in PARTS}, "first": bool(loading)}
        loading.clear()
        phases_of(job.folder).write_text(json.dumps(record))
        return ended, used

    return timed_make


if __name__ == "__main__":
    sys.exit(main())
