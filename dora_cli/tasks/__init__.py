"""What a task is: one object per task, and no branching on names elsewhere."""

from dora_cli.tasks.catalogue import task_catalogue
from dora_cli.tasks.classification import ClassificationTask
from dora_cli.tasks.generation import GenerationTask
from dora_cli.tasks.registry import Task, get_task, task_names

__all__ = [
    "ClassificationTask",
    "GenerationTask",
    "Task",
    "get_task",
    "task_catalogue",
    "task_names",
]
