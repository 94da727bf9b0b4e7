"""What a task is: one object per task, in kinds, and no branching on names or kinds elsewhere.

`base` is the contract; `label` and `generate` are kinds; each other module holds tasks. An installed package brings a
task by an entry point of the group ``dora_cli.tasks``.
"""

from dora_cli.tasks.base import Answers, Scores, Task, Use
from dora_cli.tasks.catalogue import task_catalogue
from dora_cli.tasks.reading import read_split
from dora_cli.tasks.registry import get_task, task_names

__all__ = [
    "Answers",
    "Scores",
    "Task",
    "Use",
    "get_task",
    "read_split",
    "task_catalogue",
    "task_names",
]
