"""mbv3-search: finds a MobileNetV3-class network for a given CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbv3.spec import ArchSpec, Counts, count, dump_spec, load_spec, parse_spec

if TYPE_CHECKING:
    from mbv3.latency import LatencyTable
    from mbv3.nn import build
    from mbv3.runs import export_events, export_to, find, train, train_events
    from mbv3.search import imagenet_top1
    from mbv3.space import load_space

__version__ = "0.1.0"

__all__ = [
    "ArchSpec",
    "Counts",
    "LatencyTable",
    "build",
    "count",
    "dump_spec",
    "export_events",
    "export_to",
    "find",
    "imagenet_top1",
    "load_space",
    "load_spec",
    "parse_spec",
    "train",
    "train_events",
]

_LATER = {
    "LatencyTable": "mbv3.latency",
    "build": "mbv3.nn",
    "export_events": "mbv3.runs",
    "export_to": "mbv3.runs",
    "find": "mbv3.runs",
    "imagenet_top1": "mbv3.search",
    "load_space": "mbv3.space",
    "train": "mbv3.runs",
    "train_events": "mbv3.runs",
}


def __getattr__(name: str) -> Any:
    """Rooms that need torch or pandas are opened when they are first asked for."""
    if name not in _LATER:
        raise AttributeError(f"module 'mbv3' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LATER[name]), name)
