"""What a search proposes for a user's images against what anyone could take at the same milliseconds: all are trained
alike from scratch, and the winner has the rest of the time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from torch import Tensor

from mbv3.events import Event, Note, StageStart
from mbv3.space import Limits, SearchSpace
from mbv3.spec import ArchSpec, Classify, Conv, Site, dump_spec, load_spec, parse_spec, scale_spec
from mbv3.stages.baselines import widest_within
from mbv3.stages.budget import Budget
from mbv3.stages.contenders import Contender, Kind
from mbv3.stages.halving import FIRST, Halving, most_steps, scratch_steps
from mbv3.stages.images import Images, subset
from mbv3.stages.keep import Keep, Memory
from mbv3.stages.plain import PLAIN
from mbv3.stages.rounds import Alike, Outcome, Pair, decided, longer, reported
from mbv3.stages.search import SpaceLatency
from mbv3.stages.shapes import Shape, shaped_as
from mbv3.stages.sizes import FINE
from mbv3.stages.slim import slimmed
from mbv3.stages.tune import Tuned, on_device, scratch_fit, scratch_step_seconds
from mbv3.tables import AIM, Latency
from mbv3.tasks import Work, without_strides
from mbv3.training import ImageData

__all__ = ["ScratchEffort", "contenders_at", "contest", "random_within", "uniform_at"]

FAMILIES = ("mobilenet_v3_small", "mobilenet_v3_large", "mobilenet_v2")
DRAWN = 20_000  # random networks, of which one near the target competes
NEAR = 0.95  # of the target: as good as equal
TIMED, TIMED_S = 3, 1.5  # measurements of what is compared, and seconds of each network in a part of one
STRETCHED = 2.5  # times the share of the rounds where else nothing could be compared
LEARNED = 1000  # steps of the usual batch that a network of PLAIN should learn for
NARROWEST = 0.5  # times the width that the target allows, however short the time is
SIDES = 3  # sizes of the input on either side that may bring a family nearer to the target
COMPARED_ON = 2000  # report images that those answer which are not delivered


@dataclass(frozen=True, slots=True)
class ScratchEffort:
    """Training steps by hand: of each network in the first of the rounds; of the delivered one after them."""

    first: int
    last: int

    @classmethod
    def of(cls, images: Images, epochs: float) -> ScratchEffort:
        """`epochs` of the delivered network, one in FIRST of them in the first round."""
        last = scratch_steps(images, epochs)
        return cls(max(1, last // FIRST), last)


def contenders_at(
    found: ArchSpec, shape: Shape, latency: Latency, target_ms: float, *, space: SearchSpace | None = None,
    cost: SpaceLatency | None = None, limits: Limits | None = None, known: Contender | None = None, seed: int = 0,
    learns: Callable[[ArchSpec], float] | None = None,
) -> list[Contender]:  # fmt: skip
    """`found` (`known`: as it was measured); as wide as `target_ms` allows MobileNetV3-Small, the networks of PLAIN
    where `found` is a classifier, MobileNetV3-Large and MobileNetV2; and a random network of `space`. All for the
    classes of `found` at `shape`, within `limits`.

    `learns`: training steps of a network in the time that there is. Networks of PLAIN that would have too few are
    narrower. The first contenders matter most: MobileNetV3-Small, which has to be beaten, one of PLAIN, and `found`.
    Nothing of PLAIN competes where its times would be guesses: no device is at hand, and no table has such layers.
    """
    mine = _measured("found", "found", found, latency) if known is None else known
    aim = target_ms * (AIM if latency.device is not None else 1.0)
    bases = {name: load_spec(name) for name in FAMILIES}
    if isinstance(latency.dress(found).head, Classify) and (latency.device is not None or _knows_plain(latency)):
        bases |= PLAIN
    rivals = _as_wide_as(bases, shape, found, latency, target_ms, limits)
    if learns is not None:
        narrow = {n: _narrower(rivals[n][0], learns(rivals[n][0]), found.resolution) for n in PLAIN if n in rivals}
        changed = {n: spec for n, spec in narrow.items() if spec != rivals[n][0]}
        rivals |= {n: (changed[n], ms) for n, ms in _took(changed, latency).items() if ms <= target_ms}
    if space is not None and cost is not None:
        drawn = random_within(space, cost, aim, limits or Limits(), seed)
        if drawn is not None and latency.dress(drawn).rows != found.rows:
            spec = latency.dress(drawn)
            ms = _took({"random": spec}, latency)["random"]
            rivals |= {"random": (spec, ms)} if ms <= target_ms else {}
    made = {name: _contender(name, *rivals[name]) for name in (*bases, "random") if name in rivals}
    plain = [name for name in PLAIN if name in made]
    order = [FAMILIES[0], *plain[:1], mine.name, *plain[1:], *FAMILIES[1:], "random"]
    made[mine.name] = mine
    return [made[name] for name in order if name in made]


def _knows_plain(latency: Latency) -> bool:
    """Whether a convolution of what PLAIN is made of was measured for the table."""
    return any(isinstance(k.row, Conv) and k.row.k > 1 and k.cin > 3 for k in latency.table.layers)


def _contender(name: str, spec: ArchSpec, ms: float) -> Contender:
    kind: Kind = "plain" if name in PLAIN else "random" if name == "random" else "family"
    return Contender(name, kind, spec, None, ms, 0.0)


def _as_wide_as(
    bases: Mapping[str, ArchSpec], shape: Shape, found: ArchSpec, latency: Latency, target_ms: float,
    limits: Limits | None,
) -> dict[str, tuple[ArchSpec, float]]:  # fmt: skip
    """The widest network of each of `bases` within the target, and its ms. Estimates of layers that no table holds may
    be far off, so where the device is at hand widths are corrected by what networks take, both ways."""
    aim = target_ms * (AIM if latency.device is not None else 1.0)
    aims, best, tried = dict.fromkeys(bases, aim), dict[str, tuple[ArchSpec, float]](), set[ArchSpec]()
    for _ in range(TIMED if latency.device is not None else 1):
        made = {n: _family(bases[n], n, shape, found, latency.rough(), most, limits) for n, most in aims.items()}
        dressed = {n: latency.dress(spec) for n, spec in made.items() if spec is not None}
        specs = {n: spec for n, spec in dressed.items() if spec not in tried}
        tried |= set(specs.values())
        took = _took(specs, latency)
        for n, ms in took.items():
            if ms <= target_ms and (n not in best or ms > best[n][1]):
                best[n] = specs[n], ms
        aims = {n: aims[n] * aim / ms for n, ms in took.items() if not NEAR * aim <= ms <= target_ms}
        if not aims:
            break
    return best


def _narrower(spec: ArchSpec, steps: float, size: tuple[int, int]) -> ArchSpec:
    """`spec`, which learns for `steps` in the time, so much narrower that it learns for about LEARNED, at the input
    that was asked for: a step takes as long as the square of the width says. NARROWEST times its width at least."""
    factor = max(math.sqrt(steps / LEARNED), NARROWEST)
    if factor >= 1:
        return spec
    name, _, width = spec.name.partition("@")
    return replace(scale_spec(spec, factor, size), name=f"{name}@{float(width) * factor:.2g}")


def _took(specs: Mapping[str, ArchSpec], latency: Latency) -> dict[str, float]:
    """ms of each of `specs`, measured in the same rounds where the device is at hand."""
    if not specs:
        return {}
    some = list(specs.values())
    if latency.device is None:
        return dict(zip(specs, latency(some), strict=True))
    return dict(zip(specs, latency.device.networks(some, parts=2, max_s=TIMED_S * len(some)).ms, strict=True))


def _family(
    base: ArchSpec, name: str, shape: Shape, found: ArchSpec, latency: Latency, aim: float, limits: Limits | None
) -> ArchSpec | None:
    """`base` as wide as `aim` allows at the shape of `found`, by prediction. Where a family's widths are too coarse to
    come near, the input is a little smaller or larger."""

    def at(side: int, width: float) -> ArchSpec:
        spec = shaped_as(scale_spec(base, width), Shape(side, shape.strides), found.head.classes)
        size = found.resolution if side == shape.side else spec.resolution
        return replace(spec, name=f"{name}@{width:g}", resolution=size)

    def widest(side: int) -> tuple[ArchSpec, float] | None:
        return widest_within(partial(at, side), aim, latency, limits)

    best = widest(shape.side)
    if best is None:
        return None
    if best[1] < NEAR * aim and found.resolution[0] == found.resolution[1] and name not in PLAIN:
        step = FINE if shape.side >= 64 else FINE // 2
        least = max(16, without_strides(base, shape.strides).stride)
        near = sorted((n for n in range(-SIDES, SIDES + 1) if n and shape.side + step * n >= least), key=abs)
        for n in near:  # the nearest that comes near
            made = widest(shape.side + step * n)
            best = max([best, *([made] if made is not None else [])], key=lambda one: one[1])
            if best[1] >= NEAR * aim:
                break
    return best[0]


def uniform_at(
    found: ArchSpec, whole: ArchSpec, latency: Latency, target_ms: float, some: Collection[Site] | None = None
) -> list[Contender]:
    """`found`, which was cut from `whole`, and `whole` slimmed by one factor to `target_ms`."""
    aim = target_ms * (AIM if latency.device is not None else 1.0)
    plain = slimmed(replace(whole, head=replace(whole.head, classes=found.head.classes)), latency, aim, some)
    mine = _measured("found", "found", found, latency)
    other = [] if plain is None else [_measured("l1", "l1", plain, latency)]
    return [mine, *(c for c in other if c.ms <= target_ms)]


def _measured(name: str, kind: str, spec: ArchSpec, latency: Latency) -> Contender:
    whole = latency.measure(spec, 4)
    ms, error = (latency([spec])[0], 0.0) if whole is None else (whole.ms, whole.error_ms)
    return Contender(name, kind, spec, None, ms, error)  # type: ignore[arg-type]


def random_within(space: SearchSpace, cost: SpaceLatency, aim: float, limits: Limits, seed: int) -> ArchSpec | None:
    """A network of the space drawn from those within NEAR of `aim`, else the slowest that was drawn below it."""
    genomes = space.sample(np.random.default_rng((seed, DRAWN)), DRAWN)
    ms = cost.many(genomes)
    inside = np.flatnonzero((ms <= aim) & limits.on(space).within(genomes))
    if not len(inside):
        return None
    near = inside[ms[inside] >= NEAR * aim]
    chosen = near[0] if len(near) else inside[np.argmax(ms[inside])]
    return space.spec(tuple(int(v) for v in genomes[chosen]), "random")


def contest(
    make: Callable[[], Sequence[Contender]],
    images: Images,
    report: ImageData,
    *,
    effort: ScratchEffort | None = None,
    budget: Budget | None = None,
    spent_s: float = 0.0,
    inherited: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    keep: Keep | None = None,
) -> Generator[Event, None, Outcome]:
    """What `make` gives learns `images.train` from scratch by the recipe that `mbv3 train`
    takes by default, in rounds after which half is dropped by the loss on `images.held_out`. The winner, which is a
    baseline where none is beaten beyond the error, goes on for the rest of `budget`, at least half of it. `report` is
    answered once, at the end.

    `spent_s`: seconds of the budget that are gone. `effort`: steps by hand. `inherited`: weights that the found network
    has already; where they answer better than what was trained, they are delivered.
    """
    budget, keep = budget or Budget(60.0), keep or Memory()
    began = time.monotonic()

    def decide() -> tuple[tuple[str, str, str, float, float], ...]:
        return tuple((c.name, c.kind, dump_spec(c.spec), c.ms, c.error_ms) for c in make())

    contenders = [
        Contender(name, kind, parse_spec(text, "contenders"), None, float(ms), float(error))  # type: ignore[arg-type]
        for name, kind, text, ms, error in keep.value("contenders", decide)
    ]
    beaten = next((c for c in contenders if not c.own), contenders[0])  # what anyone would take has to be
    contenders = [beaten, *(c for c in contenders if c is not beaten)]
    first = None if effort is None else effort.first
    halving = Halving(images, "candidates.csv", budget, "contenders", first, seed, keep, "candidates", STRETCHED)
    rounds = yield from halving.run(contenders)
    best, alike, doubt = contenders[0], None, ""
    if rounds:
        (best, alike), doubt = decided(rounds, contenders[0], images.work.metric, halving.horizon(len(rounds[0])))
        seen = {c.name for c, _ in rounds[0]}
        if late := [c.called for c in contenders if c.name not in seen]:
            yield Note("candidates", f"the time was too short for {len(late)} more: {', '.join(late)}")
    elif len(contenders) > 1:
        enough = f" (--budget-minutes {halving.enough:.2g} would do)" if halving.enough else ""
        doubt = f"the time is too short to compare networks on the images{enough}: {best.called} is delivered" + (
            "" if best.own else ", which the found one has not beaten"
        )
    if doubt:
        yield Note("candidates", doubt, warning=True)

    def last() -> tuple[int, float | None]:
        if effort is not None:
            return effort.last, None
        if not budget.timed:
            return scratch_steps(images, None), None
        step_s = scratch_step_seconds(best.spec, images)
        answered = len(report) + len(halving.few.held_out) + len(contenders) * min(COMPARED_ON, len(report))
        scoring = halving.answer_seconds(best.spec) * answered
        left = 60 * budget.minutes - spent_s - (time.monotonic() - began) - scoring
        given = max(left, budget.seconds("training"))
        steps = int(np.clip(given / step_s, 1, most_steps(images)))
        batch = scratch_fit(images, best.spec.resolution, steps).batch  # of a short training it is a smaller one
        step_s = scratch_step_seconds(best.spec, images, batch)
        steps = int(np.clip(given / step_s, 1, most_steps(images)))
        return steps, round(steps * step_s, 1)

    steps, forecast_s = keep.value("last_steps", last)
    if alike is None:
        yield StageStart("training", f"{steps} steps of {best.called}", forecast_s)
        tuned = yield from halving.learn(f"{best.name}-last", best, None, steps)
    else:
        tuned = yield from longer(best, alike, steps, halving.learn, forecast_s)
    halving.ledger.record("last", [(best, tuned)], [best])
    if inherited is not None:
        mine = next(c for c in contenders if c.kind == "found")
        before = images.work.answers(on_device(mine.spec, inherited), halving.few.held_out, mine.spec.resolution)
        by, error = before.better_by(tuned.chosen_on)
        if by > error:
            best, tuned = mine, Tuned(mine.spec, dict(inherited), 0, before)
            doubt = (
                f"the time is too short to train from scratch: the found network with the weights of the search is "
                f"{by:.1f} +- {error:.1f} points better on the choosing images, and delivered"
            )
            yield Note("training", doubt, warning=True)
    yield StageStart("scoring", f"{len(report)} images to report on")
    answered = reported(tuned, report, images.work)
    learned = sum({id(t): t.steps for r in rounds for c, t in r if c is best}.values()) if tuned.steps else 0
    learned += 0 if tuned is alike else tuned.steps
    return Outcome(best, tuned, answered, tuple(_alike(rounds, best, report, images.work)), doubt, learned)


def _alike(rounds: Sequence[Sequence[Pair]], best: Contender, report: ImageData, work: Work) -> list[Alike]:
    """Every contender as it was after its last round, those of the last round first and the winner before all."""
    last: dict[str, tuple[int, Pair]] = {c.name: (n, (c, t)) for n, r in enumerate(rounds) for c, t in r}
    few = subset(report, COMPARED_ON)
    found = [(n, Alike(c, t, reported(t, few, work))) for n, (c, t) in last.values()]
    found.sort(key=lambda f: (f[1].contender is not best, -f[0], -f[1].reported.score))
    return [a for _, a in found]
