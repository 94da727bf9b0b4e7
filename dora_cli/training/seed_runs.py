"""One recipe trained over several seeds: ``seed-N`` folders and their summary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dora_cli.errors import OutputError
from dora_cli.recipe import Recipe, dump_recipe, load_recipe, parse_recipe
from dora_cli.reports.records import RunRecords, write_json
from dora_cli.reports.summary import seeds_summary
from dora_cli.training.listener import Listener, SilentListener
from dora_cli.training.output import check_output
from dora_cli.training.paths import anchored
from dora_cli.training.processes import is_main
from dora_cli.training.resolve import resolve
from dora_cli.training.resume import changed_keys, checkpoints_of
from dora_cli.training.run import train


def train_seeds(
    recipe: Recipe,
    output: str | Path,
    seeds: Sequence[int],
    *,
    overwrite: bool = False,
    how_to_resume: str | None = None,
    make_listener: Callable[[], Listener] = SilentListener,
) -> dict[str, Any]:
    """Trains `recipe` once per seed into ``output/seed-N`` and writes ``summary.json``; returns its content.

    Seeds that are already finished with this very recipe are kept; unfinished ones go on from their newest checkpoint, or start again
    where they have none. The summary covers every finished seed in `output`, those of earlier calls included.

    Args:
        overwrite: whether whatever runs `output` holds are replaced, as soon as the first new one can start.
        make_listener: called once per run.

    Raises:
        OutputError: `output` holds something else; found before the first run.
    """
    recipe, _ = resolve(recipe)
    parent = RunRecords(Path(output))
    _check(parent, recipe, seeds, overwrite)
    replaces = parent.folder if overwrite else None
    for seed in seeds:
        records = RunRecords(parent.folder / f"seed-{seed}")
        if records.metrics.exists() and not overwrite:
            continue
        begun = records.recipe.is_file() and records.recipe.stat().st_size > 0  # an empty one: an earlier run was being removed
        resume = not overwrite and begun and bool(checkpoints_of(records))
        train(
            _with_seed(recipe, seed),
            records.folder,
            overwrite=records.recipe.exists() and not resume,
            resume=resume,
            listener=make_listener(),
            replaces=replaces,
            how_to_resume=how_to_resume,
        )
        replaces = None
    summary = seeds_summary([run.read_metrics() for run in parent.seed_runs() if run.metrics.exists()])

    if is_main():
        write_json(parent.summary, summary)
    return summary


def _check(parent: RunRecords, recipe: Recipe, seeds: Sequence[int], overwrite: bool) -> None:
    """Refuses before the first run what a later one would stumble over."""
    check_output(parent.folder, overwrite=True)  # a folder of something else, or one that cannot be written
    for seed in seeds:
        check_output(parent.folder / f"seed-{seed}", overwrite=True)
    if overwrite:
        return
    if parent.recipe.exists():
        raise OutputError(
            f"--output {parent.folder} holds a single run already; choose another --output, or pass --overwrite to replace it"
        )
    for run in parent.seed_runs():
        if not run.recipe.is_file() or not run.recipe.stat().st_size:
            continue
        if changes := changed_keys(load_recipe(run.recipe), anchored(_with_seed(recipe, _seed_of(run)))):
            raise OutputError(
                f"{run.folder} holds a run of another recipe; choose another --output, or pass --overwrite to replace it{changes}"
            )


def _seed_of(run: RunRecords) -> int:
    return int(run.folder.name.removeprefix("seed-"))


def _with_seed(recipe: Recipe, seed: int) -> Recipe:
    return parse_recipe(dump_recipe(recipe), overrides=[f"train.seed={seed}"])
