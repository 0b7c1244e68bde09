"""The scale of a run without images: the width and the resolution at which the best network is the most accurate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mbv3.accuracy import PAPER, Estimate, imagenet, imagenet_space
from mbv3.search import Limit, solve
from mbv3.space import Limits, SearchSpace, SpaceLimits, scale, tabulate
from mbv3.spec import lower, lower_key, pixels
from mbv3.stages.reach import search_limits
from mbv3.stages.scale import LatencyMs, Scale, check_range, typical
from mbv3.stages.search import space_latency
from mbv3.tables import Latency

__all__ = ["choose_scale_by_accuracy"]

WIDTHS = (0.2, 0.25, 0.35, 0.5, 0.6, 0.75, 0.85, 1.0, 1.1, 1.25, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 4.0)
SIDES = (32, 48, 64, 80, 96, 112, 128, 144, 160, 192, 224, 256, 288, 320, 352, 384, 448, 512, 640, 800)
BUSY = (0.6, 1.6)  # a typical network's ms over the target: outside, the target is at the end of the space
ROUGH, WHOLE = (200, 8, 1), (600, 16, 2)  # population, generations, starts of a solution
FINALISTS = 3
FEW = 12  # scales near the target of which none is skipped
TIMED = 8  # scales at which a network is timed

Many = Callable[[NDArray[np.int64]], NDArray[np.float64]]  # genomes (n, genes) to ms (n,)


@dataclass(frozen=True, slots=True)
class _Solved:
    """A scale with its best network under the target: the lower bound of its accuracy decides, which keeps to the
    evidence of the ImageNet model unless the target asks for more."""

    space: SearchSpace
    estimate: Estimate

    @property
    def least(self) -> float:
        return self.estimate.value - self.estimate.error


def choose_scale_by_accuracy(
    latency_ms: LatencyMs,
    space: SearchSpace,
    target_ms: float,
    *,
    resolution: tuple[int, int] | None = None,
    exact: Latency | None = None,
    limits: Limits | None = None,
    judged: Callable[[SearchSpace], SearchSpace] = lambda s: s,
    recipe: str = PAPER,
) -> Scale:
    """The scale at which the most accurate network of the space within `target_ms` is predicted to be best.

    `latency_ms`: the device's times of networks, from a few runs: typical networks at up to TIMED scales give ms per
    multiply-add as a smooth function of the scale, which stands in for the table. `exact`: a device of which every
    layer's time is known; its times are used. `resolution` keeps that one. The network is within `limits` too.
    `judged`: a scaled space as the ImageNet model is asked about it, with the same genomes; `recipe`: the training that
    it is asked about. Of a space that has scales of its own one of these is chosen, and a target above its slowest
    network is met by it.

    Raises:
        Unreachable: the target lies outside what the networks of the space take.
    """
    limits = limits or Limits()
    sides = [resolution] if resolution is not None else [(r, r) for r in space.sides or SIDES]
    grid = {(i, j): scale(space, w, r) for i, w in enumerate(space.widths or WIDTHS) for j, r in enumerate(sides)}
    middle = typical(scale(space, 1.0, resolution))
    rate = None if exact is not None else _rate(latency_ms, list(grid.values()), target_ms, middle)

    def middle_ms(s: SearchSpace) -> float:
        if rate is not None:
            return _madds(s, middle) * rate(s)
        assert exact is not None
        return exact([s.deployed(middle)])[0]

    def cost(s: SearchSpace) -> Many:
        if rate is None:
            assert exact is not None
            return space_latency(s, exact).many
        madds, per = tabulate(s, lambda k: lower_key(k).madds), rate(s)
        return lambda genomes: madds(genomes) * per

    def fill(s: SearchSpace) -> float:
        """A typical network's share of the limit that it fills most."""
        has = limits.of(s.deployed(middle))
        return max([middle_ms(s) / target_ms, *(has[name] / most for name, most in limits)])

    near = {at for at, s in grid.items() if BUSY[0] <= fill(s) <= BUSY[1]}
    found: dict[tuple[int, int], _Solved] = {}

    def look(places: Iterable[tuple[int, int]], effort: tuple[int, int, int]) -> None:
        for at in places:
            solved = _solved(grid[at], judged(grid[at]), cost(grid[at]), target_ms, effort, limits.on(grid[at]), recipe)
            if solved is not None and (at not in found or solved.least > found[at].least):
                found[at] = solved

    def ranked(n: int) -> list[tuple[int, int]]:
        return sorted(found, key=lambda at: (-found[at].least, at))[:n]

    look(sorted(at for at in near if (at[0] % 2 == 0 and at[1] % 2 == 0) or len(near) < FEW), ROUGH)
    around = {(i + di, j + dj) for i, j in ranked(2) for di in (-1, 0, 1) for dj in (-1, 0, 1)}
    look(sorted(around & near - found.keys()), ROUGH)
    look(ranked(FINALISTS), WHOLE)
    chosen = found[ranked(1)[0]] if found else None
    if chosen is None and limits:  # the smallest is within, or none is
        scaled = min(grid.values(), key=fill)
    else:
        scaled = chosen.space if chosen is not None else _end(list(grid.values()), target_ms, middle, latency_ms)
    lower_key.cache_clear()  # fifty thousand layers of scales that were not chosen, which every collection would walk
    madds = tabulate(scaled, lambda k: lower_key(k).madds)
    smallest, largest = latency_ms([scaled.deployed(madds.extreme(big)[1]) for big in (False, True)])
    check_range(min(target_ms, largest) if limits or space.sides else target_ms, smallest, largest, scaled, False)
    at = f"width {scaled.width:g} at {pixels(scaled.resolution)} px"
    if chosen is None:
        return Scale(scaled, f"{at}, the end of what can be scaled to for {target_ms:g} ms")
    return Scale(scaled, f"{at} promises most within {target_ms:g} ms, {chosen.estimate}, of {len(found)} scales")


