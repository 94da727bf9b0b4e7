"""Short runs that tell how long whole ones take: a few steps, and an evaluation of a few examples."""

from __future__ import annotations

import math
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from dora_cli.assembly.build import make_method
from dora_cli.assembly.resolve import resolve
from dora_cli.assembly.warm import Warm
from dora_cli.compare.cells import Cell
from dora_cli.compare.variants import override
from dora_cli.errors import BudgetError, StoppedError
from dora_cli.evaluation.measuring import DECODING
from dora_cli.recipe import Recipe, dump_recipe, parse_recipe
from dora_cli.runs.run_folder import RunRecords
from dora_cli.training.listener import EvalLog, RunStart, SilentListener, StepLog
from dora_cli.wording import plural

FEWEST_STEPS = 2
"""Steps of a trial whose steps are long."""
TRIAL_STEPS = 12
"""Steps of one whose steps are short."""
LONG_SECONDS = 0.5
"""What steps take after the first one, together, that need not be timed again in a longer trial."""
TRIAL_EXAMPLES = 32
"""Examples that a trial on the CPU evaluates at the most; on a GPU, where few take as long as a batch, it is a batch.
"""


@dataclass(frozen=True)
class Parts:
    """Seconds of a run by what they are spent on.

    Attributes:
        once: what is done once: data and model are loaded, and the results are saved.
        step: a training step.
        evaluation: all evaluations and what is written at the end.
    """

    once: float
    step: float
    evaluation: float

    def whole(self, steps: int) -> float:
        """Seconds of a run of so many steps."""
        return self.once + self.step * steps + self.evaluation

    def like(self, other: Parts, base: Parts, *, once: float) -> Parts:
        """Those of a run whose steps and evaluation are to these as `other`'s are to `base`'s."""
        evaluation = other.evaluation / base.evaluation if base.evaluation else 1.0
        return Parts(once, self.step * other.step / base.step, self.evaluation * evaluation)


class Trials:
    """Makes short runs in folders that are removed again.

    Args:
        train: `dora_cli.training.run.train`.
        note: told which trial is made.
        warm: what earlier runs have left.
    """

    def __init__(self, train: Callable[..., object], note: Callable[[str], None], warm: Warm) -> None:
        self._train, self._note, self._warm = train, note, warm
        self._steps: set[int] = set()

    @property
    def counts(self) -> str:
        """How many steps were timed, such as ``2 to 12 trial steps``."""
        least, most = min(self._steps), max(self._steps)
        return plural(most, "trial step") if least == most else f"{least:,} to {plural(most, 'trial step')}"

    def begin(self, cell: Cell) -> float:
        """Seconds until a run of the cell would make its first step, where it is stopped.

        Raises:
            DoraError: the run cannot begin.
        """
        began = time.perf_counter()
        with suppress(_BegunError):
            self._made(_recipe(cell), _StopAtStart())
        return time.perf_counter() - began

    def time(self, cell: Cell) -> Parts:
        """What a run of the cell takes, from one that could begin and a short one.

        The short one has at first as few steps as a method's phases allow. Where these take no time worth speaking of,
        another one has more, `TRIAL_STEPS` at the most.

        Raises:
            DoraError: the run cannot begin, or fails in its first steps.
        """
        self.begin(cell)
        whole_run = cell.ahead.length.total_steps
        steps = min(FEWEST_STEPS, whole_run)
        while True:
            self._note(f"{cell.name}: {plural(steps, 'trial step')}")
            try:
                parts = self._timed(cell, steps)
            except BudgetError:
                if steps == whole_run:
                    raise
                steps = min(2 * steps, whole_run)
                continue
            most = min(TRIAL_STEPS, whole_run)
            if steps >= most or parts.step * (steps - 1) >= LONG_SECONDS:
                self._steps.add(steps)
                return parts
            steps = min(most, 1 + math.ceil(2 * LONG_SECONDS / max(parts.step, 1e-9)))  # which surely take so long

    def _timed(self, cell: Cell, steps: int) -> Parts:
        """What a run of so many steps takes; its evaluation of all examples by that of a few."""
        recipe = _short(_recipe(cell), steps)
        few = TRIAL_EXAMPLES if cell.ahead.device == "cpu" else max(TRIAL_EXAMPLES, recipe.eval.batch_size)
        few = min(few, recipe.data.max_eval_samples or few)
        limited = parse_recipe(dump_recipe(recipe), overrides=[override("data.max_eval_samples", few)])
        watch = _Watch()
        began = time.perf_counter()
        timing = self._made(limited, watch)["timing"]
        whole = time.perf_counter() - began
        writing = timing.get("decoding_seconds", 0.0)
        step = timing["train_seconds"] / steps
        if recipe.federated is None:  # whose steps are logged all at once
            step = watch.step_seconds or step
        once = max(whole - timing["train_seconds"] - timing.get("evaluation_seconds", 0.0) - writing, 0.0)
        share = self._evaluated(recipe) / max(self._evaluated(limited), 1)
        greedy = few if recipe.decode is None else recipe.decode.epoch_samples  # of which no more are written
        evaluation = (watch.measuring_seconds + writing) * share
        evaluation += watch.greedy_seconds * min(greedy, few * share) / max(min(greedy, few), 1)
        return Parts(once, step, evaluation)

    def _evaluated(self, recipe: Recipe) -> int:
        """How many examples its runs evaluate."""
        recipe, task = resolve(recipe)
        data = self._warm.load_data(recipe, task, held_out=make_method(recipe).held_out)
        return sum(len(part) for part in data.evaluated.values())

    def _made(self, recipe: Recipe, listener: SilentListener) -> dict[str, Any]:
        """The record of a run that is made and removed."""
        with tempfile.TemporaryDirectory(prefix="dora-trial-") as folder:
            place = Path(folder) / "run"
            try:
                self._train(recipe, place, listener=listener, warm=self._warm)
            except StoppedError as stop:  # which would say how to go on with it
                number = stop.exit_code - 128
                said = f"stopped by {signal.Signals(number).name}; nothing is kept of trials"
                raise StoppedError(said, number) from None
            return RunRecords(place).read_metrics()


