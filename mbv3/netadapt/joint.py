"""Joint cuts: which channels of all sites stay, as a knapsack over the network's measured cliffs (HALP, Shen 2022,
arXiv:2110.10811)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from mbv3.spec import LEAST_CHANNELS, ArchSpec, Site, all_sites, channels, cut_many

__all__ = ["Choice", "Menu", "menus", "refined", "solve"]

Latency = Callable[[Sequence[ArchSpec]], Sequence[float]]  # networks to predicted ms
GRAIN, MOST = 8, 32  # channels between two counts, doubled while a site has more counts
REACH, AGAIN = 2, 4  # counts to either side that are measured, and times that these are moved
SWEEPS = 6  # over all sites at one price
PRICES = 8  # bisections of the price of a millisecond
# at most; counts above and below a site's that are exchanged; share of its time that the others may lack by the sum of
# single times
EXCHANGES, UP, DOWN, NEARLY = 24, 3, 3, 0.1
ASKED, FEW = 100, 12  # exchanges whose time is asked for, and those of one site's
MEASURED, MEASURED_FEW = 24, 3  # the same where a time costs a measurement


@dataclass(frozen=True, slots=True)
class Menu:
    """The channel counts that a site may keep, rising to all it has, and what those are worth; higher is better."""

    site: Site
    counts: tuple[int, ...]
    worth: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """A network within the limit: channels by site, its predicted ms, and the worth of what it keeps."""

    spec: ArchSpec
    counts: Mapping[Site, int]
    latency_ms: float
    worth: float


def menus(
    spec: ArchSpec,
    scores: Mapping[Site, NDArray[np.float64]],
    *,
    least: float = 0.25,
    grain: int = GRAIN,
    allowed: Callable[[Site], Sequence[int]] | None = None,
) -> list[Menu]:
    """One menu a site of `scores` (of its channels, the first kept first): multiples of `grain`, in wide sites of its
    doubles, from `least` of the channels on, or those that are `allowed`.

    A count stands for its best channels (HALP's prefix rule: a channel stays only where all better ones do). It is
    worth what their scores sum to, less those of all."""
    found = []
    for site in all_sites(spec):
        if site not in scores:
            continue
        now = channels(spec, site)
        low = max(LEAST_CHANNELS, int(least * now))
        step = grain
        while now > MOST * step:  # what is left of the limit is spent at the smaller sites
            step *= 2
        counts = allowed(site) if allowed else range(-(-low // step) * step, now, step)
        kept = (*sorted({n for n in counts if LEAST_CHANNELS <= n < now}), now)
        total = np.concatenate(([0.0], np.cumsum(scores[site])))
        total = total - total[-1]
        found.append(Menu(site, kept, tuple(float(total[n]) for n in kept)))
    return found


def refined(spec: ArchSpec, menus: Sequence[Menu], rough: Latency, exact: Latency, limit_ms: float) -> Choice:
    """`solve` where times cost a measurement: by estimates first, then by measured times among the counts nearby."""
    choice = solve(spec, menus, rough, limit_ms)
    for _ in range(AGAIN):
        before = choice
        around = [_near(m, choice.counts[m.site]) for m in menus]
        choice = solve(spec, around, exact, limit_ms, measured=True)
        if choice.latency_ms <= limit_ms and choice.counts == before.counts:
            break
    return choice


def _near(menu: Menu, count: int) -> Menu:
    at = menu.counts.index(count)
    part = slice(max(0, at - REACH), at + REACH + 1)
    return Menu(menu.site, menu.counts[part], menu.worth[part])


class _Times:
    """Predicted ms by the index into every menu, each network asked for once."""

    def __init__(self, spec: ArchSpec, menus: Sequence[Menu], latency: Latency) -> None:
        self.spec, self.menus, self.latency = spec, menus, latency
        self.known: dict[tuple[int, ...], float] = {}

    def network(self, at: Sequence[int]) -> ArchSpec | None:
        return cut_many(self.spec, {m.site: m.counts[i] for m, i in zip(self.menus, at, strict=True)})

    def __call__(self, points: Sequence[tuple[int, ...]]) -> list[float]:
        """ms of each; infinite where the rows cannot say the network."""
        new = [p for p in dict.fromkeys(points) if p not in self.known]
        specs = {p: self.network(p) for p in new}
        asked = [p for p in new if specs[p] is not None]
        if asked:
            found = self.latency([s for p in asked if (s := specs[p]) is not None])
            self.known |= {p: float(ms) for p, ms in zip(asked, found, strict=True)}
        self.known |= {p: float("inf") for p in new if specs[p] is None}
        return [self.known[p] for p in points]

    def line(self, at: tuple[int, ...], site: int) -> list[tuple[int, ...]]:
        return [_moved(at, site, i) for i in range(len(self.menus[site].counts))]

    def along(self, at: tuple[int, ...], site: int) -> NDArray[np.float64]:
        """ms over the menu of one site, the others as they are, made monotone: times are noisy, and more channels never
        cost less."""
        ms = np.array(self(self.line(at, site)))
        fine = np.isfinite(ms)
        ms[fine] = isotonic_regression(ms[fine]).x
        return ms


def _moved(at: tuple[int, ...], site: int, to: int) -> tuple[int, ...]:
    return (*at[:site], to, *at[site + 1 :])


def solve(spec: ArchSpec, menus: Sequence[Menu], latency: Latency, limit_ms: float, measured: bool = False) -> Choice:
    """The network of most worth within `limit_ms`; that of fewest channels where none is.

    A site's time depends on its neighbours' channels, so the knapsack's price of a millisecond is bisected, and at each
    price the sites choose in turn, by the times beside their neighbours as these are now, until none changes. Then what
    is left of the limit is spent, most worth per ms first. `measured`: times cost a measurement, and fewer are asked
    for.
    """
    times = _Times(spec, menus, latency)
    worth = [np.array(m.worth) for m in menus]
    full = tuple(len(m.counts) - 1 for m in menus)

    def total(at: tuple[int, ...]) -> float:
        return float(sum(w[i] for w, i in zip(worth, at, strict=True)))

    def settled(at: tuple[int, ...], price: float) -> tuple[int, ...]:
        for _ in range(SWEEPS):
            before = at
            times([p for site in range(len(menus)) for p in times.line(at, site)])  # many at once: measured interleaved
            for site in range(len(menus)):
                gain = worth[site] - price * times.along(at, site)
                at = _moved(at, site, int(np.argmax(gain)))
            if at == before:
                break
        return at

    now = times([full])[0]
    if now <= limit_ms:
        return _choice(times, full, total)
    most = max(float(sum(w[-1] - w[0] for w in worth)), 1e-12) / now  # worth per ms of all that may go
    low, high = 0.0, most
    at = full
    while True:  # a price at which it fits
        at = settled(at, high)
        if times([at])[0] <= limit_ms or high > 1e6 * most:
            break
        low, high = high, 4 * high
    best = at
    for _ in range(PRICES):
        price = (low * high) ** 0.5 if low > 0 else high / 4
        at = settled(best, price)
        if times([at])[0] <= limit_ms:
            best, high = at, price
        else:
            low = price
    best = _filled(times, worth, best, limit_ms)
    for _ in range(EXCHANGES):
        better = _exchanged(times, worth, best, limit_ms, measured)
        if better == best:
            break
        best = _filled(times, worth, better, limit_ms)
    return _choice(times, best, total)


def _exchanged(
    times: _Times, worth: Sequence[NDArray[np.float64]], at: tuple[int, ...], limit_ms: float,
    measured: bool,
) -> tuple[int, ...]:  # fmt: skip
    """More channels of one site for those of one or two others, where that is worth more and fits: prices reach only
    what lies on the hull of worth over time, and a large step that does not fit leaves time unused. The times of single
    moves add up nearly, so only the most promising exchanges are asked for whole."""
    asked, few = (MEASURED, MEASURED_FEW) if measured else (ASKED, FEW)
    now = times([at])[0]
    moves = [
        (site, i, float(worth[site][i] - worth[site][at[site]]))
        for site, m in enumerate(times.menus)
        for i in range(max(0, at[site] - DOWN), min(len(m.counts), at[site] + UP + 1))
        if i != at[site]
    ]
    cost = np.array(times([_moved(at, site, i) for site, i, _ in moves])) - now
    gain = np.array([worth_more for _, _, worth_more in moves])
    sites = np.array([site for site, _, _ in moves])
    up = [n for n, (site, i, _) in enumerate(moves) if i > at[site] and np.isfinite(cost[n])]
    down = np.array([n for n, (site, i, _) in enumerate(moves) if i < at[site] and np.isfinite(cost[n])], dtype=int)
    # every one and every two of them, of different sites
    one, two = np.triu_indices(len(down))
    one, two = down[one], down[two]
    some = (sites[one] != sites[two]) | (one == two)
    one, two = one[some], two[some]
    paid = np.where(one == two, gain[one], gain[one] + gain[two])
    saved = np.where(one == two, cost[one], cost[one] + cost[two])
    found: list[tuple[float, tuple[int, ...]]] = []
    for u in up:
        fits = now + cost[u] + saved <= limit_ms + NEARLY * cost[u]
        better = np.flatnonzero(fits & (gain[u] + paid > 0) & (sites[one] != sites[u]) & (sites[two] != sites[u]))
        for k in better[np.argsort(-paid[better])[:few]]:
            point = at
            for n in {u, int(one[k]), int(two[k])}:
                point = _moved(point, *moves[n][:2])
            found.append((float(gain[u] + paid[k]), point))
    points = [point for _, point in sorted(found, reverse=True)[:asked]]
    return next((p for p, ms in zip(points, times(points), strict=True) if ms <= limit_ms), at)


def _filled(
    times: _Times, worth: Sequence[NDArray[np.float64]], at: tuple[int, ...], limit_ms: float
) -> tuple[int, ...]:
    """Channels back where they fit, most worth per ms first."""
    while True:
        wider = [
            (site, _moved(at, site, i))
            for site, m in enumerate(times.menus)
            for i in range(at[site] + 1, len(m.counts))
        ]
        if not wider:
            return at
        now = times([at])[0]
        ms = times([p for _, p in wider])
        fits = [
            ((worth[site][p[site]] - worth[site][at[site]]) / max(t - now, 1e-6), p)
            for (site, p), t in zip(wider, ms, strict=True)
            if t <= limit_ms
        ]
        if not fits:
            return at
        at = max(fits)[1]


def _choice(times: _Times, at: tuple[int, ...], total: Callable[[tuple[int, ...]], float]) -> Choice:
    spec = times.network(at)
    assert spec is not None
    counts = {m.site: m.counts[i] for m, i in zip(times.menus, at, strict=True)}
    return Choice(spec, counts, times([at])[0], total(at))
