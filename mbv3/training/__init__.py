"""One training loop; scoring; batch-norm recalibration; checkpoints without pickle."""

from mbv3.training.checkpoint import (
    checkpoint_meta,
    load_checkpoint,
    read_tensors,
    read_weights,
    save_checkpoint,
    save_weights,
    weights_bytes,
)
from mbv3.training.detect import DetectMetric, detect_objective, objects
from mbv3.training.init import adopt
from mbv3.training.loop import Diverged, Epoch, fit, one_step
from mbv3.training.optimizer import Average, make_optimizer
from mbv3.training.processes import processes, together
from mbv3.training.recipes import (
    RECIPES,
    Fit,
    Recipe,
    learning_rate,
    recipe_for,
    usual_epochs,
    why_recipe,
)
from mbv3.training.score import ClassifyMetric, Score, each, evaluate, measure, recalibrate
from mbv3.training.segment import SegmentMetric
from mbv3.training.task import Batches, Metric, Objective, WithAux, and_aux, classify_objective, distilled

__all__ = [
    "RECIPES",
    "Average",
    "Batches",
    "ClassifyMetric",
    "DetectMetric",
    "Diverged",
    "Epoch",
    "Fit",
    "Metric",
    "Objective",
    "Recipe",
    "Score",
    "SegmentMetric",
    "WithAux",
    "adopt",
    "and_aux",
    "checkpoint_meta",
    "classify_objective",
    "detect_objective",
    "distilled",
    "each",
    "evaluate",
    "fit",
    "learning_rate",
    "load_checkpoint",
    "make_optimizer",
    "measure",
    "objects",
    "one_step",
    "processes",
    "read_tensors",
    "read_weights",
    "recalibrate",
    "recipe_for",
    "save_checkpoint",
    "save_weights",
    "together",
    "usual_epochs",
    "weights_bytes",
    "why_recipe",
]
