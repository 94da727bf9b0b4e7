"""Kills `dora` at random moments, calls it again, kills it again; compares what comes out with a command that was left
alone.

    python scripts/kill_campaign.py [--kills 500] [--seed 1] [--jobs 2]

Kinds of command take turns: a classifier and a generator (accumulation, dropout, every phase of DoRA, a checkpoint
after every step or every few), two seeds, one and several runs over earlier ones with files of the user's beside them,
both kinds of export, pages and pictures, each where nothing was and over an earlier one. Half of the moments are
uniform over the time of the whole command, from the process's start to its end; the other half over the places where
the program computes, writes, moves or removes. Writings rest for some milliseconds after each part, so that moments
fall there too.

What a kill leaves is looked at: an earlier export or page must be whole, absent, or replaced by the whole new one; an
earlier run whole, or no longer called finished; the user's files there. The killed command is called again until it
ends. Then weights, records, log, outputs, optimiser and random states, exports and pages must be to the bit those of
the command that was left alone, but for times, and no file may be left over. Prints where the kills fell; exits 1 if
anything differed, and names the folders, which are kept.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from threading import Lock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dora_cli.errors import DoraError
from dora_cli.recipe import parse_recipe
from tests.training.killed import Case, Result, Training
from tests.training.killing import Strike, Warm
from tests.training.marks import PHASES, PLACES, SAVES

CLASSIFIER = """
task: glue/sst2
model: {name: builtin:tiny-encoder}
data: {source: builtin, max_train_samples: 94, max_eval_samples: 40}
method: {name: dora, rank: 2, prune_interval: 3, dropout: 0.2}
train: {epochs: 4, batch_size: 4, gradient_accumulation: 4, learning_rate: 5.0e-3, log_every: 5, device: cpu}
save: {every_steps: 1}
"""
GENERATOR = """
task: e2e
model: {name: builtin:tiny-decoder}
data: {source: builtin, max_train_samples: 46, max_eval_samples: 5}
method: {name: dora, rank: 2, prune_interval: 2, dropout: 0.2}
train: {epochs: 3, batch_size: 2, gradient_accumulation: 4, learning_rate: 2.0e-2, log_every: 2, device: cpu}
eval: {batch_size: 4}
decode: {beams: 2, max_new_tokens: 12, batch_size: 3, epoch_samples: 2}
save: {every_steps: 2}
"""

SHORT = ("data.max_train_samples=62", "train.epochs=2", "save.every_steps=3")

REST = 0.005
"""Seconds after each part of a writing."""
ENOUGH = 20
"""Commands that differ, after which the campaign ends: kills alone would not end it where all commands fail at once."""
MOST = 6
"""Kills of one command, at most; a short one would be struck again and again, being as long as before each time."""


def make_cases(warm: Warm, folder: Path) -> list[tuple[str, partial[Case]]]:
    """Every kind of command by its name, ready to be made where its straight result is to be; the earlier runs are made
    at once.
    """
    pauses = dict.fromkeys((*SAVES, *PLACES), REST)
    run = partial(Training, warm, pauses=pauses)
    classifier, generator = parse_recipe(CLASSIFIER), parse_recipe(GENERATOR)
    short, other = (
        parse_recipe(CLASSIFIER, overrides=SHORT),
        parse_recipe(CLASSIFIER, overrides=[*SHORT, "method.rank=3"]),
    )
    old_run, old_seeds, old_texts = (folder / "old" / name for name in ("run", "seeds", "texts"))
    for recipe, seeds, place in ((other, None, old_run), (other, "1,2,3", old_seeds), (generator, None, old_texts)):
        Training(warm, place, recipe=recipe, seeds=seeds)
    finished, earlier = str(old_run / "place"), str(old_texts / "place")

    def result(name: str, *command: str, before: Path | None = None, option: str = "--output") -> partial[Case]:
        return partial(Result, warm, before=before, pauses=pauses, command=command, option=option, name=name)

    made: dict[str, partial[Case]] = {
        "train": partial(run, recipe=classifier),
        "train, texts": partial(run, recipe=generator),
        "train --seeds": partial(run, recipe=short, seeds="1,2"),
        "train --overwrite": partial(run, recipe=short, before=old_texts / "place"),
        "train --seeds --overwrite": partial(run, recipe=short, seeds="1,2", before=old_seeds / "place"),
    }
    results = {
        "export peft": (
            "adapter",
            ["export", "--checkpoint", finished, "--format", "peft"],
            ["--allow-unfrozen", "--pad", "common"],
        ),
        "export merged": ("model", ["export", "--checkpoint", finished, "--format", "merged"], ["--dtype", "bfloat16"]),
        "report": ("page.html", ["report", finished], [earlier]),
        "ranks --plot": ("map.svg", ["ranks", finished], ["--history"]),
    }
    for name, (place, command, more) in results.items():
        option = "--plot" if "--plot" in name else "--output"
        made[name] = result(place, *command, option=option)
        old = folder / "old" / place
        Result(warm, old, command=(*command, *more), option=option, name=place)
        made[f"{name} --overwrite"] = result(place, *command, option=option, before=old / place)
    return list(made.items())


def strikes(draw: random.Random, case: Case) -> Iterator[Strike]:
    """At times and at places by turns of a coin; one command is struck a few times."""
    places = list(dict.fromkeys(case.straight.marks))
    for _ in range(draw.randint(1, MOST)):
        if draw.random() < 0.5:
            yield Strike(after=draw.uniform(0, case.straight.seconds))
        else:
            yield Strike(draw.choice(places))


@dataclass
class Campaign:
    """What has been struck so far, and how that ended."""

    kills: int
    folder: Path
    fell: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    commands: int = 0
    lock: Lock = field(default_factory=Lock)

    @property
    def total(self) -> int:
        """Kills so far."""
        return sum(fell.total() for fell in self.fell.values())

    def strike(self, number: int, name: str, case: Case, draw: random.Random) -> None:
        """Kills one command until it has ended, and keeps its folder if anything is wrong."""
        folder, wrong = self.folder / f"struck-{number}", None
        phases: Counter[str] = Counter()

        try:
            for attempt in case.struck(folder, strikes(draw, case)):
                if attempt.code:
                    phases[attempt.phase] += 1
        except (AssertionError, DoraError, OSError) as error:  # it differs, or cannot even be read
            wrong = f"{folder}: {name}: {error}"
        else:
            shutil.rmtree(folder)
        with self.lock:
            self.commands += 1
            self.fell.setdefault(name, Counter()).update(phases)
            self.wrong += [wrong] if wrong is not None else []
            print(f"{self.commands} commands, {self.total} kills: {wrong or name}", flush=True)

    def run(self, cases: list[tuple[str, Case]], seed: int, jobs: int) -> None:
        """Strikes all kinds by turns, `jobs` of them at once, until there were enough kills."""
        numbers = count()

        def work() -> None:
            while True:
                with self.lock:
                    if self.total >= self.kills or len(self.wrong) >= ENOUGH:
                        return
                    number = next(numbers)
                self.strike(number, *cases[number % len(cases)], random.Random(f"{seed} {number}"))

        with ThreadPoolExecutor(jobs) as pool:
            for done in [pool.submit(work) for _ in range(jobs)]:
                done.result()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="commands struck at the same time")
    parser.add_argument("--only", default="", help="kinds of command with this in their names")
    args = parser.parse_args()
    began, warm, folder = time.monotonic(), Warm(), Path(tempfile.mkdtemp(prefix="kill-campaign-"))
    kinds = [(name, make) for name, make in make_cases(warm, folder) if args.only in name]
    # together, so that they take the time that they will take when they are struck
    with ThreadPoolExecutor(args.jobs) as pool:
        made = list(pool.map(lambda kind: kind[1](folder / "straight" / kind[0].replace(" ", "-")), kinds))
    cases = [(name, case) for (name, _), case in zip(kinds, made, strict=True)]
    for name, case in cases:
        print(f"{name}: {case.straight.seconds:.1f} s without a kill", flush=True)
    campaign = Campaign(args.kills, folder)
    campaign.run(cases, args.seed, args.jobs)
    print(f"{campaign.total} kills of {campaign.commands} commands, {time.monotonic() - began:.0f} s")
    for name, fell in campaign.fell.items():
        where = ", ".join(f"{phase} {fell[phase]}" for phase in (*PHASES, *PLACES) if fell[phase])
        print(f"  {name:28} {fell.total():4}: {where}")
    print(f"commands that differ from the ones left alone: {len(campaign.wrong)}")
    for line in campaign.wrong:
        print(line)
    if not campaign.wrong:
        shutil.rmtree(folder)
    return 1 if campaign.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
