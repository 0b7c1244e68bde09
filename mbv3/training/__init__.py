"""One training loop; scoring; batch-norm recalibration; checkpoints without pickle."""

from mbv3.training.answers import Answers, ClassAnswers, ResampledAnswers, answers_of, class_answers, outputs
from mbv3.training.checkpoint import (
    checkpoint_meta,
    load_checkpoint,
    read_tensors,
    read_weights,
    save_checkpoint,
    save_weights,
    weights_bytes,
)
from mbv3.training.detect import DetectMetric, detect_answers, detect_objective, objects
from mbv3.training.init import adopt
from mbv3.training.loop import Diverged, Epoch, fit, moved, one_step, recipe_values, same_recipe
from mbv3.training.optimizer import Average, make_optimizer
from mbv3.training.processes import all_agree, processes, together
from mbv3.training.recipes import (
    FAR,
    FEW,
    RECIPES,
    Fit,
    Recipe,
    learning_rate,
    recipe_for,
    usual_epochs,
    why_recipe,
)
from mbv3.training.score import ClassifyMetric, Score, evaluate, measure, recalibrate
from mbv3.training.segment import SegmentMetric, segment_answers, segment_objective
from mbv3.training.task import Batches, ImageData, Metric, Objective, WithAux, and_aux, classify_objective, distilled

__all__ = [
    "FAR",
    "FEW",
    "RECIPES",
    "Answers",
    "Average",
    "Batches",
    "ClassAnswers",
    "ClassifyMetric",
    "DetectMetric",
    "Diverged",
    "Epoch",
    "Fit",
    "ImageData",
    "Metric",
    "Objective",
    "Recipe",
    "ResampledAnswers",
    "Score",
    "SegmentMetric",
    "WithAux",
    "adopt",
    "all_agree",
    "and_aux",
    "answers_of",
    "checkpoint_meta",
    "class_answers",
    "classify_objective",
    "detect_answers",
    "detect_objective",
    "distilled",
    "evaluate",
    "fit",
    "learning_rate",
    "load_checkpoint",
    "make_optimizer",
    "measure",
    "moved",
    "objects",
    "one_step",
    "outputs",
    "processes",
    "read_tensors",
    "read_weights",
    "recalibrate",
    "recipe_for",
    "recipe_values",
    "same_recipe",
    "save_checkpoint",
    "save_weights",
    "segment_answers",
    "segment_objective",
    "together",
    "usual_epochs",
    "weights_bytes",
    "why_recipe",
]