def _madds(s: SearchSpace, genome: tuple[int, ...]) -> float:
    return float(sum(layer.madds for layer in lower(s.deployed(genome))))


def _solved(
    s: SearchSpace, judged: SearchSpace, many: Many, target_ms: float, effort: tuple[int, int, int],
    limits: SpaceLimits, recipe: str,
) -> _Solved | None:  # fmt: skip
    """The best network of a scale within the target and the limits; None where there is none."""
    population, generations, starts = effort
    found = solve(
        s.sizes, imagenet_space(judged, recipe=recipe), [Limit(many, target_ms), *search_limits(limits)],
        population=population, generations=generations, starts=starts,
    )  # fmt: skip
    return _Solved(s, imagenet(judged.spec(found.genome), recipe=recipe)) if found.feasible else None


def _rate(
    latency_ms: LatencyMs, grid: Sequence[SearchSpace], target_ms: float, middle: tuple[int, ...]
) -> Callable[[SearchSpace], float]:
    """ms per multiply-add as a smooth function of the scale: in logarithms, linear in width and resolution, fitted to
    typical networks near the target."""
    base = scale(grid[0], 1.0 / grid[0].width)
    costs = np.array([_madds(s, middle) for s in grid])
    [first] = latency_ms([base.deployed(middle)])
    per = first / _madds(base, middle)
    order = np.argsort(np.abs(np.log(costs * per / target_ms)), kind="stable")
    near = [int(i) for i in order if 0.5 <= costs[i] * per / target_ms <= 2.0] or [int(order[0])]
    # evenly from the widest at few pixels to the narrowest at many
    by_width = sorted(near, key=lambda i: (grid[i].width, -grid[i].resolution[0]))
    picked = [by_width[int(k)] for k in np.unique(np.linspace(0, len(by_width) - 1, TIMED).round())]
    ms = np.array(latency_ms([grid[i].deployed(middle) for i in picked]))

    def terms(s: SearchSpace) -> list[float]:
        return [1.0, float(np.log(s.width)), float(np.log(s.resolution[0] * s.resolution[1]))]

    x = np.array([terms(grid[i]) for i in picked])
    y = np.log(ms / costs[picked])
    # a weak ridge: at one resolution, or of two scales, not every term is known
    centre = x - x.mean(0)
    w = np.linalg.solve(centre.T @ centre + 1e-3 * np.eye(3), centre.T @ (y - y.mean()))
    return lambda s: float(np.exp(y.mean() + (np.array(terms(s)) - x.mean(0)) @ w))


def _end(grid: Sequence[SearchSpace], target_ms: float, middle: tuple[int, ...], latency_ms: LatencyMs) -> SearchSpace:
    """Where no scale has a network near the target: the smallest scale or the largest."""
    ends = [min(grid, key=lambda s: _madds(s, middle)), max(grid, key=lambda s: _madds(s, middle))]
    ms = latency_ms([s.deployed(middle) for s in ends])
    return ends[int(np.argmin(np.abs(np.log(np.array(ms) / target_ms))))]
