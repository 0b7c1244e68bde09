"""What NetAdapt may cut, and how far: one expansion, or one bottleneck size in all blocks that share it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

from mbv3.spec import LEAST_CHANNELS, ArchSpec, Site, among, channels, cut, sites

__all__ = ["Proposal", "propose"]

Latency = Callable[[Sequence[ArchSpec]], Sequence[float]]  # networks to predicted ms
_STEP = 8  # first look: every 8th count


@dataclass(frozen=True, slots=True)
class Proposal:
    """A cut that saves enough time: its site, channels before and after, the network after it and its predicted ms."""

    site: Site
    before: int
    after: int
    spec: ArchSpec
    latency_ms: float


def _largest_that_saves(counts: list[int], ms: list[float], limit_ms: float) -> int | None:
    """The largest count whose time, made monotone (times are noisy, more channels never cost less), is within the
    limit: the last one before the cliff."""
    order = np.argsort(counts)
    smooth = isotonic_regression(np.array(ms)[order]).x
    good = [counts[int(order[i])] for i in range(len(counts)) if smooth[i] <= limit_ms]
    return max(good, default=None)


class _Hunt:
    """The search for one site's count: windows downward in steps of 8, then finely up to the cliff."""

    def __init__(self, spec: ArchSpec, site: Site, latency_ms: float, limit_ms: float, fine: int) -> None:
        self.spec, self.site, self.limit_ms = spec, site, limit_ms
        self.now = channels(spec, site)
        self.known: dict[int, tuple[ArchSpec, float]] = {self.now: (spec, latency_ms)}
        self.low = self.now
        self.coarse: int | None = None
        self.fine = fine
        self.fine_asked = fine == 0
        self.floor = max(LEAST_CHANNELS, self.now // 4)

    def wanted(self) -> list[int]:
        """Counts to look at next; none when the hunt is over."""
        if self.coarse is None:
            if self.low <= self.floor:
                return []
            top = (self.low - 1) // _STEP * _STEP
            width = max(4 * _STEP, self.now // 4)
            counts = [c for c in range(top, max(self.floor, top - width) - 1, -_STEP) if c >= self.floor]
            self.low = counts[-1] if counts else self.floor
            return counts
        if not self.fine_asked:
            self.fine_asked = True
            above = min((c for c in self.known if c > self.coarse), default=self.now)
            return list(range(self.coarse + self.fine, above, self.fine))
        return []

    def tell(self, found: dict[int, tuple[ArchSpec, float]]) -> None:
        self.known.update(found)
        if self.coarse is None:
            self.coarse = self._best()

    def _best(self) -> int | None:
        counts = [c for c in self.known if c != self.now]
        return _largest_that_saves(counts, [self.known[c][1] for c in counts], self.limit_ms) if counts else None

    def proposal(self) -> Proposal | None:
        best = self._best()
        if best is None:
            return None
        spec, ms = self.known[best]
        if ms > self.limit_ms:  # monotone made it fit, the single time does not: the coarse one does
            fits = [c for c, (_, t) in self.known.items() if c < best and t <= self.limit_ms]
            if not fits:
                return None
            best = max(fits)
            spec, ms = self.known[best]
        return Proposal(self.site, self.now, best, spec, ms)


def propose(
    spec: ArchSpec, latency_ms: float, save_ms: float, latency: Latency, fine: int = 2,
    some: Collection[Site] | None = None,
) -> list[Proposal]:  # fmt: skip
    """One proposal a site, each at most `latency_ms - save_ms`, cut no further than to the next cliff of the measured
    latency. `latency` is asked for many networks at a time, so that a device measures them interleaved.

    `fine`: the grain in channels at which the cliff is sought; 0 keeps to multiples of 8, for latencies that are
    estimates without cliffs. `some`: the sites that may be cut, by default all.
    """
    limit = latency_ms - save_ms
    hunts = [_Hunt(spec, site, latency_ms, limit, fine) for site in sites(spec) if among(site, some)]
    while True:
        asked: list[tuple[_Hunt, int, ArchSpec]] = []
        active = False
        for hunt in hunts:
            wanted = hunt.wanted()
            active = active or bool(wanted)
            for count in wanted:
                smaller = cut(spec, hunt.site, count)
                if smaller is not None:
                    asked.append((hunt, count, smaller))
        if not active:
            break
        times = latency([s for _, _, s in asked]) if asked else []
        for hunt in hunts:
            mine = {c: (s, float(t)) for (h, c, s), t in zip(asked, times, strict=True) if h is hunt}
            hunt.tell(mine)
    return list(_found(hunts))


def _found(hunts: Sequence[_Hunt]) -> Iterator[Proposal]:
    for hunt in hunts:
        proposal = hunt.proposal()
        if proposal is not None:
            yield proposal
