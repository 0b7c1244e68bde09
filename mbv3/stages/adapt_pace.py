"""How many steps of fine-tuning a proposal gets and how far a step cuts, so that NetAdapt keeps to its time."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache

import numpy as np

from mbv3.netadapt import Start
from mbv3.spec import Site, among, sites
from mbv3.stages.adapt_tune import FineTune
from mbv3.stages.budget import Budget
from mbv3.stages.images import Images
from mbv3.stages.keep import Keep

__all__ = ["Pace", "Plan", "keep_pace", "planned"]

DELTA, MOST_DELTA = 0.01, 0.04  # of the seed's ms a step at least: as a rule, and where time is short
LEAST_T = 4  # steps of fine-tuning under which fewer, larger cuts are the better use of the time
MOST_T, UNTIMED_T = 60, 3  # steps of fine-tuning at most, and where nothing is timed


@dataclass(frozen=True)
class Pace:
    """T, the fine-tuning steps of a proposal, and the least cut of a step as a share of the seed's ms."""

    steps: int
    delta: float


@dataclass(frozen=True)
class Plan:
    """What is decided once: the first pace, and the seconds that NetAdapt was given and is expected to take (None
    where nothing is timed)."""

    pace: Pace
    fixed_delta: bool
    given_s: float | None
    forecast_s: float | None


def planned(
    start: Start,
    target_ms: float,
    images: Images,
    steps: int | None,
    delta: float | None,
    budget: Budget,
    seed: int,
    keep: Keep,
    some: Collection[Site] | None = None,
    one: bool = False,
) -> Plan:
    """The plan, so that all of NetAdapt fits the time given; decided once. `some`: the sites that may be cut, by
    default all. `one`: a proposal of a step has the fine-tuning of all."""

    def decide() -> dict[str, float | int]:
        least = DELTA if delta is None else delta
        if steps is not None or not budget.timed:
            return {"delta": least, "finetune_steps": UNTIMED_T if steps is None else steps}
        fixed, per_step = _proposal_seconds(start, images, seed)
        places = sum(among(s, some) for s in sites(start.spec))
        gap = max(start.scored.latency_ms - target_ms, 0) / start.scored.latency_ms
        given = budget.seconds("netadapt")

        tuned = 1 if one else places  # of a step

        def cuts(least: float) -> float:
            return max(1.0, 0.8 * gap / least)

        if delta is None:
            needed = cuts(DELTA) * (tuned * fixed + places * LEAST_T * per_step)
            least = float(np.clip(DELTA * needed / given, DELTA, MOST_DELTA))
        n = cuts(least)
        t = int(np.clip((given / n - tuned * fixed) / (places * per_step), 1, MOST_T))
        return {
            "delta": least, "finetune_steps": t,
            "forecast_s": round(n * (tuned * fixed + places * t * per_step), 1),
            "given_s": round(given, 1),
        }  # fmt: skip

    once = cache(decide)
    least = float(keep.value("delta", lambda: once()["delta"]))
    pace = Pace(int(keep.value("finetune_steps", lambda: once()["finetune_steps"])), least)
    if steps is not None or not budget.timed:
        return Plan(pace, delta is not None, None, None)
    given = keep.value("netadapt_given_s", lambda: once()["given_s"])
    forecast = keep.value("netadapt_forecast_s", lambda: once()["forecast_s"])
    return Plan(pace, delta is not None, given, forecast)


def _proposal_seconds(start: Start, images: Images, seed: int) -> tuple[float, float]:
    """Seconds of a proposal beside its fine-tuning, and of one step of that, on this machine."""

    def seconds(steps: int) -> float:
        began = time.monotonic()
        FineTune(images, steps, seed)(start.spec, start.state, 0, steps)
        return time.monotonic() - began

    seconds(1)  # the first call chooses kernels
    one, five = seconds(1), seconds(5)
    per_step = max((five - one) / 4, 1e-4)
    return max(one - per_step, 1e-4), per_step


def keep_pace(plan: Plan, now: Pace, pace: float) -> Pace:
    """The pace from here on. `now`: that until here, at which `pace` times the rest fits the time that is left, for
    the forecast knows neither the timing of layers that are not in the table nor what other programs take. Fewer
    steps of fine-tuning come first, then larger cuts; neither goes beyond the plan's own."""
    first, least = plan.pace.steps, plan.pace.delta
    effort = max(min(pace * now.steps / now.delta, first / least), 1e-9)  # the time goes with T over the cut
    delta = least if plan.fixed_delta else float(np.clip(min(LEAST_T, first) / effort, least, MOST_DELTA))
    return Pace(max(1, round(effort * delta)), delta)
