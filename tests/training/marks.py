"""Where a process of `dora` is: names of moments, and the hooks that report them.

The hooks stand around the program's own functions. They change what is computed nowhere; they only split a writing into
parts, so that a signal can fall between them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

STEPS = ("warm-up", "pruning", "event", "freeze", "final")
SAVES = ("checkpoint", "adapter", "clearing", "records", "log")
PHASES = ("loading", *STEPS, "evaluation", "decoding", *SAVES)
"""The first word of every mark of a run in a new folder, up to a colon."""
PLACES = ("claim", "removal", "export", "output")
"""The same where a folder is taken, an earlier run is removed, an export or a page takes its place."""

Mark = Callable[[str], None]


def _change(owner: Any, **attributes: Any) -> None:
    for name, value in attributes.items():
        setattr(owner, name, value)


def install(mark: Mark) -> None:
    """Makes this process call `mark` wherever it is; for a process that does nothing else."""
    files = _Files()
    _around_loading(mark)
    _around_the_loop(mark)
    _around_folders(mark)
    _around_records(mark, files)
    _around_removal(mark)
    _around_exports(mark, files)


def _around_the_loop(mark: Mark) -> None:
    from dora_cli.assembly import prepare
    from dora_cli.training import loop
    from dora_cli.training.federated.clients import Turns

    step, evaluate, make_evaluator = loop.Loop._step, loop.Loop._evaluate, prepare.make_evaluator
    turn = Turns.__call__
    phase = "evaluation"

    def marked_step(self: Any, number: int, epoch: int, group: Any) -> None:
        event = number == self._next_event
        phase = ("freeze" if number == self.schedule.freeze_step else "event") if event else self.schedule.phase(number)
        mark(f"{phase}: step {number}")
        step(self, number, epoch, group)

    def marked_turn(self: Any, client: Any, steps: range, logged: Any, ask: Callable[[int], None]) -> Any:
        def told(number: int) -> None:
            mark(f"turn: step {number} of client {client.number}")
            ask(number)

        return turn(self, client, steps, logged, told)

    def marked_evaluate(self: Any) -> None:
        mark(f"evaluation: step {self.at.step}")
        evaluate(self)

    def marked_evaluator(*arguments: Any, progress: Any, **others: Any) -> Any:
        def marked_progress(split: str, done: int, total: int) -> None:
            mark(f"{phase}: batch")
            progress(split, done, total)

        def marked_finish(*finished: Any) -> Any:
            nonlocal phase
            phase = "decoding"
            mark("decoding: begun")
            return finish(*finished)

        evaluator = make_evaluator(*arguments, progress=marked_progress, **others)
        finish = evaluator.finish
        _change(evaluator, finish=marked_finish)
        return evaluator

    _change(loop.Loop, _step=marked_step, _evaluate=marked_evaluate)
    _change(Turns, __call__=marked_turn)
    _change(prepare, make_evaluator=marked_evaluator)


def _around_loading(mark: Mark) -> None:
    """What is loaded at the start, or after training to be decoded with."""
    import dora_cli.recipe
    from dora_cli.assembly import prepare
    from dora_cli.runs import folders
    from dora_cli.training import loop, run

    load_recipe, load_base, tensors = dora_cli.recipe.load_recipe, prepare.load_base, folders._read_tensors
    train, phase = loop.Loop.run, "loading"

    def marked_run(self: Any) -> Any:
        nonlocal phase
        outcome = train(self)
        phase = "decoding"
        return outcome

    def marked(place: str, load: Any) -> Any:
        def load_there(*arguments: Any, **others: Any) -> Any:
            mark(f"{phase}: {place}")
            return load(*arguments, **others)

        return load_there

    _change(dora_cli.recipe, load_recipe=marked("recipe", load_recipe))
    for place in (prepare, run):
        _change(place, load_base=marked("model", load_base))
    _change(loop.Loop, run=marked_run)
    _change(folders, _read_tensors=marked("tensors", tensors))


def _around_folders(mark: Mark) -> None:
    """Checkpoints and adapter/: half a file, whole files, every rename, a half removed folder."""
    from dora_cli.assembly import weights
    from dora_cli.runs import folders, saving
    from dora_cli.training import checkpoint

    write_folder, write_tensors, sync, rename, rmtree = (
        folders.write_folder,
        folders._write_tensors,
        folders._sync,
        Path.rename,
        shutil.rmtree,
    )
    remove_folder = saving.remove_folder
    phase = ""

    def marked_write(folder: Path, parts: Any) -> None:
        nonlocal phase
        phase = "adapter:" if folder.name == "adapter" else f"checkpoint: {folder.name}"
        mark(f"{phase} begun")
        write_folder(folder, parts)
        mark(f"{phase} done")
        phase = ""

    def halved_write(path: Path, part: Any) -> None:
        write_tensors(path, part)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        mark(f"{phase} half of {path.name}")
        path.write_bytes(whole)

    def marked_sync(path: Path) -> None:
        sync(path)
        mark(f"{phase} {path.name if path.is_file() else 'folder'} synced")

    def marked_rename(self: Path, target: Path) -> Path:
        aside = target.name.endswith(".old")
        moved = rename(self, target)
        if phase:
            mark(f"{phase} {'old renamed' if aside else 'new renamed'}")
        return moved

    def marked_rmtree(path: Path, ignore_errors: bool = False) -> None:
        files = sorted(file for file in path.glob("*") if file.is_file())
        if files:
            files[0].unlink()
            mark(f"{phase} half removed")
        rmtree(path, ignore_errors=ignore_errors)

    def marked_remove(folder: Path) -> None:
        nonlocal phase
        former, phase = phase, f"clearing: {folder.name}"
        remove_folder(folder)
        phase = former

    _change(weights, write_folder=marked_write)
    _change(checkpoint, write_folder=marked_write)
    _change(folders, _write_tensors=halved_write, _sync=marked_sync, shutil=SimpleNamespace(rmtree=marked_rmtree))
    _change(saving, remove_folder=marked_remove)
    _change(Path, rename=marked_rename)


@dataclass
class _Files:
    """What the files are part of that are written one by one: the phase that their marks begin with."""

    phase: str = "records"


def _around_records(mark: Mark, files: _Files) -> None:
    """Records and other single files: written beside their place, in place; the log: half a line."""
    from dora_cli import atomic
    from dora_cli.runs import log
    from dora_cli.runs import output_files as outputs

    replace, begin, write_bytes = os.replace, log.LogFile.__init__, atomic.write_bytes

    def marked_replace(source: Any, target: Any, **others: Any) -> None:
        name = Path(target).name
        mark(f"{files.phase}: {name} beside")
        replace(source, target, **others)
        mark(f"{files.phase}: {name} in place")

    def marked_output(path: Path, content: bytes) -> None:
        files.phase = "output"
        write_bytes(path, content)
        files.phase = "records"

    def marked_begin(self: Any, *arguments: Any, **others: Any) -> None:
        begin(self, *arguments, **others)
        self._file = _Halves(self._file, mark)

    _change(atomic, os=_Like(os, replace=marked_replace))
    _change(log.LogFile, __init__=marked_begin)
    _change(outputs, write_bytes=marked_output)


def _around_removal(mark: Mark) -> None:
    """A run's folder: made, taken; the run that was there: removed file by file, with half removed folders."""
    from dora_cli.runs import open_run
    from dora_cli.runs import place as output

    make_output, remove_run, rmtree, touch, unlink = (
        open_run.make_output,
        output.remove_run,
        shutil.rmtree,
        Path.touch,
        Path.unlink,
    )
    removing = 0

    def marked_make(folder: Path) -> None:
        make_output(folder)
        mark("claim: folder made")

    def marked_touch(self: Path, *arguments: Any, **others: Any) -> None:
        touch(self, *arguments, **others)
        mark(f"claim: {self.name} touched")

    def marked_remove(run: Any, **others: Any) -> None:
        nonlocal removing
        removing += 1
        mark(f"removal: {run.folder.name} begun")
        remove_run(run, **others)
        mark(f"removal: {run.folder.name} done")
        removing -= 1

    def marked_unlink(self: Path, missing_ok: bool = False) -> None:
        there = self.exists()
        unlink(self, missing_ok=missing_ok)
        if removing and there:
            mark(f"removal: {self.name} removed")

    def marked_rmtree(path: Path, ignore_errors: bool = False) -> None:
        for file in sorted(path.rglob("*"))[:1]:
            if file.is_file():
                file.unlink()
        mark(f"removal: {path.name} half removed")
        rmtree(path, ignore_errors=ignore_errors)

    _change(open_run, make_output=marked_make)
    _change(output, remove_run=marked_remove, shutil=SimpleNamespace(rmtree=marked_rmtree))
    _change(Path, touch=marked_touch, unlink=marked_unlink)


