"""Run directories: what a command makes, keeps and goes on with."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mbv3.runs.adapt import adapt_events
    from mbv3.runs.exporting import ExportResult, export_events, export_to
    from mbv3.runs.find import find_events
    from mbv3.runs.options import Options
    from mbv3.runs.result import Found, times_text
    from mbv3.runs.rundir import RunDir
    from mbv3.runs.train import train, train_events
    from mbv3.runs.train_options import TrainOptions
    from mbv3.runs.train_result import TrainResult
    from mbv3.runs.verify import verify

__all__ = [
    "ExportResult",
    "Found",
    "Options",
    "RunDir",
    "TrainOptions",
    "TrainResult",
    "adapt_events",
    "export_events",
    "export_to",
    "find_events",
    "times_text",
    "train",
    "train_events",
    "verify",
]

_WHERE = {
    "adapt": ("adapt_events",),
    "exporting": ("ExportResult", "export_events", "export_to"),
    "find": ("find_events",),
    "options": ("Options",),
    "result": ("Found", "times_text"),
    "rundir": ("RunDir",),
    "train": ("train", "train_events"),
    "train_options": ("TrainOptions",),
    "train_result": ("TrainResult",),
    "verify": ("verify",),
}


def __getattr__(name: str) -> Any:
    """Options are read without torch; a run is opened when it is first asked for."""
    for module, names in _WHERE.items():
        if name in names:
            return getattr(import_module(f"mbv3.runs.{module}"), name)
    raise AttributeError(f"module 'mbv3.runs' has no attribute {name!r}")


class _Door(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # the import of the file train.py would hide the function `train`
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Door
