"""Networks of a supernet on a user's images: the best within the target at several resolutions, their batch norms
recalibrated at each, their head learned, and scored (Cai 2020, section 3.4, arXiv:1908.09791)."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from torch import Tensor

from mbv3.accuracy import OFA, PAPER, imagenet, imagenet_space
from mbv3.data import ImageSet, normalise
from mbv3.errors import Unreachable
from mbv3.events import Event, Note, StageStart
from mbv3.export import SharedWeights
from mbv3.nn import Network, statistics
from mbv3.search import Limit
from mbv3.search import solve as solved_under
from mbv3.space import Limits, SearchSpace, scale
from mbv3.spec import ArchSpec, pixels
from mbv3.stages.contenders import Contender, Kind, Under, kept_contender
from mbv3.stages.contest import random_within
from mbv3.stages.images import Images, photos_in, subset
from mbv3.stages.judge import imagenet_judge
from mbv3.stages.keep import Keep, Memory
from mbv3.stages.linear_head import learn_head
from mbv3.stages.near_rows import near_rows
from mbv3.stages.rounds import told
from mbv3.stages.search import space_latency
from mbv3.stages.tune import on_device
from mbv3.stages.within import best_within
from mbv3.tables import AIM, Latency
from mbv3.training import ImageData, adopt, recalibrate

__all__ = ["Subnet", "best_sides", "drawn_subnet", "settled", "subnet_contenders", "subnets_at"]

STAGE, COLUMNS = "subnets", ("network", "resolution", "ms", "predicted", "top1", "loss", "stays")
MOST_SIDES, STAY = 3, 3  # resolutions, networks that are trained
CALIBRATED, LEARNED = 2000, 2000  # images for batch norms, as in OFA's own code, and for the head
BATCH, SCORED = 64, 1000


@dataclass(frozen=True, slots=True)
class Subnet:
    """A network within the target, without its weights. `predicted`: its ImageNet top-1 in percent."""

    name: str
    kind: Kind
    spec: ArchSpec
    ms: float
    error_ms: float
    predicted: float


def best_sides(
    space: SearchSpace, sides: Sequence[int], latency: Latency, target_ms: float, limits: Limits | None = None
) -> list[int]:
    """Up to MOST_SIDES of `sides`, those at which the ImageNet model predicts most for a network of `space` within
    `target_ms`, the best first.

    Raises:
        Unreachable: at none of them is there such a network.
    """
    found, ranges = [], []
    for side in sides:
        at = scale(space, 1.0, side)
        cost = space_latency(at, latency)
        ranges.append(cost.range_ms())
        within = [Limit(cost.many, target_ms), *(Limit(x.cost, x.most) for x in (limits or Limits()).on(at).every)]
        view = imagenet_space(_whole(at), recipe=OFA)
        done = solved_under(at.sizes, view, within, population=200, generations=8, starts=1)
        if done.feasible:
            found.append((float(done.value), side))
    if not found:
        least, most = min(r[0] for r in ranges), max(r[1] for r in ranges)
        raise Unreachable(
            f"a target of {target_ms:g} ms cannot be met: networks of the supernet take {least:.3g} to {most:.3g} ms "
            f"at {min(sides)} to {max(sides)} px on this device",
            least,
            most,
        )
    return [side for _, side in sorted(found, reverse=True)[:MOST_SIDES]]


def _whole(space: SearchSpace) -> SearchSpace:
    """`space` as the evidence of ImageNet knows it: with its 1,000 classes."""
    return scale(space, 1.0, None, 1000)


def subnets_at(
    space: SearchSpace,
    latency: Latency,
    target_ms: float,
    *,
    limits: Limits | None = None,
    seed: int = 0,
    keep: Keep | None = None,
) -> Generator[Event, None, list[Subnet]]:
    """The networks of a scaled space that are predicted to be best within `target_ms`: with the supernet's weights, and
    after a training of their own, which a fine-tuning goes towards. Where a device is at hand they are timed whole."""
    own, view = (limits or Limits()).on(space), _whole(space)
    keep, side = Under(keep or Memory(), f"at-{pixels(space.resolution)}px"), pixels(space.resolution)
    cost = yield from near_rows(
        space, latency, (target_ms,), view=view, ratio=1.0, limits=own, seed=seed, keep=keep, recipe=OFA
    )
    found: list[Subnet] = []
    for recipe in (OFA, PAPER):
        name = f"subnet-{side}-{len(found) + 1}"
        best = yield from best_within(
            space, imagenet_judge(view, recipe), cost, latency, target_ms, name=name, limits=own, seed=seed,
            estimated=cost.estimated, keep=keep,
        )  # fmt: skip
        if best.ms <= target_ms and all(best.spec.rows != other.spec.rows for other in found):
            error = 0.0 if best.verdict is None else best.verdict.error_ms
            worth = imagenet(view.spec(best.solution.best.genome), recipe=OFA).value
            found.append(Subnet(name, "subnet", best.spec, best.ms, error, worth))
    return found


def drawn_subnet(
    space: SearchSpace, latency: Latency, target_ms: float, *, limits: Limits | None = None, seed: int = 0
) -> Subnet | None:
    """What anyone could take out of the supernet: a network drawn from those that take about `target_ms`; None where
    it takes more."""
    cost = space_latency(space, latency)
    aim = target_ms * (1.0 if latency.device is None else AIM) / latency.correction
    spec = random_within(space, cost, aim, limits or Limits(), seed)
    if spec is None:
        return None
    whole = latency.measure(spec, 4)
    ms, error = (latency([spec])[0], 0.0) if whole is None else (whole.ms, whole.error_ms)
    worth = imagenet(replace(spec, head=_whole(space).scaled_head()), recipe=OFA).value
    return Subnet("random", "random", spec, ms, error, worth) if ms <= target_ms else None


def subnet_contenders(
    subnets: Sequence[Subnet], weights: SharedWeights, images: Images, *, seed: int = 0, keep: Keep | None = None
) -> Generator[Event, None, list[Contender]]:
    """`subnets` with their weights, settled on `images.train` and scored on `images.held_out`; those of the lowest loss
    stay, and the drawn one. subnets.csv has a row for each."""
    keep = keep or Memory()
    yield StageStart(STAGE, f"{len(subnets)} networks of the supernet: batch norms and a head of the photos' classes")
    held = subset(images.held_out, SCORED)
    scored: list[tuple[float, Contender, dict[str, object]]] = []
    for one in subnets:
        made = partial(_contender, one, weights, photos_in(images.train), seed)
        c = yield from kept_contender(keep, one.name, one.kind, made)
        assert c is not None
        found = images.work.answers(on_device(c.spec, c.state), held, c.spec.resolution)
        yield Note(STAGE, f"{c.called}: {told(found, images.work)}")
        loss = float(found.loss.mean())
        row: dict[str, object] = {
            "network": c.name, "resolution": pixels(c.spec.resolution), "ms": f"{c.ms:.5f}",
            "predicted": f"{one.predicted:.3f}", "top1": f"{found.score:.3f}", "loss": f"{loss:.5f}",
        }  # fmt: skip
        scored.append((loss, c, row))
    own = sorted((s for s in scored if s[1].own), key=lambda s: s[0])[:STAY]
    stay = [c for _, c, _ in own] + [c for _, c, _ in scored if not c.own]
    keep.write_rows("subnets.csv", COLUMNS, [{**row, "stays": int(any(c is s for s in stay))} for _, c, row in scored])
    return stay


def _contender(
    one: Subnet, weights: SharedWeights, data: ImageSet, seed: int
) -> Generator[Event, None, Contender | None]:
    state = settled(one.spec, weights, data, seed)
    yield Note(STAGE, f"{one.name}: weights of the supernet, its head learned on {min(len(data), LEARNED)} images")
    return Contender(one.name, one.kind, one.spec, state, one.ms, one.error_ms)


def settled(spec: ArchSpec, weights: SharedWeights, data: ImageData, seed: int = 0) -> dict[str, Tensor]:
    """The weights of `spec` in the supernet, its batch norms recalibrated on `data` at its resolution and its
    classifier learned on it, where it has other classes than the supernet."""
    net = on_device(spec, None, seed)
    assert isinstance(net, Network)
    fresh = adopt(net, weights.state(spec), weights.file)
    some = photos_in(subset(data, CALIBRATED))
    order = np.random.default_rng(seed).permutation(len(some))
    device = next(net.parameters()).device
    # the last part may be small: no statistics of a few images
    parts = np.array_split(order, max(1, len(order) // BATCH))
    batches = (np.ascontiguousarray(some.images[np.sort(i)]) for i in parts)
    recalibrate(net, (normalise(x, spec.resolution, device, statistics(net)) for x in batches))
    if fresh:
        learn_head(net, photos_in(subset(data, LEARNED)), spec.resolution)
    return {k: v.detach().cpu().clone() for k, v in net.state_dict().items()}
