"""What a task is: its columns, its labels, its metric, its official split sizes. One object per task."""

from dora_cli.tasks.base import HubSource, Task, TsvLayout
from dora_cli.tasks.registry import get_task, task_names

__all__ = ["HubSource", "Task", "TsvLayout", "get_task", "task_names"]
