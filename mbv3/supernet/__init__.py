"""Shared weights over a space: sample a path, train it, cut a network out, recalibrate, score."""

from mbv3.supernet.headed import HeadedSupernet, supernet_of
from mbv3.supernet.model import Supernet
from mbv3.supernet.task import SupernetAccuracy, path_forward, throughput

__all__ = ["HeadedSupernet", "Supernet", "SupernetAccuracy", "path_forward", "supernet_of", "throughput"]
