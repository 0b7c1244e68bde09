"""Run directories: what a command makes, keeps and goes on with."""

from mbv3.runs.adapt import adapt_events
from mbv3.runs.find import find_events
from mbv3.runs.options import Options
from mbv3.runs.result import Found, times_text
from mbv3.runs.rundir import RunDir
from mbv3.runs.train import train
from mbv3.runs.verify import verify

__all__ = ["Found", "Options", "RunDir", "adapt_events", "find_events", "times_text", "train", "verify"]
