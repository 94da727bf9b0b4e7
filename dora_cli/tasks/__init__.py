"""What a task is: one object per task, and no branching on names elsewhere."""

from dora_cli.tasks.catalogue import task_catalogue
from dora_cli.tasks.classification import ClassificationTask, TsvLayout
from dora_cli.tasks.generation import IGNORED, CsvLayout, GenerationTask
from dora_cli.tasks.registry import Task, get_task, task_names
from dora_cli.tasks.source import HubSource

__all__ = [
    "IGNORED",
    "ClassificationTask",
    "CsvLayout",
    "GenerationTask",
    "HubSource",
    "Task",
    "TsvLayout",
    "get_task",
    "task_catalogue",
    "task_names",
]
