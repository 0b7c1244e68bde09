"""What a task is: its data, heads, recipe, metric and pictures."""

from mbv3.tasks.draws import spread
from mbv3.tasks.hub import PREFIX, class_folders
from mbv3.tasks.registry import TASKS, task_of
from mbv3.tasks.shape import shaped, smallest_map, strides_removed, without_strides
from mbv3.tasks.task import Peek, Source, Task, TaskData, Work

__all__ = [
    "PREFIX",
    "TASKS",
    "Peek",
    "Source",
    "Task",
    "TaskData",
    "Work",
    "class_folders",
    "shaped",
    "smallest_map",
    "spread",
    "strides_removed",
    "task_of",
    "without_strides",
]
