"""The most accurate network of a space as it is, within a target by its measured time."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from mbv3.events import Event, Note, StageStart
from mbv3.space import Genome, SearchSpace, SpaceLimits
from mbv3.spec import ArchSpec
from mbv3.stages.judge import Judge
from mbv3.stages.keep import Keep, Memory
from mbv3.stages.search import SpaceLatency
from mbv3.stages.solve import Solution, solve
from mbv3.tables import AIM, Latency, Whole

__all__ = ["Within", "best_within"]

STAGE = "search"
SLACK = 0.015  # of the target: where more is left, a slower network is looked for
TRIES = 4  # networks that are timed


@dataclass(frozen=True, slots=True)
class Within:
    """`solution.best` as `spec`; its predicted ms, and the verdict of its measurement, None without a device."""

    spec: ArchSpec
    solution: Solution
    predicted_ms: float
    verdict: Whole | None

    @property
    def ms(self) -> float:
        return self.predicted_ms if self.verdict is None else self.verdict.ms


def best_within(
    space: SearchSpace,
    judge: Judge,
    cost: SpaceLatency,
    latency: Latency,
    target_ms: float,
    *,
    name: str = "found",
    limits: SpaceLimits | None = None,
    seed: int = 0,
    estimated: bool = False,
    keep: Keep | None = None,
) -> Generator[Event, None, Within]:
    """The most accurate network of `space` within `target_ms` and `limits`, none of whose channels is cut: its weights
    are those of a supernet. Where a device is at hand it is timed whole; while two standard errors above that time are
    over the target, or more than SLACK below it, another one is solved for and timed.

    Raises:
        BadInput: the judge has no closed form.
        Unreachable: no network is within the target.
    """
    keep = keep or Memory()
    aim = 1.0 if latency.device is None else AIM
    best: Within | None = None
    known: tuple[Genome, ...] = ()
    for _ in range(TRIES):
        found = yield from solve(
            space, judge, cost, target_ms, ratio=1.0, aim=aim, seed=seed, estimated=estimated, limits=limits,
            first=known, keep=keep,
        )  # fmt: skip
        spec = space.spec(found.best.genome, name)
        known = (found.best.genome, *known)
        if latency.device is None:
            return Within(spec, found, found.best.latency_ms, None)
        yield StageStart(STAGE, f"the network that is predicted to take {found.best.latency_ms:.3f} ms, whole")
        verdict = latency.verdict(spec, target_ms)
        assert verdict is not None
        one = Within(spec, found, found.best.latency_ms, verdict)
        yield Note(STAGE, f"measured whole it takes {verdict.ms:.3f} +- {verdict.error_ms:.3f} ms")
        within = verdict.most_ms <= target_ms
        if within and (best is None or found.best.accuracy > best.solution.best.accuracy):
            best = one
        if within and (verdict.most_ms >= (1 - SLACK) * target_ms or known.count(known[0]) > 1):
            break  # near enough, or the same network again: there is no other between the two limits
        aim = found.best.latency_ms / verdict.most_ms * (1.0 if within else 0.995)
        if known.count(known[0]) > 1:
            aim = min(aim, 0.99 * found.best.latency_ms / target_ms)
    if best is None:
        best = one
    assert best.verdict is not None
    latency.correction = best.verdict.ms / best.predicted_ms
    return best
