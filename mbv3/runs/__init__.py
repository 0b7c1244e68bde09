"""Run directories: what a command makes, keeps and goes on with."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mbv3.runs.check_run import check_supernet, check_supernet_events
    from mbv3.runs.declare import add_arguments, declared, given, moved
    from mbv3.runs.export_options import ExportOptions
    from mbv3.runs.exporting import ExportResult, export_events, export_to
    from mbv3.runs.front_run import Front, find_front, front_events, is_front
    from mbv3.runs.import_options import ImportOptions
    from mbv3.runs.import_run import ImportResult, import_events, import_from
    from mbv3.runs.netadapt_run import adapt, adapt_events
    from mbv3.runs.options import NETADAPT, Options
    from mbv3.runs.result import Found, times_text
    from mbv3.runs.rundir import RunDir
    from mbv3.runs.search_run import find, find_events
    from mbv3.runs.train_options import TrainOptions
    from mbv3.runs.train_result import TrainResult
    from mbv3.runs.train_run import train, train_events
    from mbv3.runs.verify_run import verify
    from mbv3.runs.worker_run import WorkerOptions, work, work_events

_WHERE = {
    "check_run": ("check_supernet", "check_supernet_events"),
    "declare": ("add_arguments", "declared", "given", "moved"),
    "export_options": ("ExportOptions",),
    "exporting": ("ExportResult", "export_events", "export_to"),
    "front_run": ("Front", "find_front", "front_events", "is_front"),
    "import_options": ("ImportOptions",),
    "import_run": ("ImportResult", "import_events", "import_from"),
    "netadapt_run": ("adapt", "adapt_events"),
    "options": ("NETADAPT", "Options"),
    "result": ("Found", "times_text"),
    "rundir": ("RunDir",),
    "search_run": ("find", "find_events"),
    "train_options": ("TrainOptions",),
    "train_result": ("TrainResult",),
    "train_run": ("train", "train_events"),
    "verify_run": ("verify",),
    "worker_run": ("WorkerOptions", "work", "work_events"),
}
__all__ = [
    "NETADAPT",
    "ExportOptions",
    "ExportResult",
    "Found",
    "Front",
    "ImportOptions",
    "ImportResult",
    "Options",
    "RunDir",
    "TrainOptions",
    "TrainResult",
    "WorkerOptions",
    "adapt",
    "adapt_events",
    "add_arguments",
    "check_supernet",
    "check_supernet_events",
    "declared",
    "export_events",
    "export_to",
    "find",
    "find_events",
    "find_front",
    "front_events",
    "given",
    "import_events",
    "import_from",
    "is_front",
    "moved",
    "times_text",
    "train",
    "train_events",
    "verify",
    "work",
    "work_events",
]


def __getattr__(name: str) -> Any:
    """Options are read without torch; a run is opened when it is first asked for."""
    for module, names in _WHERE.items():
        if name in names:
            return getattr(import_module(f"mbv3.runs.{module}"), name)
    raise AttributeError(f"module 'mbv3.runs' has no attribute {name!r}")
