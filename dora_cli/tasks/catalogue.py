"""What is known of every task, as plain data."""

from __future__ import annotations

from typing import Any

from dora_cli.tasks.generation import GenerationTask
from dora_cli.tasks.registry import get_task, task_names


def task_catalogue() -> list[dict[str, Any]]:
    """Every task, by name.

    Returns:
        For each: ``name, kind``, how many ``texts`` a model reads, ``labels`` (None where there are none), ``primary``
            (the metric that
        selects an epoch), ``metrics``, official sizes of ``splits``, which are ``evaluated``, and ``sources``: what
        ``data.source`` may be.
    """
    tasks = [get_task(name) for name in task_names()]
    return [
        {
            "name": task.name,
            "kind": task.kind,
            "texts": 1 if isinstance(task, GenerationTask) else len(task.text_columns),
            "labels": None if isinstance(task, GenerationTask) or task.label_names is None else list(task.label_names),
            "primary": task.primary,
            "metrics": list(
                dict.fromkeys((*(m for m in task.epoch_metrics if not m.startswith("greedy_")), *task.scores))
            ),
            "splits": dict(task.splits),
            "evaluated": list(task.eval_splits),
            "sources": list(task.sources),
        }
        for task in tasks
    ]
