"""What the runs of several targets have in common."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from mbv3.events import Event
from mbv3.latency import LatencyTable
from mbv3.record import SearchRecord
from mbv3.runs.options import Options
from mbv3.runs.rundir import RunDir
from mbv3.space import SearchSpace, SpaceLimits
from mbv3.stages import Judge, Solution, SpaceLatency, solve, solve_targets, write_trials

__all__ = ["Shared"]


class Shared:
    """The targets of runs on one scaled space, which share one pass of the solver."""

    def __init__(self, targets_ms: Sequence[float]) -> None:
        self.targets_ms = tuple(targets_ms)
        self.table: LatencyTable | None = None  # with the rows that the runs before measured
        self._solved: dict[float, Solution] | None = None

    def solution(
        self, o: Options, run: RunDir[SearchRecord], space: SearchSpace, judge: Judge, cost: SpaceLatency,
        limits: SpaceLimits,
    ) -> Generator[Event, None, Solution]:  # fmt: skip
        """The solution of `o`'s target, with its trials in the run directory. Raises: Unreachable."""
        how = {
            "ratio": o.seed_ratio, "count": 20 if space.dense is None else 3, "seed": o.seed,
            "estimated": o.estimate_only or cost.estimated, "limits": limits,
        }  # fmt: skip
        if len(self.targets_ms) > 1:
            if self._solved is None:
                self._solved = yield from solve_targets(space, judge, cost, self.targets_ms, **how)
            found = self._solved.get(o.target_ms)
            if found is not None:
                write_trials(run, found.trials, o.estimate_only or cost.estimated)
                return found
        return (yield from solve(space, judge, cost, o.target_ms, keep=run, **how))  # type: ignore[arg-type]
