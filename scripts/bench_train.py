"""`dora train` from its process's start to its end: where the wall time goes.

    python scripts/bench_train.py RECIPE [--set KEY=VALUE ...] [--shapes roberta-base --tokenizer FOLDER] [--output DIR]
    [--json FILE]

Runs `dora train RECIPE` in a new process, in a temporary folder unless DIR is given, and prints seconds from the start
of that process:

    imports      Python itself, PyTorch and the package, until the run begins
    read         examples of all splits
    load         base model and tokenizer, with the imports that these need
    adapt        adapters attached, model fingerprinted and moved to the device (on CUDA: the device's own start)
    encode       all texts made tokens, of the evaluated splits too
    in steps     inside optimiser steps, on the device's clock on CUDA
    between      the rest of training: batches, logging, whatever the device waits for between two steps
    evaluation, decoding, saving (evaluation with the imports of metrics, which come after the first step)
    rest         of the run: checks and records
    end          what is shown at the end, and the end of the process

`share_in_steps` is the share of steps in all of it, `steps_per_second` counts them against the whole of training.
`first_step_began_at` and `first_step_done_at` are moments after the process's start (a captured step, if there is one,
is captured within the first steps). Evaluation, decoding and saving are the seconds of the run's own metrics.json; the
others are taken around the product's functions. On CUDA every step lies between two events in its stream, for which
nothing waits. Only what the run shows on stderr is shown.

With ``--shapes`` the model is made first, with random weights and the tokenizer of FOLDER (any local model): for timing
at RoBERTa-base's size without a download. Its metrics mean nothing. FILE holds `device`, `recipe`, `seconds`, and the
figures named above.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

WRAPPED = {
    "load_split": "read",
    "load_base": "load",
    "adapt": "adapt",
    "encode_split": "encode",
}
"""Functions that `dora_cli.assembly.prepare`, ``warm`` and ``data`` call before the first step, and what they do."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--shapes", choices=["roberta-base", "roberta-large"])
    parser.add_argument("--tokenizer", type=Path, metavar="FOLDER")
    parser.add_argument("--output", type=Path, metavar="DIR", help="keep the run here")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    if (args.shapes is None) != (args.tokenizer is None):
        parser.error(
            "--shapes and --tokenizer go together: the tokenizer of a local model folder serves a model of those shapes"
        )
    if args.json and not args.json.absolute().parent.is_dir():
        parser.error(f"--json {args.json}: there is no folder {args.json.absolute().parent}")
    with tempfile.TemporaryDirectory(prefix="dora-bench-") as folder:
        made: Path | None = None
        if args.shapes:
            from bench_models import SHAPES, save_random

            made = Path(folder) / args.shapes
            try:
                save_random(made, SHAPES[args.shapes], args.tokenizer)
            except (OSError, ValueError) as error:
                parser.error(f"--tokenizer {args.tokenizer} cannot be used: {error}")
        return bench(
            args.recipe,
            args.overrides,
            made,
            args.output or Path(folder) / "run",
            Path(folder) / "moments.json",
            args.json,
        )


def bench(
    recipe: Path, overrides: Sequence[str], made: Path | None, output: Path, moments: Path, target: Path | None
) -> int:
    """Runs the training in a child process and writes down where its time went; the child's exit code if it failed.

    Args:
        made: a model with random weights, named after its shapes, that takes the place of the recipe's.
    """
    changes = [*overrides, *([f"model.name={made}"] if made else ())]
    command = [
        "train",
        str(recipe),
        "--output",
        str(output),
        *(part for change in changes for part in ("--set", change)),
    ]
    began = time.monotonic()
    code = subprocess.run(
        [sys.executable, __file__, "--child", str(moments), *command], stdout=subprocess.DEVNULL, check=False
    ).returncode
    wall = time.monotonic() - began
    if code:
        return code
    found = json.loads(moments.read_text())
    metrics = json.loads((output / "metrics.json").read_text())
    environment = json.loads((output / "environment.json").read_text())
    record = breakdown(found, metrics["timing"], wall=wall, began=began)
    record = {
        "device": environment["device"],
        "precision": environment["precision"],
        "cpu_threads": environment["cpu_threads"],
        "versions": environment["packages"],
        "recipe": str(recipe),
        "overrides": list(overrides),
        "random_weights": made.name if made else None,
        "model": made.name if made else metrics["model"],
        **record,
        "notes": found["notes"],
    }
    print_table(record)
    if target:
        target.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def breakdown(found: dict[str, Any], timing: dict[str, Any], *, wall: float, began: float) -> dict[str, Any]:
    """The parts of `wall` seconds; `found` is what the child wrote down, `began` the moment it was started."""
    training = timing["train_seconds"]
    in_steps = min(found["in_steps"], training)
    seconds = {
        "imports": found["train_called"] - began,
        **{part: found["seconds"].get(part, 0.0) for part in dict.fromkeys(WRAPPED.values())},
        "in steps": in_steps,
        "between": training - in_steps,
        "evaluation": timing["evaluation_seconds"],
        "decoding": timing.get("decoding_seconds", 0.0),
        "saving": timing["saving_seconds"],
    }
    end = began + wall - found["train_returned"]
    seconds |= {"rest": wall - sum(seconds.values()) - end, "end": end}
    return {
        "wall_seconds": wall,
        "seconds": seconds,
        "first_step_began_at": found["first_step_began"] - began,
        "first_step_done_at": found["first_step_done"] - began,
        "steps": found["steps"],
        "share_in_steps": in_steps / wall,
        "steps_per_second": timing["steps_per_second"],
        "samples_per_second": timing["samples_per_second"],
        "ms_per_step": 1000 * in_steps / found["steps"],
        "peak_memory_bytes": timing["peak_memory_bytes"],
    }


