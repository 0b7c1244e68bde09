"""The steps of the chain as plain functions: values in, a value out, events on the way.

Each is called from a notebook without options and without a run directory; `mbv3.events.result` runs one to its end.
"""

from mbv3.stages.adapt import Adapted, adapt
from mbv3.stages.budget import SHARES, Budget
from mbv3.stages.compare import Compared, Rival, final_steps, rivals_at, train_alike
from mbv3.stages.images import Images, calibration_batches, drawn_images, read_images, rescore, subset
from mbv3.stages.judge import (
    ImagenetJudge,
    Judge,
    SupernetJudge,
    TrainingJudge,
    imagenet_judge,
    step_seconds,
    supernet_judge,
    training_judge,
)
from mbv3.stages.keep import Keep, Memory
from mbv3.stages.learn import CHECKPOINT, LOG, Learned, default_device, learn
from mbv3.stages.measure import ReferenceTime, check_reach, fast_enough, network_table, reference_times
from mbv3.stages.published import PublishedTime, published_times
from mbv3.stages.scale import Scale, check_range, choose_scale, quick_ms
from mbv3.stages.search import TRIALS, SpaceLatency, default_w, pick_seed, search, space_latency

__all__ = [
    "CHECKPOINT",
    "LOG",
    "SHARES",
    "TRIALS",
    "Adapted",
    "Budget",
    "Compared",
    "ImagenetJudge",
    "Images",
    "Judge",
    "Keep",
    "Learned",
    "Memory",
    "PublishedTime",
    "ReferenceTime",
    "Rival",
    "Scale",
    "SpaceLatency",
    "SupernetJudge",
    "TrainingJudge",
    "adapt",
    "calibration_batches",
    "check_range",
    "check_reach",
    "choose_scale",
    "default_device",
    "default_w",
    "drawn_images",
    "fast_enough",
    "final_steps",
    "imagenet_judge",
    "learn",
    "network_table",
    "pick_seed",
    "published_times",
    "quick_ms",
    "read_images",
    "reference_times",
    "rescore",
    "rivals_at",
    "search",
    "space_latency",
    "step_seconds",
    "subset",
    "supernet_judge",
    "train_alike",
    "training_judge",
]
