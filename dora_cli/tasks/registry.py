"""Tasks by name."""

from __future__ import annotations

import difflib

from dora_cli.errors import RecipeError
from dora_cli.libraries import brought
from dora_cli.tasks.base import Task
from dora_cli.tasks.e2e import E2E
from dora_cli.tasks.glue import GLUE
from dora_cli.tasks.own import CLASSIFICATION, REGRESSION

GROUP = "dora_cli.tasks"
"""The entry points of other packages' tasks: each names a `Task`, and is called like it."""

_TASKS: dict[str, Task] = {task.name: task for task in (*GLUE, E2E, CLASSIFICATION, REGRESSION)}
_TASKS.update(brought(GROUP, _TASKS, lambda task: task.name if isinstance(task, Task) else None))


def task_names() -> tuple[str, ...]:
    """Names of all tasks, sorted."""
    return tuple(sorted(_TASKS))


def get_task(name: str) -> Task:
    """The task called `name`, such as ``"glue/rte"``.

    Raises:
        RecipeError: there is no such task; the message names the nearest one and all others.
    """
    task = _TASKS.get(name)
    if task is None:
        raise RecipeError(f"task: there is no task {name!r}{_nearest(name)}; tasks: {', '.join(task_names())}")
    return task


def _nearest(name: str) -> str:
    wanted = name.lower().replace("-", "").replace("_", "")
    # Both the whole name and its last part are compared, so that "rte" and "GLUE/SST-2" find their task too.
    by_key = {key: full for full in task_names() for key in (full, full.rpartition("/")[2])}
    matches = difflib.get_close_matches(wanted, by_key, n=1, cutoff=0.5)
    return f" (nearest: {by_key[matches[0]]})" if matches else ""