def print_table(record: dict[str, Any]) -> None:
    """To stdout."""
    model = f"{record['random_weights']} with random weights" if record["random_weights"] else record["model"]
    setting = f"{record['device']}, {record['precision']}, {model}"
    print(f"{setting}: {record['steps']:,} steps in {record['wall_seconds']:.1f} s of wall time")
    for part, seconds in record["seconds"].items():
        print(f"  {part:<11}{seconds:>9.2f} s  {seconds / record['wall_seconds']:>6.1%}")
    print(
        f"first step at {record['first_step_began_at']:.1f} s, done at {record['first_step_done_at']:.1f} s; "
        f"{record['steps_per_second']:.2f} steps/s, {record['ms_per_step']:.2f} ms in each, "
        f"{record['share_in_steps']:.1%} of the wall time in steps"
    )


# -- in the child ------------------------------------------------------------------------------------------------------


class Listening:
    """A listener that notes moments and hands everything on to the one that shows the run."""

    def __init__(self, listener: Any, found: dict[str, Any]) -> None:
        self._listener, self._found = listener, found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listener, name)

    def note(self, message: str) -> None:
        self._found["notes"].append(message)
        self._listener.note(message)


class Stopwatch:
    """Times calls on the host, and those of steps on the device."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._steps: list[tuple[Any, Any]] = []
        self.first: tuple[float, float] | None = None

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self.first is not None:  # the best weights of a generator are loaded at the end, to be decoded
                return function(*args, **kwargs)
            began = time.monotonic()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part] = self.seconds.get(part, 0.0) + time.monotonic() - began

        return timed

    def around_step(self, step: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(step)
        def timed(function: Any, *args: Any, **kwargs: Any) -> Any:
            before, began = self._mark(function.accelerator.device), time.monotonic()
            result = step(function, *args, **kwargs)
            self._steps.append((before, self._mark(function.accelerator.device)))
            if self.first is None:
                self.first = (began, time.monotonic())
            return result

        return timed

    @staticmethod
    def _mark(device: Any) -> Any:
        if device.type != "cuda":
            return time.monotonic()
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def steps(self) -> tuple[int, float]:
        """How many, and their seconds."""
        if not self._steps or isinstance(self._steps[0][0], float):
            return len(self._steps), sum(after - before for before, after in self._steps)
        import torch

        torch.cuda.synchronize()
        return len(self._steps), sum(before.elapsed_time(after) for before, after in self._steps) / 1000


def child(moments: Path, command: Sequence[str]) -> None:
    """``dora COMMAND`` with a stopwatch around the product's functions; what it showed goes to `moments`."""
    from dora_cli.__main__ import main as dora
    from dora_cli.assembly import data, prepare, warm
    from dora_cli.training import run
    from dora_cli.training.step import TrainingStep

    watch, train = Stopwatch(), run.train
    found: dict[str, Any] = {"notes": []}
    for name, part in WRAPPED.items():
        place = next(module for module in (prepare, warm, data) if hasattr(module, name))
        setattr(place, name, watch.around(part, getattr(place, name)))
    TrainingStep.__call__ = watch.around_step(TrainingStep.__call__)  # type: ignore[method-assign]

    def watched(*args: Any, listener: Any = None, **kwargs: Any) -> Any:
        found["train_called"] = time.monotonic()
        result = train(*args, listener=Listening(listener, found), **kwargs)
        found["train_returned"] = time.monotonic()
        steps, seconds = watch.steps()
        assert watch.first is not None
        found.update(
            seconds=watch.seconds,
            steps=steps,
            in_steps=seconds,
            first_step_began=watch.first[0],
            first_step_done=watch.first[1],
        )
        moments.write_text(json.dumps(found))
        return result

    run.train = watched
    dora(command)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]), sys.argv[3:])
    else:
        sys.exit(main())
