"""The kit of a space: a folder that measures its table on a device where mbv3 is not installed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mbv3.latency import ERROR, MINUTES, kit_files, write_kit
from mbv3.space import SearchSpace
from mbv3.tables.plan import table_plan

__all__ = ["WrittenKit", "write_space_kit"]


@dataclass(frozen=True, slots=True)
class WrittenKit:
    """A kit that was written: its numbers of layers and networks, and the bytes of its files before zipping."""

    path: Path
    layers: int
    networks: int
    size_bytes: int


def write_space_kit(
    space: SearchSpace,
    path: Path,
    runtime: str = "onnxruntime",
    threads: int = 1,
    *,
    error: float = ERROR,
    minutes: float = MINUTES,
) -> WrittenKit:
    """Write the kit of a (scaled) space to `path`, a folder or a .zip file.

    Raises:
        BadInput: an unknown runtime, a limit out of range, or `path` exists or cannot be written.
    """
    plan = table_plan(space)
    files = kit_files(plan, runtime, threads, error=error, minutes=minutes)
    write_kit(files, path)
    return WrittenKit(path, len(plan.keys), len(plan.calibration), sum(map(len, files.values())))
