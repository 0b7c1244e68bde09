"""The steps of the chain as plain functions: values in, a value out, events on the way.

Each is called from a notebook without options and without a run directory; `mbv3.events.result` runs one to its end.
"""

from mbv3.stages.adapt import Adapted, adapt
from mbv3.stages.adapt_model import adapt_predicted
from mbv3.stages.adapt_tune import FineTune, Read
from mbv3.stages.baselines import Beside, Verdict, baselines_at, compared, widest_within
from mbv3.stages.budget import SHARES, Budget
from mbv3.stages.contenders import Contender
from mbv3.stages.contest import ScratchEffort, contenders_at, contest, uniform_at
from mbv3.stages.curve import Passed, TakenUp, nearest, passed_in, taken_up
from mbv3.stages.engines import PRESETS, Joint, Single, Worth
from mbv3.stages.familiar import far_recipe, probe_loss
from mbv3.stages.finalists import FINALISTS, Chosen, answered_best, choose_seed, finalists, smoothed
from mbv3.stages.gap import most_accurate
from mbv3.stages.halving import steps_in_time
from mbv3.stages.images import Images, calibration_batches, photos_in, rescore, subset
from mbv3.stages.job import Job, ScaledSpace
from mbv3.stages.judge import (
    ImagenetJudge,
    Judge,
    Scores,
    SupernetJudge,
    TrainingJudge,
    imagenet_judge,
    shared_scorer,
    step_seconds,
    supernet_judge,
    training_judge,
)
from mbv3.stages.keep import Keep, Memory
from mbv3.stages.learn import CHECKPOINT, LOG, Learned, default_device, learn, on_network, ready
from mbv3.stages.linear_head import learn_head
from mbv3.stages.measure import ReferenceTime, check_reach, fast_enough, network_table, reference_times
from mbv3.stages.near_rows import near_rows
from mbv3.stages.photos import Photos, peek_photos, photos_sha256, read_photos, task_photos
from mbv3.stages.plain import PLAIN
from mbv3.stages.published import PublishedTime, published_times
from mbv3.stages.ranking import CHECKED, FEWEST, LEAST_TAU, check_ranking, near_target, ranking_text
from mbv3.stages.reach import check_limits, search_limits, unmet_together
from mbv3.stages.road import road
from mbv3.stages.road_pace import Effort, check_minutes, check_scratch_minutes
from mbv3.stages.rounds import Alike, Outcome
from mbv3.stages.scale import Scale, check_range, choose_scale, quick_ms, typical
from mbv3.stages.scale_accuracy import choose_scale_by_accuracy
from mbv3.stages.search import (
    TRIALS,
    SpaceLatency,
    affordable,
    default_w,
    pick_seed,
    pick_starts,
    search,
    space_latency,
    write_trials,
)
from mbv3.stages.search_shared import Study, search_shared
from mbv3.stages.shapes import Shape, choose_shape, fewer_strides, likely_shapes, natural, probe, shaped_as, shapes_of
from mbv3.stages.shrink import shrink
from mbv3.stages.shrink_tune import Tuner, adopted
from mbv3.stages.sizes import Sizes, choose_sizes, sized, sized_table, steady_ms
from mbv3.stages.slim import cut_by_l1, slimmed
from mbv3.stages.solve import Solution, best_at_random, solve, solve_targets
from mbv3.stages.subnets import Subnet, best_sides, drawn_subnet, settled, subnet_contenders, subnets_at
from mbv3.stages.tune import (
    DISTILL,
    TEMPERATURE,
    Tuned,
    kept_as,
    on_device,
    scratch_fit,
    scratch_unit,
    steps_of,
    taught_by,
    trained,
    tune,
    usual_steps,
)
from mbv3.stages.within import Within, best_within

__all__ = [
    "CHECKED",
    "CHECKPOINT",
    "DISTILL",
    "FEWEST",
    "FINALISTS",
    "LEAST_TAU",
    "LOG",
    "PLAIN",
    "PRESETS",
    "SHARES",
    "TEMPERATURE",
    "TRIALS",
    "Adapted",
    "Alike",
    "Beside",
    "Budget",
    "Chosen",
    "Contender",
    "Effort",
    "FineTune",
    "ImagenetJudge",
    "Images",
    "Job",
    "Joint",
    "Judge",
    "Keep",
    "Learned",
    "Memory",
    "Outcome",
    "Passed",
    "Photos",
    "PublishedTime",
    "Read",
    "ReferenceTime",
    "Scale",
    "ScaledSpace",
    "Scores",
    "ScratchEffort",
    "Shape",
    "Single",
    "Sizes",
    "Solution",
    "SpaceLatency",
    "Study",
    "Subnet",
    "SupernetJudge",
    "TakenUp",
    "TrainingJudge",
    "Tuned",
    "Tuner",
    "Verdict",
    "Within",
    "Worth",
    "adapt",
    "adapt_predicted",
    "adopted",
    "affordable",
    "answered_best",
    "baselines_at",
    "best_at_random",
    "best_sides",
    "best_within",
    "calibration_batches",
    "check_limits",
    "check_minutes",
    "check_range",
    "check_ranking",
    "check_reach",
    "check_scratch_minutes",
    "choose_scale",
    "choose_scale_by_accuracy",
    "choose_seed",
    "choose_shape",
    "choose_sizes",
    "compared",
    "contenders_at",
    "contest",
    "cut_by_l1",
    "default_device",
    "default_w",
    "drawn_subnet",
    "far_recipe",
    "fast_enough",
    "fewer_strides",
    "finalists",
    "imagenet_judge",
    "kept_as",
    "learn",
    "learn_head",
    "likely_shapes",
    "most_accurate",
    "natural",
    "near_rows",
    "near_target",
    "nearest",
    "network_table",
    "on_device",
    "on_network",
    "passed_in",
    "peek_photos",
    "photos_in",
    "photos_sha256",
    "pick_seed",
    "pick_starts",
    "probe",
    "probe_loss",
    "published_times",
    "quick_ms",
    "ranking_text",
    "read_photos",
    "ready",
    "reference_times",
    "rescore",
    "road",
    "scratch_fit",
    "scratch_unit",
    "search",
    "search_limits",
    "search_shared",
    "settled",
    "shaped_as",
    "shapes_of",
    "shared_scorer",
    "shrink",
    "sized",
    "sized_table",
    "slimmed",
    "smoothed",
    "solve",
    "solve_targets",
    "space_latency",
    "steady_ms",
    "step_seconds",
    "steps_in_time",
    "steps_of",
    "subnet_contenders",
    "subnets_at",
    "subset",
    "supernet_judge",
    "taken_up",
    "task_photos",
    "taught_by",
    "trained",
    "training_judge",
    "tune",
    "typical",
    "uniform_at",
    "unmet_together",
    "usual_steps",
    "widest_within",
    "write_trials",
]
