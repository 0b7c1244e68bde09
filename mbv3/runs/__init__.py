"""Run directories: what a command makes, keeps and goes on with."""

from mbv3.runs.find import find, times_text
from mbv3.runs.options import Options
from mbv3.runs.train import train
from mbv3.runs.verify import verify

__all__ = ["Options", "find", "times_text", "train", "verify"]
