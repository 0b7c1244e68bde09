"""Do no harm: what anyone could take instead of the found network at the same ms, and its predicted accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mbv3.accuracy import Estimate, imagenet
from mbv3.search import Trial
from mbv3.space import Limits, SearchSpace
from mbv3.spec import ArchSpec, load_spec, scale_spec
from mbv3.stages.judge import Judge
from mbv3.stages.measure import REFERENCES
from mbv3.stages.search import SpaceLatency
from mbv3.stages.solve import best_at_random
from mbv3.tables import Latency

__all__ = ["Beside", "baselines_at", "not_above"]

WIDTHS = tuple(w / 20 for w in range(2, 121))
TRIED = 3  # widths that are timed, each nearer
TIMED_S = 1.5  # of a part; there are two


@dataclass(frozen=True, slots=True)
class Beside:
    """A network beside the found one: its ms (measured where the device is at hand, else predicted) and ImageNet
    accuracy."""

    name: str
    ms: float
    estimate: Estimate


def baselines_at(
    ms: float, like: ArchSpec, latency: Latency, space: SearchSpace, judge: Judge, cost: SpaceLatency, scored: int,
    seed: int = 0, limits: Limits | None = None,
) -> list[Beside]:  # fmt: skip
    """MobileNetV3-Large and -Small at the resolution and classes of `like`, as wide as `ms` allows, and the best of
    `scored` random networks of the space within `ms`; all within `limits`. `cost`: uncorrected, as `latency` has the
    correction."""
    limits = limits or Limits()
    found = [beside for name in REFERENCES if (beside := _scaled(name, ms, like, latency, limits)) is not None]
    drawn: Trial | None = best_at_random(space, judge, cost, ms / latency.correction, scored, seed, limits.on(space))
    if drawn is not None:
        estimate = imagenet(space.spec(drawn.genome))
        found.append(Beside(f"best of {scored:,} random", drawn.latency_ms * latency.correction, estimate))
    return found


def _scaled(name: str, ms: float, like: ArchSpec, latency: Latency, limits: Limits) -> Beside | None:
    """The widest of a family within `ms` and `limits`; None where its narrowest is slower."""
    base = load_spec(name)
    base = replace(base, head=replace(base.head, classes=like.head.classes))
    rough = Latency(latency.table, None, latency.dress)
    rough.correction = latency.correction

    def at(width: float) -> ArchSpec:
        return replace(scale_spec(base, width, like.resolution), name=f"{name}@{width:g}")

    def predicted(width: float) -> float:
        return rough([latency.dress(at(width))])[0]

    def fits(width: float, most_ms: float) -> bool:
        return limits.hold(latency.dress(at(width))) and predicted(width) <= most_ms

    def widest(most_ms: float) -> float | None:
        low, high = 0, len(WIDTHS)  # the first `low` widths are within
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if fits(WIDTHS[middle], most_ms) else (low, middle)
        return WIDTHS[low - 1] if low else None

    width = widest(ms)
    if width is None:
        return None
    if latency.device is None:
        return Beside(at(width).name, predicted(width), imagenet(at(width)))
    timed: dict[float, float] = {}
    for _ in range(TRIED):
        if width is None or width in timed:
            break
        timed[width] = latency.device.networks([latency.dress(at(width))], parts=2, max_s=TIMED_S).ms[0]
        width = widest(ms * predicted(width) / timed[width])
    # a little over counts as the same: the errors of such times are about 1 %
    within = [w for w, t in timed.items() if t <= 1.01 * ms]
    best = max(within) if within else min(timed)
    return Beside(at(best).name, timed[best], imagenet(at(best)))


def not_above(found: Estimate, beside: Sequence[Beside]) -> str:
    """What to say where the found network is not above the best of the others beyond its error; else nothing."""
    best = max(beside, key=lambda b: b.estimate.value, default=None)
    if best is None or found.value - best.estimate.value > found.error:
        return ""
    return (
        f"{best.name}, {best.ms:.3g} ms, is predicted {best.estimate.value:.1f} % and the found network "
        f"{found.value:.1f} %: it is not above it beyond the error of {found.error:.1f} points"
    )
