"""Do no harm: what anyone could take instead of the found network at the same ms, and its predicted accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from mbv3.accuracy import PAPER, Difference, Estimate, Published, difference, imagenet, zoo
from mbv3.search import Trial
from mbv3.space import Limits, SearchSpace
from mbv3.spec import ArchSpec, load_spec, scale_spec
from mbv3.stages.judge import Judge
from mbv3.stages.measure import REFERENCES
from mbv3.stages.published import published_times
from mbv3.stages.search import SpaceLatency
from mbv3.stages.solve import best_at_random
from mbv3.tables import Latency

__all__ = ["Beside", "Verdict", "baselines_at", "compared", "widest_within"]

WIDTHS = tuple(w / 20 for w in range(2, 121))
TRIED = 2  # widths that are timed, the second nearer
TIMED_S = 1.5  # of a part; there are two
OVER = 1.01  # a little over the ms counts as the same: the errors of such times are about 1 %
TIMED_ZOO, NEAR = 6, 1.15  # published networks that are timed, of those predicted within so many times the ms
TOGETHER = 3  # of them


@dataclass(frozen=True, slots=True)
class Beside:
    """A network beside the found one: its ms (measured where the device is at hand, else predicted) and its ImageNet
    accuracy, predicted for the recipe of the found one. `published`: its downloadable weights, where it has some."""

    name: str
    ms: float
    estimate: Estimate
    spec: ArchSpec
    published: Published | None = None


def baselines_at(
    ms: float, like: ArchSpec, latency: Latency, space: SearchSpace, judge: Judge, cost: SpaceLatency, scored: int,
    seed: int = 0, limits: Limits | None = None, recipe: str = PAPER,
) -> list[Beside]:  # fmt: skip
    """MobileNetV3-Large and -Small at the resolution and classes of `like`, as wide as `ms` allows, the best of
    `scored` random networks of the space within `ms`, and, for classifiers, the best published network; all within
    `limits`. `cost`: uncorrected, as `latency` has the correction. `recipe`: of the accuracies."""
    limits = limits or Limits()
    found = _families(ms, like, latency, limits, recipe)
    drawn: Trial | None = best_at_random(space, judge, cost, ms / latency.correction, scored, seed, limits.on(space))
    if drawn is not None:
        spec = space.spec(drawn.genome)
        name, took = f"best of {scored:,} random", drawn.latency_ms * latency.correction
        found.append(Beside(name, took, imagenet(spec, recipe=recipe), spec))
    known = _published(ms, latency, limits, recipe) if space.dense is None else None
    return [*found, known] if known is not None else found


def _published(ms: float, latency: Latency, limits: Limits, recipe: str) -> Beside | None:
    """The most accurate network of the zoo within `ms` and `limits`; None where there is none."""
    networks = [p for p in zoo() if limits.hold(p.spec())]
    near = published_times(latency.rough(), ms if latency.device is None else NEAR * ms, networks)
    for first in range(0, TIMED_ZOO, TOGETHER):
        some = near[first : first + TOGETHER]
        specs = [f.network.spec() for f in some]
        took = [f.ms for f in some] if latency.device is None else _timed(specs, latency)
        for found, spec, t in zip(some, specs, took, strict=True):
            if t <= (ms if latency.device is None else OVER * ms):
                return Beside(found.network.name, t, imagenet(spec, recipe=recipe), spec, found.network)
    return None


def _timed(specs: Sequence[ArchSpec], latency: Latency) -> Sequence[float]:
    """ms of each network, measured together."""
    assert latency.device is not None
    return latency.device.networks(specs, parts=2, max_s=TIMED_S).ms if specs else ()


def _families(ms: float, like: ArchSpec, latency: Latency, limits: Limits, recipe: str) -> list[Beside]:
    """The widest of each family within `ms` and `limits`, where its narrowest is no slower."""

    def at(name: str, width: float) -> ArchSpec:
        base = load_spec(name)
        base = replace(base, head=replace(base.head, classes=like.head.classes))
        return replace(scale_spec(base, width, like.resolution), name=f"{name}@{width:g}")

    rough, aims = latency.rough(), dict.fromkeys(REFERENCES, ms)
    timed: dict[str, dict[ArchSpec, float]] = {name: {} for name in REFERENCES}
    for _ in range(TRIED):
        found = {n: widest_within(partial(at, n), aim, rough, limits) for n, aim in aims.items()}
        new = {n: f for n, f in found.items() if f is not None and f[0] not in timed[n]}
        specs = [latency.dress(spec) for spec, _ in new.values()]
        took = [t for _, t in new.values()] if latency.device is None else _timed(specs, latency)
        for (name, (spec, predicted)), t in zip(new.items(), took, strict=True):
            timed[name][spec] = t
            aims[name] = ms * predicted / t
        if latency.device is None:
            break
    best = []
    for known in timed.values():
        within = [s for s, t in known.items() if t <= OVER * ms]
        # widths grow with the time
        pick = max(within, key=known.__getitem__) if within else min(known, key=known.__getitem__, default=None)
        if pick is not None:
            best.append(Beside(pick.name, known[pick], imagenet(pick, recipe=recipe), pick))
    return best


def widest_within(
    at: Callable[[float], ArchSpec], ms: float, latency: Latency, limits: Limits | None = None
) -> tuple[ArchSpec, float] | None:
    """Of the networks `at(width)`, the widest within `ms` and `limits`, and its predicted ms; None where the narrowest
    is slower."""
    limits = limits or Limits()

    def predicted(width: float) -> float:
        return latency([latency.dress(at(width))])[0]

    low, high = 0, len(WIDTHS)  # the first `low` widths are within
    while low < high:
        middle = (low + high) // 2
        width = WIDTHS[middle]
        fits = limits.hold(latency.dress(at(width))) and predicted(width) <= ms
        low, high = (middle + 1, high) if fits else (low, middle)
    return (at(WIDTHS[low - 1]), predicted(WIDTHS[low - 1])) if low else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the found network is better than `best`, the best of the networks beside it by prediction: `by` is its
    predicted accuracy less that one's. `text` says what the user must know, nothing where it is better beyond the
    error; `handed`: the networks that are handed over with it."""

    best: Beside | None = None
    by: Difference | None = None
    text: str = ""
    handed: tuple[Beside, ...] = ()


def compared(spec: ArchSpec, found: Estimate, beside: Sequence[Beside]) -> Verdict:
    """The found network, a classifier with its Estimate, against those beside it."""
    best = max(beside, key=lambda b: b.estimate.value, default=None)
    if best is None:
        return Verdict()
    by = difference(spec, best.spec, recipe=found.recipe)
    texts, handed = [], []
    if not by.above:
        texts.append(
            f"{best.name}, {best.ms:.3g} ms, is predicted {best.estimate.value:.1f} % and the found network "
            f"{found.value:.1f} %: the difference of {by.value:.1f} points is not above its error of {by.error:.1f}"
        )
        handed.append(best)
    public = next((b for b in beside if b.published is not None), None)
    if public is not None and public.published is not None and public.published.top1 > found.value:
        texts.append(
            f"{public.name}, {public.ms:.3g} ms, can be downloaded with {public.published.top1:.1f} % (recipe "
            f"{public.published.recipe}); the recipe of the prediction would bring it to {public.estimate.value:.1f} %"
        )
        handed.append(public)
    return Verdict(best, by, "; ".join(texts), tuple(dict.fromkeys(handed)))
