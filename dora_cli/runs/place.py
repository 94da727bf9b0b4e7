"""Where results go: whether the place may be written, and the moment it is taken."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from dora_cli.atomic import clear_leftovers as clear_beside
from dora_cli.atomic import write_text
from dora_cli.errors import OutputError
from dora_cli.runs.checkpoints import checkpoints_of
from dora_cli.runs.folders import LEFTOVERS
from dora_cli.runs.lock import RunLock
from dora_cli.runs.output_files import check_place, is_run
from dora_cli.runs.run_folder import RunRecords

_TRIALS = tuple(f".adapter.trial{number}{LEFTOVERS[0]}" for number in (1, 2))
"""What `try_saving` makes in a run folder, and removes."""


def default_output(recipe_path: Path) -> Path:
    """``runs/glue-sst2`` for ``configs/glue/sst2.yaml``, ``runs/mine`` for ``mine.yaml``: after the path as it was
    given.
    """
    parent = recipe_path.parent.name
    return Path("runs") / (recipe_path.stem if parent in ("", "..", "configs") else f"{parent}-{recipe_path.stem}")


def check_output(output: Path, *, overwrite: bool) -> None:
    """Refuses a folder that must not or cannot be written, before anything is loaded. Writes nothing."""
    if output.exists() and not output.is_dir():
        raise OutputError(f"--output {output} is a file; name a folder")
    if output.is_dir() and not _is_empty(output):
        if not is_run(output):
            raise OutputError(
                f"--output {output} is not empty and holds no run of dora, so --overwrite does not touch it; choose "
                "another --output"
            )
        if not overwrite:
            run = RunRecords(output)
            goes_on = "go on with it by --resume, " if can_go_on(run) and not run.metrics.exists() else ""
            raise OutputError(
                f"--output {output} holds {_what_it_holds(run)}; {goes_on}choose another --output, or pass --overwrite "
                "to replace it"
            )
    check_place(output)


def _is_empty(folder: Path) -> bool:
    """Whether nothing is in `folder` but what runs leave that were killed before they could take it: a trial, a seed's
    empty folder.
    """
    seeds = [seed.folder for seed in RunRecords(folder).seed_runs()]
    return all(path.name in _TRIALS or (path in seeds and _is_empty(path)) for path in folder.iterdir())


def _what_it_holds(run: RunRecords) -> str:
    if not run.recipe.is_file():
        return "runs of several seeds already"
    if run.metrics.exists():
        return "a finished run already"
    return "an unfinished run already" if can_go_on(run) else "an unfinished run already, which has saved nothing"


def can_go_on(run: RunRecords) -> bool:
    """Whether a run has a checkpoint of its own; beside an empty recipe lie those of an earlier run that was being
    removed.
    """
    return run.recipe.is_file() and run.recipe.stat().st_size > 0 and bool(checkpoints_of(run))


def make_output(output: Path) -> None:
    """Makes the folder; raises OutputError."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"--output {output} cannot be written: {error.strerror or error}; choose another --output"
        ) from error


def try_saving(output: Path) -> None:
    """Does in the folder, if it is there, what every save does in it, with nothing to save; leaves nothing.

    A folder is made, with a file in it that is flushed to the disk, and renamed; in ``checkpoints/`` too, where that is
    there already. What a kill leaves has a name that `clear_leftovers` knows. Raises OutputError.
    """
    run = RunRecords(output)
    for place in (run.adapter.with_name(".adapter.trial"), run.checkpoints / ".step-trial"):
        if not place.parent.is_dir():
            continue
        made, renamed = (place.with_name(f"{place.name}{number}{LEFTOVERS[0]}") for number in (1, 2))
        try:
            for folder in (made, renamed):  # of a trial that was killed
                shutil.rmtree(folder, ignore_errors=True)
            made.mkdir()
            with (made / "file").open("w", encoding="utf-8") as file:
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            made.rename(renamed)
        except OSError as error:
            raise OutputError(
                f"--output {output} cannot hold a save of the run: {error.strerror or error} in {place.parent}; free "
                "some space or change the folder's permissions, or choose another --output"
            ) from error
        finally:
            for folder in (made, renamed):
                shutil.rmtree(folder, ignore_errors=True)


def take_output(output: Path, *, overwrite: bool, replaces: Path | None = None) -> None:
    """Claims the folder, which exists, by an empty recipe.yaml, and removes the run that `overwrite` allows to replace.

    What a user has put beside that run stays. Killed at any moment, it leaves what `check_output` knows for a run.

    Args:
        replaces: another folder whose runs are removed.
    """
    recipe, replaced = (
        RunRecords(output).recipe,
        [folder for folder in (replaces, output if overwrite else None) if folder is not None],
    )
    try:
        for folder in replaced:
            for seed in RunRecords(folder).seed_runs():
                if seed.folder.resolve() != output.resolve():  # that one is locked by its caller
                    with RunLock(seed.folder):  # refuses if a run works there
                        pass
        if not (replaced and recipe.is_file()):
            recipe.touch(exist_ok=False)  # atomic: of two runs started at once, one gets the folder
        for folder in replaced:
            if folder.is_dir() and is_run(folder):
                remove_run(RunRecords(folder), keep=output)
    except FileExistsError:
        raise OutputError(f"--output {output} was taken by another run just now; choose another --output") from None
    except OSError as error:
        raise OutputError(
            f"--output {output} cannot be written: {error.strerror or error}; choose another --output"
        ) from error


def check_there(run: RunRecords, lock: RunLock) -> None:
    """Refuses to write into a run folder that was taken away, whole or in part, while the run works in it.

    Raises:
        OutputError: names what is gone.
    """
    lock.check_there()
    for record in (run.recipe, run.environment):
        if not record.is_file():
            raise OutputError(
                f"{record} was removed while the run worked, and nothing can be made of a run without it; put it back "
                "from a copy and go on with --resume, or train again"
            )


def remove_run(run: RunRecords, *, keep: Path | None = None) -> None:
    """Removes what dora wrote into a folder, the runs of several seeds included, and nothing else; `keep` stays, with
    an empty recipe.

    A run whose removal was cut short is an unfinished one that begins anew: metrics.json, which says that it is
    finished, goes first; then recipe.yaml, which says what its checkpoints are, is emptied; it goes last, since a
    folder with one may be overwritten.
    """
    run.summary.unlink(missing_ok=True)  # of runs that are gone in a moment
    for seed in run.seed_runs():
        if seed.recipe.is_file():
            remove_run(seed, keep=keep)
        with contextlib.suppress(OSError):  # not empty: it is kept, or something of the user's is in it
            seed.folder.rmdir()
    clear_leftovers(run)
    run.metrics.unlink(missing_ok=True)
    if run.recipe.is_file():
        write_text(run.recipe, "")
    for path in (run.ranks, run.predictions, run.log, run.environment, run.adapter, run.checkpoints, run.trackers):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if keep is None or run.folder.resolve() != keep.resolve():
        run.recipe.unlink(missing_ok=True)


def clear_leftovers(run: RunRecords) -> None:
    """Removes what writers that were killed have left half done; only for the one process that works in the run."""
    for record in (run.metrics, run.summary, run.ranks, run.predictions, run.environment, run.recipe):
        clear_beside(record)
    for folder in (*run.folder.glob(".adapter.*"), *run.checkpoints.glob(".step-*.*")):
        if folder.suffix in LEFTOVERS:
            shutil.rmtree(folder, ignore_errors=True)
