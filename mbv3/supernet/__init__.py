"""Shared weights over a space: sample paths, train them, cut a network out, recalibrate, score."""

from mbv3.supernet.headed import HeadedSupernet, supernet_of
from mbv3.supernet.model import Norms, Supernet
from mbv3.supernet.paths import Paths, path_forward
from mbv3.supernet.scores import ManyAnswers, many_answers
from mbv3.supernet.task import SupernetAccuracy
from mbv3.supernet.train import shared_fit, shared_paths, steps_within, throughput, train_shared

__all__ = [
    "HeadedSupernet",
    "ManyAnswers",
    "Norms",
    "Paths",
    "Supernet",
    "SupernetAccuracy",
    "many_answers",
    "path_forward",
    "shared_fit",
    "shared_paths",
    "steps_within",
    "supernet_of",
    "throughput",
    "train_shared",
]
