"""The chain as a function: `find(target_ms=50, ...)` wires the rooms and yields events."""

from mbv3.pipeline.find import find, times_text
from mbv3.pipeline.options import Options
from mbv3.pipeline.tables import open_table, read_table, table_plan
from mbv3.pipeline.train import train
from mbv3.pipeline.verify import verify

__all__ = ["Options", "find", "open_table", "read_table", "table_plan", "times_text", "train", "verify"]
