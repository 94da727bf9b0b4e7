"""``dora compare``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dora_cli.errors import OptionError
from dora_cli.printable import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from dora_cli.compare.cells import Cell
    from dora_cli.compare.jobs import Pool
    from dora_cli.compare.plan import Plan

EPILOG = "Example:  dora compare compare/demo --dry-run"


def compare(
    experiment: Annotated[
        Path,
        typer.Argument(
            metavar="EXPERIMENT",
            help="A YAML file that says what is compared, or compare/demo, which comes with dora.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Its folder (default: runs/ and the file's name).", show_default=False
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            metavar="N",
            min=1,
            help="Runs at once (default: one a core; on CUDA as many as memory allows).",
            show_default=False,
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="ADDRESS",
            help="Make the runs on a Ray cluster: its address, auto, or local. DIR must be on a disk they share.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the experiment in DIR; finished runs are not made again.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan, its count of runs and its time from a few trial steps.")
    ] = False,
    plain: Annotated[
        bool,
        typer.Option("--plain", help="Lines instead of the live view; so it is without a terminal and under CI."),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print notes, errors and the result alone.")] = False,
) -> None:
    """Compare methods on your tasks: tuned alike, of one size, over many seeds, with statistics that stand."""
    from dora_cli.compare.plan import Plan
    from dora_cli.compare.run import check_experiment, default_output
    from dora_cli.recipe.shipped_recipes import find_experiment
    from dora_cli.reports.compare.progress import make_compare_progress
    from dora_cli.reports.compare.terminal import print_comparison
    from dora_cli.reports.console import make_console
    from dora_cli.runs.output_files import check_no_stdout

    if quiet and (plain or dry_run):
        raise OptionError("--quiet prints the result alone; leave out --plain and --dry-run, or --quiet")
    if dry_run and ray is not None:
        raise OptionError("--dry-run times a few steps on this machine; leave out --ray, or --dry-run")
    check_no_stdout(output, "an experiment is a folder")
    experiment = find_experiment(experiment)
    folder = output if output is not None else default_output(experiment)
    if not dry_run:
        check_experiment(folder, resume=resume)
    if dry_run:
        _look_ahead(experiment, folder, jobs)
        return
    plan = Plan.of(experiment)
    from dora_cli.compare.run import compare as make

    progress = make_compare_progress(plain=plain or None, quiet=quiet)
    record = make(
        plan,
        folder,
        lambda: _pool(plan, jobs, ray, progress.note),
        progress,
        resume=resume,
        how_to_resume=_go_on(experiment, folder, jobs, ray),
    )
    print_comparison(make_console(), record, folder)


def _pool(plan: Plan, jobs: int | None, ray: str | None, note: Callable[[str], None]) -> Pool:
    device = plan.cells[0].recipe.train.device
    if ray is not None:
        from dora_cli.compare.workers.ray import RayPool

        return RayPool(ray, device, jobs, note=note)
    from dora_cli.compare.workers.local import LocalPool

    return LocalPool(device, jobs, runs=plan.runs, note=note)


def _look_ahead(experiment: Path, folder: Path, jobs: int | None) -> None:
    from dora_cli.assembly.warm import Warm
    from dora_cli.compare.plan import Plan, forecast
    from dora_cli.compare.run import what_seeds_show
    from dora_cli.compare.workers.local import LocalPool
    from dora_cli.reports.compare.plan import PlannedCell, print_plan
    from dora_cli.reports.console import make_console
    from dora_cli.training.run import train

    warm = Warm()
    plan = Plan.of(experiment, warm)
    pool = LocalPool(plan.cells[0].recipe.train.device, jobs)
    ahead = forecast(plan, train, lambda message: say(message, err=True), warm)
    cells = [
        PlannedCell(
            cell.task.name,
            cell.variant.name,
            plan.tuning_runs(),
            len(plan.experiment.seeds),
            None if cell.variant.emerges or cell.variant.sized_as or cell.variant.ranks_of else cell.planned,
            _size(cell),
            ahead.seconds[cell.name],
        )
        for cell in plan.cells
    ]
    facts = [
        ("compared", "; ".join(map(str, plan.design.comparisons))),
        ("seeds", what_seeds_show(plan)),
        *(("note", note) for note in plan.design.notes),
        ("output", str(folder)),
        ("a run", f"timed by {ahead.made_of}"),
    ]
    print_plan(make_console(), cells, facts, jobs=pool.at_once, total=ahead.total, least=ahead.least)


def _size(cell: Cell) -> str:
    """What the size of a cell is that is no number yet."""
    variant = cell.variant
    if variant.sized_as is not None:
        return f"as {variant.sized_as.name}"
    if variant.ranks_of is not None:
        return f"of {variant.ranks_of.name}"
    if variant.emerges and cell.planned is None and cell.ahead.parameters is not None:
        return "what it comes to"
    if not variant.emerges or cell.planned is None:
        return "unknown"
    return f"about {cell.planned:,}"


def _go_on(experiment: Path, folder: Path, jobs: int | None, ray: str | None) -> str:
    words = ["dora", "compare", str(experiment), "--output", str(folder), "--resume"]
    words += ["--jobs", str(jobs)] if jobs is not None else []
    words += ["--ray", ray] if ray is not None else []
    return f"go on with: {shlex.join(words)}"
