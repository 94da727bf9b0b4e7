"""``dora train``."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dora_cli.errors import OptionError, RecipeError
from dora_cli.printable import say

if TYPE_CHECKING:
    from dora_cli.recipe import Recipe

EPILOG = "Example:  dora train configs/demo/sst2.yaml --set train.seed=2 -o runs/two"


RecipeFile = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE",
        help="A YAML recipe, such as configs/demo/sst2.yaml, or the name of one that comes with dora: demo/sst2.",
        show_default=False,
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one key of the recipe, e.g. train.seed=2. May be repeated.",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="DIR", help="Run folder (default: runs/ and the recipe's name).", show_default=False
    ),
]
Seeds = Annotated[
    str | None,
    typer.Option(
        "--seeds",
        metavar="1,2,3",
        help="Train once per seed, into DIR/seed-N, and write summary.json.",
        show_default=False,
    ),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on with the run in DIR from its newest checkpoint; --seeds does so by itself."),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the run that DIR already holds; with --seeds all of its runs.")
]
Plain = Annotated[
    bool,
    typer.Option("--plain", help="Lines instead of the live view; so it is without a terminal and under CI anyway."),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print notes and errors alone; the run folder has the rest.")
]
Processes = Annotated[
    int | None,
    typer.Option(
        "--processes",
        metavar="N",
        min=1,
        help="Train in N processes of this machine: one a GPU, or on the CPU with N cores. Batches are per process.",
        show_default=False,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Print the resolved recipe, the schedule and the parameter budget; train nothing."),
]


def train(
    context: typer.Context,
    recipe: RecipeFile,
    set_: Changes = None,
    output: Output = None,
    seeds: Seeds = None,
    processes: Processes = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    plain: Plain = False,
    quiet: Quiet = False,
    dry_run: DryRun = False,
) -> None:
    """Train a recipe: adapt the model, prune its ranks to the budget, write metrics and ranks."""
    from dora_cli.machine.launched import beside_others, is_launched
    from dora_cli.recipe import load_recipe
    from dora_cli.recipe.shipped_recipes import find_recipe
    from dora_cli.runs.output_files import check_no_stdout
    from dora_cli.runs.place import default_output

    if resume and overwrite:
        raise RecipeError("--resume goes on with the run in DIR and --overwrite replaces it; give one of them")
    if quiet and (plain or dry_run):
        raise RecipeError(
            "--quiet prints nothing and "
            f"{'--plain prints lines' if plain else '--dry-run prints a run'}; give one of them"
        )
    check_no_stdout(output, "a run is a folder")
    starts = processes if processes is not None and not is_launched() else None  # how many this process is to start
    silent = not dry_run and (starts or 1) > 1  # each of them reads the recipe again
    resolved = load_recipe(find_recipe(recipe), set_ or [], note=_ignore if silent else _note)
    chosen = _seeds(seeds) if seeds is not None else None
    folder = output if output is not None else default_output(recipe)
    if starts is not None:
        _check_processes(resolved, starts, resume=resume or seeds is not None)
    if dry_run:
        _look_ahead(resolved, folder, chosen, processes)
        return
    if starts is not None and starts > 1:
        raise typer.Exit(_start(context, starts))
    with beside_others():
        if overwrite or not (resume or folder.exists()):  # else what the folder holds comes first
            from dora_cli.assembly.reach import check_reach

            check_reach(resolved)
        how = _go_on(recipe, set_, folder, seeds)
        if chosen is None:
            _train_one(resolved, folder, how, overwrite=overwrite, resume=resume, plain=plain, quiet=quiet)
        else:
            _train_seeds(resolved, folder, how, chosen, overwrite=overwrite, plain=plain, quiet=quiet)


def _note(message: str) -> None:
    from dora_cli.machine.processes import is_main

    if is_main():
        say(f"dora: note: {message}", err=True)


def _ignore(message: str) -> None:
    pass


def _check_processes(recipe: Recipe, processes: int, *, resume: bool) -> None:
    from dora_cli.machine.launch import check_processes

    check_processes(processes, resume=resume)
    if processes > 1 and recipe.train.device.startswith("cuda:"):
        raise OptionError(
            f"train.device is {recipe.train.device}, and --processes {processes} takes as many GPUs; set train.device: "
            "cuda (CUDA_VISIBLE_DEVICES says which)"
        )


_AS_HERE = """\
import json, sys
sys.path[:] = json.loads(sys.argv.pop(1))
from dora_cli.__main__ import main
main()
"""
"""The program, looking for modules where this process does."""


def _start(context: typer.Context, processes: int) -> int:
    """Runs this very command in so many processes; returns its exit code."""
    import json
    import sys

    from dora_cli.machine.launch import run_together

    command = [sys.executable, "-c", _AS_HERE, json.dumps(sys.path), *context.meta["arguments"]]
    return run_together(command, processes)


def _look_ahead(recipe: Recipe, folder: Path, seeds: list[int] | None, processes: int | None) -> None:
    from dora_cli.assembly.dry_run import dry_run
    from dora_cli.recipe import dump_recipe
    from dora_cli.reports.console import make_console
    from dora_cli.reports.dry_run import print_dry_run

    ahead = dry_run(recipe, folder, seeds or (), processes)
    print_dry_run(make_console(), ahead, dump_recipe(ahead.recipe))


def _train_one(
    recipe: Recipe, folder: Path, how: str, *, overwrite: bool, resume: bool, plain: bool, quiet: bool
) -> None:
    from dora_cli.reports.progress import make_listener
    from dora_cli.runs.place import what_divergence_leaves
    from dora_cli.training import run

    listener = make_listener(plain=plain or None, quiet=quiet)
    with what_divergence_leaves(folder):
        run.train(recipe, folder, overwrite=overwrite, resume=resume, listener=listener, how_to_resume=how)


def _train_seeds(
    recipe: Recipe, folder: Path, how: str, seeds: list[int], *, overwrite: bool, plain: bool, quiet: bool
) -> None:
    from functools import partial

    from dora_cli.assembly.resolve import resolve, selecting_metric
    from dora_cli.machine.processes import is_main
    from dora_cli.reports.console import make_console
    from dora_cli.reports.progress import make_listener
    from dora_cli.reports.summary import print_seeds
    from dora_cli.runs.place import what_divergence_leaves
    from dora_cli.training.seed_runs import train_seeds

    primary = selecting_metric(*resolve(recipe))
    watch = partial(make_listener, plain=plain or None, quiet=quiet, brief=True)
    with what_divergence_leaves(folder):
        summary = train_seeds(recipe, folder, seeds, overwrite=overwrite, make_listener=watch, how_to_resume=how)
    if is_main() and not quiet:
        print_seeds(make_console(), summary, folder, primary=primary)


def _go_on(recipe: Path, overrides: list[str] | None, folder: Path, seeds: str | None) -> str:
    """The command that goes on with a run that was stopped."""
    from dora_cli.machine.launched import is_launched

    processes = os.environ.get("WORLD_SIZE", "1")
    launch = ["torchrun", "--nproc-per-node", processes, "-m", "dora_cli"]
    words = [*(["dora"] if is_launched() or processes == "1" else launch), "train", str(recipe)]
    if is_launched():
        words += ["--processes", processes]
    words += ["--output", str(folder)]
    for override in overrides or ():
        words += ["--set", override]
    words += ["--resume"] if seeds is None else ["--seeds", seeds]
    return f"go on with: {shlex.join(words)}"


def _seeds(text: str) -> list[int]:
    from dora_cli.recipe.fields import MAX_SEED

    parts = [part.strip() for part in text.split(",")]
    # `int` takes more: 1_5, digits of other scripts
    if not all(re.fullmatch(r"-?[0-9]{1,20}", part) for part in parts):
        raise RecipeError(f"--seeds {text!r} is not a list of whole numbers; write it as 1,2,3")
    seeds = [int(part) for part in parts]
    if len(set(seeds)) < len(seeds):
        raise RecipeError(f"--seeds {text} names a seed twice; each seed is one run")
    for seed in seeds:
        if not 0 <= seed <= MAX_SEED:
            raise RecipeError(f"--seeds {text} names {seed}; seeds go from 0 to {MAX_SEED}")
    return seeds
