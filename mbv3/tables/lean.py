"""A part of a table, where all of its rows would take too long: rows spread over the space, and few whole networks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from mbv3.latency import BuildPlan, LatencyTable, least_s
from mbv3.spec import ArchSpec, LayerKey, count, lower, lower_key

__all__ = ["is_part", "lean_plan", "minutes_of", "part_note", "serves"]

PART, NEAR = "rows of all", "near_ms"  # in `about` of a table that holds a part: how many rows all are, and its target
OTHER_TARGET = 1.5  # times: a part of a table serves targets so near to its own
LEEWAY = 1.5  # times the minutes: a plan that takes no longer stays whole
PASSES = 2  # over a part: more networks teach the calibration more than a third pass does
SESSION_S = 0.1  # for opening the session of a layer in the three passes of a whole table
SESSIONS = 0.4  # of the minutes of a part, in opening sessions at most
LEAST_MS = 0.02  # of a layer: small ones are not as fast as their multiply-adds say
FILLED = 0.3  # of the minutes of a part, in runs of its items as its multiply-adds say; most layers take longer, and
# sessions and the reference take as long again
PART_LIMIT = 0.5  # of the minutes, after which a part is done with its passes
NETWORKS, FEWEST_NETWORKS = 24, 16  # of 24 a part was off by 1.8 % (leave one out), of 12 by 4.1
NETWORKS_SHARE = 0.4  # of the time
LEAST_ROWS = 150  # a cost model of fewer says little
BEYOND = 1.6  # times the target: slower networks say little about those near it


def is_part(of: BuildPlan | LatencyTable) -> bool:
    """Whether a plan or a table holds a part of the rows of its space."""
    return PART in (of.about or {})


def serves(table: LatencyTable, plan: BuildPlan) -> bool:
    """Whether a table of the space of `plan` has what it asks for: a whole one does, a part near its own target."""
    if not is_part(table):
        return True
    if not is_part(plan):
        return False
    here, there = float(dict(plan.about)[NEAR]), float(dict(table.about or {})[NEAR])
    return 1 / OTHER_TARGET <= here / there <= OTHER_TARGET


def minutes_of(plan: BuildPlan, minutes: float) -> float:
    """After how many of the `minutes` that `plan` was made for its timing ends."""
    return PART_LIMIT * minutes if is_part(plan) else minutes


def part_note(table: LatencyTable) -> str:
    """What to say of a table that holds a part; empty of a whole one."""
    if not is_part(table):
        return ""
    return (
        f"a part of the space's {dict(table.about or {})[PART]} layers is measured, the others are estimated; the "
        "layers of the networks that the ImageNet model predicts to be best near the target are measured too"
    )


def lean_plan(plan: BuildPlan, ms_per_madd: float, target_ms: float, minutes: float) -> BuildPlan:
    """`plan` if it can be measured in about `minutes`; else as many of its rows, spread over all of them, and up to
    NETWORKS of its calibration networks near `target_ms`, as can.

    `ms_per_madd`: what a network near the target takes here, by which the time is estimated. It is rounded to a
    half-step of two, so that the plan is the same when it is timed again, and an interrupted table goes on.
    """
    ms_per_madd = 2 ** (round(2 * math.log2(ms_per_madd)) / 2)
    layer_s = {k: least_s(max(lower_key(k).madds * ms_per_madd, LEAST_MS)) for k in plan.keys}
    network_ms = [count(spec).madds * ms_per_madd for _, spec in plan.calibration]
    whole_s = sum(layer_s.values()) + sum(map(least_s, network_ms)) + SESSION_S * len(layer_s)
    if whole_s <= LEEWAY * 60 * minutes:
        return plan
    layer_s = {k: PASSES / plan.passes * s for k, s in layer_s.items()}
    most = max(LEAST_ROWS, int(SESSIONS * 60 * minutes / (PASSES / plan.passes * SESSION_S)))
    minutes *= FILLED
    chosen = _networks(network_ms, target_ms, NETWORKS_SHARE * 60 * minutes)
    calibration = tuple(plan.calibration[i] for i in chosen)
    rows = dict.fromkeys(_layers(spec for _, spec in calibration))
    left = 60 * minutes - sum(least_s(network_ms[i], PASSES) for i in chosen) - sum(layer_s[k] for k in rows)
    for i in np.random.default_rng(0).permutation(len(plan.keys)):
        key = plan.keys[i]
        if key in rows:
            continue
        left -= layer_s[key]
        if len(rows) >= (LEAST_ROWS if left < 0 else most):
            break
        rows[key] = None
    if len(rows) >= len(plan.keys):
        return replace(plan, calibration=calibration)
    about = {**plan.about, PART: len(plan.keys), NEAR: target_ms}
    return replace(plan, keys=tuple(rows), calibration=calibration, about=about, passes=PASSES)


def _networks(ms: Sequence[float], target_ms: float, seconds: float) -> list[int]:
    """Indices of networks up to BEYOND times the target, evenly over their times, as many as fit into `seconds`."""
    order = sorted(range(len(ms)), key=ms.__getitem__)
    near = [i for i in order if ms[i] <= BEYOND * target_ms]
    for n in range(min(NETWORKS, len(near)), FEWEST_NETWORKS - 1, -1):
        chosen = [near[i] for i in np.linspace(0, len(near) - 1, n).round().astype(int)]
        if sum(least_s(ms[i], PASSES) for i in chosen) <= seconds:
            return sorted(chosen)
    return sorted(order[:FEWEST_NETWORKS])


def _layers(specs: Iterable[ArchSpec]) -> list[LayerKey]:
    return [layer.key for spec in specs for layer in lower(spec)]
