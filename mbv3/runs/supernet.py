"""`mbv3-search --space ofa-mbv3 --init FILE`: a network of OFA's supernet within a target, with its weights."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from mbv3.accuracy import imagenet
from mbv3.errors import BadInput
from mbv3.events import Event, Note
from mbv3.export import OFA_DOWNLOAD, SharedWeights, read_supernet
from mbv3.record import Bound, Initial, SearchRecord
from mbv3.runs.beside import put_beside
from mbv3.runs.deliver import deliver, predicted_accuracy
from mbv3.runs.options import Options
from mbv3.runs.result import Found
from mbv3.runs.rundir import RunDir, file_sha256
from mbv3.space import SearchSpace, SpaceLimits, load_space
from mbv3.spec import dump_spec, pixels
from mbv3.stages import Adapted, SpaceLatency, best_within, imagenet_judge
from mbv3.tables import Latency

__all__ = ["OFA_ADVICE", "check_ofa_weights", "extracted", "reopened", "supernet_initial"]

OFA_ADVICE = (
    f"public ImageNet weights of these networks are taken with --init FILE: download {OFA_DOWNLOAD}; without them the "
    "run ends with a network and no weights"
)
UNSETTLED = (
    "the batch norms of weights.safetensors hold the supernet's statistics: before the network answers sensibly they "
    "must be taken on images at its resolution: --data DIR does it on yours and learns their classes, "
    "mbv3.training.recalibrate(net, batches) does it on some 2,000 of ImageNet"
)


def check_ofa_weights(o: Options, space: SearchSpace) -> SharedWeights:
    """The weights of --init, of which every network of `space` is a part. Raises: BadInput."""
    assert o.init is not None
    if o.scale == "auto" and space.widths != (1.0,):
        raise BadInput(f"--space {o.space}: the weights of --init have one width; write `scales: {{widths: [1]}}` into "
                       "the space, or give --scale 1xSIDE")  # fmt: skip
    if o.data is not None and o.asked_resolution is not None and len(set(o.asked_resolution)) > 1:
        raise BadInput(
            f"--resolution {o.resolution}: networks of a supernet are compared at square inputs; give a side"
        )
    weights = read_supernet(Path(o.init))
    ends = [tuple(end(n) for n in space.sizes) for end in (lambda n: 0, lambda n: n - 1)]
    wrong = [line for genome in ends for line in weights.faults(space.spec(genome))]
    if wrong:
        own = f"ofa-mbv3-w{weights.width}"
        lines = "\n".join(f"  {line}" for line in dict.fromkeys(wrong))
        raise BadInput(f"--space {o.space}: its networks are not those of the weights {o.init}, which have width "
                       f"{weights.width:g}; give --space {own}\n{lines}")  # fmt: skip
    return weights


def supernet_initial(weights: SharedWeights) -> Initial:
    """Where a run's weights are from, as run.json has it."""
    network = f"supernet {weights.largest.name}"
    return Initial(file=weights.file, sha256=file_sha256(Path(weights.file)), network=network)


def reopened(o: Options, run: RunDir[SearchRecord]) -> Generator[Event, None, SharedWeights]:
    """The weights that the run began with. Raises: BadInput: the file is another one now."""
    weights = check_ofa_weights(o, load_space(o.space_name))
    now, began = supernet_initial(weights), run.record.init
    if began is None or began.sha256 != now.sha256:
        raise BadInput(f"--resume {run.path}: {now.file} is not the file of weights that this run began with; restore "
                       "it, or begin again with another --out")  # fmt: skip
    yield Note("start", f"weights of {now.file}: {now.network}, sha256 {now.sha256}")
    return weights


def extracted(
    o: Options, run: RunDir[SearchRecord], space: SearchSpace, latency: Latency, cost: SpaceLatency,
    limits: SpaceLimits,
) -> Generator[Event, None, Found]:  # fmt: skip
    """Without images: the network that the ImageNet model predicts to answer best with the weights that it inherits,
    and these."""
    weights = yield from reopened(o, run)
    if space.sides and not min(space.sides) <= min(space.resolution) <= max(space.resolution) <= max(space.sides):
        text = (f"the supernet was trained at {min(space.sides)} to {max(space.sides)} px: at "
                f"{pixels(space.resolution)} px its weights answer worse than is predicted")  # fmt: skip
        run.note(text)
        yield Note("search", text, warning=True)
    judge = imagenet_judge(space, o.recipe)
    with run.stage("search"):
        found = yield from best_within(
            space, judge, cost, latency, o.target_ms, name=f"seed_{o.target_ms:g}ms", limits=limits, seed=o.seed,
            estimated=o.estimate_only or cost.estimated, keep=run,
        )  # fmt: skip
    solution = found.solution
    if solution.bound is not None:
        run.update(bound=Bound(found=round(solution.best.accuracy, 4), most=round(solution.bound, 4)))
    run.text("seed.yaml", dump_spec(found.spec))
    estimate = imagenet(found.spec, recipe=o.recipe)
    run.update(seed_ms=solution.best.latency_ms, seed_trial=solution.best.number, accuracy=predicted_accuracy(estimate))
    adapted = Adapted(
        found.spec, weights.state(found.spec), found.predicted_ms, found.verdict, estimate.value,
        found.ms <= o.target_ms, latency.correction, estimate,
    )  # fmt: skip
    yield from put_beside(o, run, adapted, found.spec, latency, space, judge, cost, solution.evaluations)
    run.note(UNSETTLED)
    yield Note("search", UNSETTLED, warning=True)
    return (yield from deliver(o, run, adapted, None, latency))
