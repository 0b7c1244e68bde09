"""mbv3-search: finds a MobileNetV3-class network for a given CPU.

The chain as functions: `find`, `adapt`, `train`, `export_to`, `verify`, `build_table`. Each shows its progress on a
terminal and in a notebook and returns its result; `find_events` and so on yield the events and return the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbv3.spec import ArchSpec, Counts, count, dump_spec, load_spec, parse_spec
from mbv3.version import VERSION

if TYPE_CHECKING:
    from mbv3.latency import LatencyTable
    from mbv3.nn import build
    from mbv3.runs import (
        adapt,
        adapt_events,
        export_events,
        export_to,
        find,
        find_events,
        find_front,
        front_events,
        import_events,
        import_from,
        train,
        train_events,
        verify,
    )
    from mbv3.space import load_space
    from mbv3.tables import build_table, build_table_events

__version__ = VERSION

_LATER = {
    "mbv3.latency": ("LatencyTable",),
    "mbv3.nn": ("build",),
    "mbv3.runs": (
        "adapt", "adapt_events", "export_events", "export_to", "find", "find_events", "find_front",
        "front_events", "import_events", "import_from", "train", "train_events", "verify",
    ),
    "mbv3.space": ("load_space",),
    "mbv3.tables": ("build_table", "build_table_events"),
}  # fmt: skip
__all__ = [
    "ArchSpec",
    "Counts",
    "LatencyTable",
    "adapt",
    "adapt_events",
    "build",
    "build_table",
    "build_table_events",
    "count",
    "dump_spec",
    "export_events",
    "export_to",
    "find",
    "find_events",
    "find_front",
    "front_events",
    "import_events",
    "import_from",
    "load_space",
    "load_spec",
    "parse_spec",
    "train",
    "train_events",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Rooms that need torch or pandas are opened when they are first asked for."""
    from importlib import import_module

    for room, names in _LATER.items():
        if name in names:
            return getattr(import_module(room), name)
    raise AttributeError(f"module 'mbv3' has no attribute {name!r}")
