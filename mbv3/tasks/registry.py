"""The tasks by name. A name costs nothing; its module, which needs torch, is loaded when the task is first used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from mbv3.errors import BadInput
from mbv3.spec import ArchSpec
from mbv3.tasks.task import Task

__all__ = ["TASKS", "task_of"]

_MODULES = {
    "classify": "mbv3.tasks.classify",
    "segment": "mbv3.tasks.segment",
    "detect": "mbv3.tasks.detect",
}


class _Tasks(Mapping[str, Task]):
    def __getitem__(self, name: str) -> Task:
        if name not in _MODULES:
            raise BadInput(f"--task must be one of {', '.join(_MODULES)} (got {name})")
        task = import_module(_MODULES[name]).TASK
        assert isinstance(task, Task)
        return task

    def __contains__(self, name: object) -> bool:
        return name in _MODULES

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)


TASKS: Mapping[str, Task] = _Tasks()


def task_of(spec: ArchSpec) -> Task:
    """The task that `spec` has a head for."""
    return next(task for task in TASKS.values() if task.owns(spec.head))
