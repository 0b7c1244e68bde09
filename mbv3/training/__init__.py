"""One training loop; scoring; batch-norm recalibration; checkpoints without pickle."""

from mbv3.training.checkpoint import load_checkpoint, read_weights, save_checkpoint, save_weights
from mbv3.training.loop import Diverged, Fit, fit, learning_rate, make_optimizer, one_step
from mbv3.training.score import Score, evaluate, recalibrate

__all__ = [
    "Diverged",
    "Fit",
    "Score",
    "evaluate",
    "fit",
    "learning_rate",
    "load_checkpoint",
    "make_optimizer",
    "one_step",
    "read_weights",
    "recalibrate",
    "save_checkpoint",
    "save_weights",
]
