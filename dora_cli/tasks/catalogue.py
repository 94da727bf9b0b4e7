"""What is known of every task, as plain data."""

from __future__ import annotations

from typing import Any

from dora_cli.tasks.registry import get_task, task_names


def task_catalogue() -> list[dict[str, Any]]:
    """Every task, by name.

    Returns:
        For each: ``name, kind``, how many ``texts`` a model reads, ``labels`` (None where there are none), ``asks``
            (both in words), ``primary`` (the metric that selects an epoch), ``metrics``, official sizes of
            ``splits``, which are ``evaluated``, and ``sources``: what ``data.source`` may be.
    """
    tasks = [get_task(name) for name in task_names()]
    return [
        {
            "name": task.name,
            "kind": task.kind,
            "texts": task.reads,
            "labels": None if task.labels is None else list(task.labels),
            "asks": task.asks,
            "primary": task.primary,
            "metrics": list(task.metrics),
            "splits": dict(task.splits),
            "evaluated": list(task.eval_splits),
            "sources": list(task.fields.sources),
        }
        for task in tasks
    ]
