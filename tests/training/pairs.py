"""Two processes that train recipes together, as those of torch's launcher do."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path

from dora_cli import dump_recipe, load_recipe, train
from dora_cli.recipe import Recipe
from tests.processes import CONTEXT, begin, end_of
from tests.runs.test_resume import Cut


def train_recipes_in_two(recipes: Mapping[Path, Recipe]) -> dict[Path, list[str]]:
    """Trains every recipe into the folder it is given for, one after the other; returns the notes of each run.

    They are the same two processes for all of them: what is loaded and joined once takes as long as a run here.
    """
    for folder, recipe in recipes.items():
        folder.parent.mkdir(parents=True, exist_ok=True)
        _recipe_of(folder).write_text(dump_recipe(recipe), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    pair = [CONTEXT.Process(target=_train, args=(rank, port, list(recipes)), daemon=True) for rank in (0, 1)]
    for process in pair:
        process.start()
    assert [end_of(process) for process in pair] == [0, 0]
    return {folder: json.loads(_notes_of(folder).read_text(encoding="utf-8")) for folder in recipes}


def _recipe_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.yaml")


def _notes_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-notes.json")


def _train(rank: int, port: int, folders: list[Path]) -> None:
    """One of the processes."""
    launched = {
        "ACCELERATE_USE_CPU": "true",
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "RANK": str(rank),
        "WORLD_SIZE": "2",
    }
    begin({**os.environ, **launched})
    for folder in folders:
        listener = Cut()  # at no step: for its notes
        train(load_recipe(_recipe_of(folder)), folder, listener=listener)
        if rank == 0:
            _notes_of(folder).write_text(json.dumps(listener.notes), encoding="utf-8")