def _around_exports(mark: Mark, files: _Files) -> None:
    """An export: half of its tensors, whole files, and every step on its way to its place."""
    from dora_cli.export import folder, saved

    export_folder, save_file, save_merged = saved.export_folder, saved.save_file, saved.save_merged
    rename, rmtree, unlink = Path.rename, shutil.rmtree, Path.unlink
    inside = False

    @contextmanager
    def marked_folder(*arguments: Any, **others: Any) -> Iterator[Path]:
        nonlocal inside
        inside, files.phase = True, "export"
        with export_folder(*arguments, **others) as there:
            mark("export: begun")
            yield there
            mark("export: written")
        inside, files.phase = False, "records"

    def halve(path: Path) -> None:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        mark(f"export: half of {path.name}")
        path.write_bytes(whole)

    def halved_save(tensors: Any, path: Path, *others: Any) -> None:
        save_file(tensors, path, *others)
        halve(path)

    def halved_merged(model: Any, tokenizer: Any, there: Path, **others: Any) -> None:
        save_merged(model, tokenizer, there, **others)
        halve(there / "model.safetensors")

    def marked_rename(self: Path, target: Path) -> Path:
        moved = rename(self, target)
        if inside:
            mark(f"export: {'folder' if moved.is_dir() else moved.name} renamed")
        return moved

    def marked_unlink(self: Path, missing_ok: bool = False) -> None:
        unlink(self, missing_ok=missing_ok)
        if inside:
            mark(f"export: {self.name} removed")

    def marked_rmtree(path: Path, ignore_errors: bool = False) -> None:
        for file in sorted(path.glob("*"))[:1]:
            unlink(file)
            mark("export: half removed")
        rmtree(path, ignore_errors=ignore_errors)

    _change(saved, export_folder=marked_folder, save_file=halved_save, save_merged=halved_merged)
    _change(folder, shutil=_Like(shutil, rmtree=marked_rmtree))
    _change(Path, rename=marked_rename, unlink=marked_unlink)


class _Like:
    """Another object with some attributes changed."""

    def __init__(self, other: Any, **changed: Any) -> None:
        self._other = other
        self.__dict__.update(changed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._other, name)


class _Halves(_Like):
    """A file that puts half of what it is given on its way, then the rest."""

    def __init__(self, file: Any, mark: Mark) -> None:
        def write(data: bytes) -> int:
            file.write(data[: len(data) // 2])
            file.flush()
            mark("log: half a line")
            file.write(data[len(data) // 2 :])
            return len(data)

        super().__init__(file, write=write)
