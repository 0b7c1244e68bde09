"""Multi-objective rewards; higher is better."""

from __future__ import annotations

import math
from collections.abc import Callable

from mbv3.errors import BadInput

__all__ = ["LIMIT", "OWN_REWARDS", "REWARDS", "Reward", "make_reward", "register_reward"]

LIMIT = "limit"  # the reward under which nothing beyond the target is proposed
Reward = Callable[[float, float], float]  # (ACC as a share of 1, LAT in ms) -> reward


def _soft(target_ms: float, w: float) -> Reward:
    """ACC * (LAT/TAR)^w (Tan 2019, arXiv:1807.11626): w -0.07, -0.15 for MobileNetV3-Small."""
    return lambda acc, lat: float(acc * (lat / target_ms) ** w)


def _hard(target_ms: float, w: float) -> Reward:
    """ACC within the target, ACC * TAR/LAT beyond it (Tan 2019, alpha 0, beta -1)."""
    return lambda acc, lat: acc if lat <= target_ms else acc * target_ms / lat


def _absolute(target_ms: float, w: float) -> Reward:
    """ACC + w * |LAT/TAR - 1| (Bender 2020, arXiv:2008.06120)."""
    return lambda acc, lat: acc + w * abs(lat / target_ms - 1)


def _limit(target_ms: float, w: float) -> Reward:
    """ACC within the target; beyond it how far, below zero: a hard limit."""
    return lambda acc, lat: acc if lat <= target_ms else 1 - lat / target_ms


# name: (TAR in ms, w) -> reward
REWARDS: dict[str, Callable[[float, float], Reward]] = {
    LIMIT: _limit,
    "mnasnet-soft": _soft,
    "mnasnet-hard": _hard,
    "tunas": _absolute,
}
OWN_REWARDS = tuple(REWARDS)  # of every process


def register_reward(name: str, make: Callable[[float, float], Reward]) -> None:
    """Make a reward known by `name`, as `--reward` and `Options` take it. `make(target_ms, w)` returns it.

    Raises:
        BadInput: the name is taken.
    """
    if name in REWARDS:
        raise BadInput(f"a reward cannot be registered as {name!r}: there are {', '.join(REWARDS)}; take a new name")
    REWARDS[name] = make


def make_reward(kind: str, target_ms: float, w: float) -> Reward:
    """The reward `kind` of REWARDS with target TAR = `target_ms` and exponent or weight `w`.

    A reward that is not finite is returned as NaN; the search keeps such a trial as failed.

    Raises:
        BadInput: an unknown kind or a positive w.
    """
    if kind not in REWARDS:
        raise BadInput(f"--reward must be one of {', '.join(REWARDS)} (got {kind!r})")
    if not (math.isfinite(w) and w <= 0):
        raise BadInput(f"--w must be a number of at most 0, as slower networks are worse (got {w})")
    made = REWARDS[kind](target_ms, w)

    def reward(acc: float, lat: float) -> float:
        if not (math.isfinite(acc) and math.isfinite(lat) and lat > 0):
            return math.nan
        return made(acc, lat)

    return reward