class _BegunError(Exception):
    """Ends a run that was only to begin."""


class _StopAtStart(SilentListener):
    """Ends a run where its first step would begin."""

    def start(self, start: RunStart) -> None:
        raise _BegunError


class _Watch(SilentListener):
    """When the steps of a run and its evaluation ended."""

    def __init__(self) -> None:
        self._steps: list[float] = []
        self._rows_done = 0.0
        self._writes = False
        self.measuring_seconds = 0.0
        """From the last step to the end of the passes over the evaluated splits."""
        self.greedy_seconds = 0.0
        """What texts take that are written greedily after an epoch."""

    @property
    def step_seconds(self) -> float | None:
        """The median step's, without the first one, which warms up; None where there is no other."""
        return statistics.median(after - before for before, after in pairwise(self._steps)) if self._steps[1:] else None

    def logged(self, log: StepLog) -> None:
        self._steps.append(time.perf_counter())

    def evaluated(self, log: EvalLog) -> None:
        now = time.perf_counter()
        measured = self._rows_done if self._writes else now
        self.measuring_seconds, self.greedy_seconds = measured - self._steps[-1], now - measured

    def evaluating(self, split: str, done: int, total: int) -> None:
        if split.endswith(DECODING):
            self._writes = True
        else:
            self._rows_done = time.perf_counter()


def _recipe(cell: Cell) -> Recipe:
    """That of a measured run."""
    more = () if cell.measured_share is None else cell.in_tuning
    return parse_recipe(dump_recipe(cell.recipe), overrides=more)


def _short(recipe: Recipe, steps: int) -> Recipe:
    changes = [override("train.max_steps", steps), "train.log_every=1", "eval.every=end"]
    changes.append("train.lr_warmup_steps=null")  # which may be more than all steps of a trial
    if recipe.federated is not None:
        changes += ["federated.rounds=1", override("federated.local_steps", steps)]
    if hasattr(recipe.method, "prune_interval"):
        changes.append("method.prune_interval=1")
    return parse_recipe(dump_recipe(recipe), overrides=changes)
