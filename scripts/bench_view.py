"""What the live view costs a training: microseconds told to it per step, milliseconds per picture, and steps per second
with and without.

    python scripts/bench_view.py                       # pictures of several models, then a real run of the
    demonstration, on the CPU python scripts/bench_view.py --device cuda --rounds 5 python scripts/bench_view.py
    --rounds 0            # pictures alone

The share of a run's time is measured as the processor time of the view's own thread plus what the loop's thread spends
in the listener, over the run's; the steps per second, which scatter by several per cent on a shared machine, are only a
check.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from dora_cli.recipe import load_recipe
from dora_cli.reports.live.screen import PAUSE, SHARE, Screen
from dora_cli.reports.progress import RunListener
from dora_cli.training.listener import EvalLog, Listener, RunStart, SilentListener, StepLog
from dora_cli.training.run import train

ROOT = Path(__file__).resolve().parents[1]
SHAPES = {"6 blocks x 6": (6, 6), "12 x 6": (12, 6), "30 x 7": (30, 7), "48 x 7": (48, 7)}
SIZES = ((80, 24), (120, 40), (200, 50))


def terminal(width: int, height: int) -> Console:
    """A terminal of many colours that goes nowhere."""
    return Console(
        file=open(os.devnull, "w"),
        force_terminal=True,
        color_system="truecolor",
        width=width,
        height=height,
        highlight=False,
    )


def pictures() -> None:
    """Milliseconds of one picture, how often it is then drawn, and microseconds of a tick."""
    print(f"{'model':<14}{'terminal':<10}{'first ms':>9}{'ms':>7}{'a second':>10}{'tick us':>9}")
    for name, (blocks, projections) in SHAPES.items():
        for width, height in SIZES:
            listener = RunListener(terminal(width, height), terminal(width, height), live=True)
            layers = [
                {
                    "name": f"encoder.layer.{block}.attention.p{index}", "stack": "encoder", "block": block,
                    "attention": "self",
                    "projection": f"attention.p{index}", "group": "attention", "shape": [768, 768], "start_rank": 12,
                    "rank": 12,
                }
                for block in range(blocks)
                for index in range(projections)
            ]  # fmt: skip
            listener.start(_start(layers))
            for step in range(1, 501):
                listener.tick(step, "pruning", 100)
                if step % 10 == 0:
                    log = StepLog(step, 1, "pruning", 100, 100, 1 / step, 0.01, 1.0, 1e-3, 20.0, 300.0, 2**30)
                    listener.logged(log)
                    listener.evaluated(EvalLog(1, step, "pruning", 0.5, {"accuracy": step / 500}, "accuracy", True))
            screen = listener._screen
            assert screen is not None
            first = _cpu(screen.refresh)
            times = [_cpu(screen.refresh) for _ in range(50)]
            began = time.perf_counter()
            for step in range(1, 10_001):
                listener.tick(step % 500 + 1, "pruning", 100)
            tick = (time.perf_counter() - began) / 10_000
            listener.close()
            rate = 1 / max(PAUSE, median(times) / SHARE)
            size = f"{width}x{height}"
            figures = f"{first * 1e3:>9.2f}{median(times) * 1e3:>7.2f}{rate:>10.1f}{tick * 1e6:>9.2f}"
            print(f"{name:<14}{size:<10}{figures}")


def _cpu(call: Any) -> float:
    began = time.thread_time()
    call()
    return time.thread_time() - began


def _start(layers: list[dict[str, Any]]) -> RunStart:
    start = sum(layer["start_rank"] for layer in layers)
    return RunStart(
        task="glue/rte", model="roberta-base", method="dora", device="cpu", precision="fp32", seed=1,
        output=Path("runs/x"),
        total_steps=1000, steps_per_epoch=100, epochs=10, global_batch=16, projections=len(layers),
        schedule={"start_components": start, "final_components": start * 2 // 3}, trainable_parameters=1,
        head_parameters=1,
        phases=(("warm-up", 1, 150), ("pruning", 151, 500), ("final", 501, 1000)), events=tuple(range(150, 501, 10)),
        layers=layers,
    )  # fmt: skip


class Timed:
    """A listener whose calls are timed, in processor time of their thread."""

    def __init__(self, inner: Listener) -> None:
        self.inner = inner
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)
        if name in ("start", "finish", "close"):  # not of the steps
            return method

        def call(*arguments: Any) -> None:
            began = time.thread_time()
            method(*arguments)
            self.seconds += time.thread_time() - began

        return call


class CountedScreen(Screen):
    """Adds up the processor time of the view's own thread."""

    drawn = 0
    seconds = 0.0

    def _run(self) -> None:
        refresh = self.refresh

        def counted() -> None:
            began = time.thread_time()
            refresh()
            type(self).seconds += time.thread_time() - began
            type(self).drawn += 1

        self.refresh = counted  # type: ignore[method-assign]
        super()._run()


def real(recipe_path: Path, device: str, rounds: int) -> None:
    """Alternates runs with and without the view; one of each first, which does not count."""
    import dora_cli.reports.progress as progress

    progress.Screen = CountedScreen  # type: ignore[misc]
    recipe = load_recipe(recipe_path, [f"train.device={device}"])
    rates: dict[str, list[float]] = {"with": [], "without": []}
    shares = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds + 1):
            for kind in ("without", "with"):
                CountedScreen.seconds, CountedScreen.drawn = 0.0, 0
                shown = RunListener(terminal(120, 40), terminal(120, 40), live=True, brief=True)
                listener: Any = Timed(shown) if kind == "with" else SilentListener()
                result = train(recipe, Path(folder) / f"{turn}-{kind}", listener=listener)
                timing = result.metrics["timing"]
                if not turn:
                    continue
                rates[kind].append(timing["steps_per_second"])
                if kind == "with":
                    whole = timing["train_seconds"] + timing["evaluation_seconds"] + timing["saving_seconds"]
                    shares.append((CountedScreen.seconds + listener.seconds) / whole)
                    drawn, spent = CountedScreen.drawn, CountedScreen.seconds
                    print(
                        f"run of {whole:.1f} s: {drawn} pictures ({drawn / whole:.1f} a second) took "
                        f"{spent * 1e3:.0f} ms, the listener's calls {listener.seconds * 1e3:.0f} ms: "
                        f"{100 * shares[-1]:.2f} %"
                    )
    one, other = median(rates["without"]), median(rates["with"])
    print(f"share of the time, median of {rounds}: {100 * median(shares):.2f} %")
    print(
        f"steps per second: {one:.1f} without, {other:.1f} with the view ({100 * (one / other - 1):+.1f} % time per "
        "step)"
    )
    print(
        "without:", *(f"{rate:.1f}" for rate in rates["without"]), " with:", *(f"{rate:.1f}" for rate in rates["with"])
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=ROOT / "configs/demo/sst2.yaml")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3, help="real runs with and without the view; 0: none")
    arguments = parser.parse_args()
    pictures()
    if arguments.rounds:
        print()
        real(arguments.recipe, arguments.device, arguments.rounds)


if __name__ == "__main__":
    main()
