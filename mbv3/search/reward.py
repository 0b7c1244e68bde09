"""Multi-objective rewards; higher is better."""

from __future__ import annotations

import math
from collections.abc import Callable

from mbv3.errors import BadInput

__all__ = ["REWARDS", "Reward", "make_reward"]

Reward = Callable[[float, float], float]  # (ACC as a share of 1, LAT in ms) -> reward
REWARDS = ("mnasnet-soft", "mnasnet-hard", "tunas")


def make_reward(kind: str, target_ms: float, w: float) -> Reward:
    """The reward `kind` with target TAR = `target_ms`.

    mnasnet-soft: ACC * (LAT/TAR)^w, w -0.07 (Tan 2019, arXiv:1807.11626; -0.15 for MobileNetV3-Small).
    mnasnet-hard: ACC within the target, ACC * TAR/LAT beyond it (alpha 0, beta -1).
    tunas: ACC + w * |LAT/TAR - 1| (Bender 2020, arXiv:2008.06120).

    A reward that is not finite is returned as NaN; the search keeps such a trial as failed.

    Raises:
        BadInput: an unknown kind or a positive w.
    """
    if kind not in REWARDS:
        raise BadInput(f"--reward must be one of {', '.join(REWARDS)} (got {kind!r})")
    if not (math.isfinite(w) and w <= 0):
        raise BadInput(f"--w must be a number of at most 0, as slower networks are worse (got {w})")

    def reward(acc: float, lat: float) -> float:
        if not (math.isfinite(acc) and math.isfinite(lat) and lat > 0):
            return math.nan
        ratio = lat / target_ms
        if kind == "mnasnet-soft":
            return float(acc * ratio**w)
        if kind == "mnasnet-hard":
            return acc if ratio <= 1 else acc / ratio
        return acc + w * abs(ratio - 1)

    return reward
