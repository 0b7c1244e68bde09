"""What NetAdapt may cut, and how far: one expansion, or one bottleneck size in all blocks that share it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.optimize import isotonic_regression

from mbv3.spec import ArchSpec, Row

__all__ = ["Proposal", "Site", "channels", "cut", "propose", "sites", "smallest"]

Latency = Callable[[Sequence[ArchSpec]], Sequence[float]]  # networks to predicted ms
_STEP = 8  # first look: every 8th count
_LEAST = 8


@dataclass(frozen=True, slots=True)
class Site:
    """A place to cut. `first`..`last` are rows; a bottleneck that a residual ties to the stem starts at row -1."""

    kind: Literal["expansion", "bottleneck"]
    first: int
    last: int

    def __str__(self) -> str:
        if self.first == self.last:
            return f"rows[{self.first}]"
        return f"{'stem+' if self.first < 0 else ''}rows[{max(self.first, 0)}:{self.last + 1}]"


@dataclass(frozen=True, slots=True)
class Proposal:
    """A cut that saves enough: the site, its channels before and after, the network and its predicted ms."""

    site: Site
    before: int
    after: int
    spec: ArchSpec
    latency_ms: float


def sites(spec: ArchSpec) -> list[Site]:
    """Every place that can be cut, in network order: (1) any expansion layer, (2) every bottleneck size, in all
    consecutive blocks that share it, so that residuals keep (Howard 2019, section 4.2)."""
    found: list[Site] = []
    cin = spec.stem.out
    for i, row in enumerate(spec.rows):
        if row.expands(cin):
            found.append(Site("expansion", i, i))
        cin = row.out
    i = 0
    while i < len(spec.rows):
        last = i
        while last + 1 < len(spec.rows) and spec.rows[last + 1].out == spec.rows[i].out:
            last += 1
        tied_to_stem = i == 0 and spec.rows[0].skip != "none"
        found.append(Site("bottleneck", -1 if tied_to_stem else i, last))
        i = last + 1
    return found


def _cin(spec: ArchSpec, row: int) -> int:
    return spec.rows[row - 1].out if row else spec.stem.out


def channels(spec: ArchSpec, site: Site) -> int:
    """Channels at `site` now."""
    row = spec.rows[site.last]
    return row.inner(_cin(spec, site.last)) if site.kind == "expansion" else row.out


def cut(spec: ArchSpec, site: Site, after: int) -> ArchSpec | None:
    """`spec` with `after` channels at `site`; None where the row form cannot say it (a row whose expansion would
    equal its input would lose its expansion convolution)."""
    rows = list(spec.rows)
    new: Row | None
    if site.kind == "expansion":
        new = rows[site.first].cut_inner(_cin(spec, site.first), after)
        if new is None:
            return None
        rows[site.first] = new
        return replace(spec, rows=tuple(rows))
    stem = replace(spec.stem, out=after) if site.first < 0 else spec.stem
    old_in, new_in = spec.stem.out, stem.out
    for i, row in enumerate(spec.rows):
        out = after if max(site.first, 0) <= i <= site.last else row.out
        new = row.cut(old_in, new_in, out)
        if new is None:
            return None
        rows[i] = new
        old_in, new_in = row.out, out
    return replace(spec, stem=stem, rows=tuple(rows))


def smallest(spec: ArchSpec) -> ArchSpec:
    """`spec` with every site cut to the fewest channels that the rows allow: no cuts lead below it."""
    for site in sites(spec):
        for after in range(_LEAST, channels(spec, site)):
            smaller = cut(spec, site, after)
            if smaller is not None:
                spec = smaller
                break
    return spec


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
        self.floor = max(_LEAST, self.now // 4)

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


def propose(spec: ArchSpec, latency_ms: float, save_ms: float, latency: Latency, fine: int = 2) -> list[Proposal]:
    """One proposal a site, each at most `latency_ms - save_ms`, cut no further than to the next cliff of the measured
    latency. `latency` is asked for many networks at a time, so that a device measures them interleaved.

    `fine`: the grain in channels at which the cliff is sought; 0 keeps to multiples of 8, for latencies that are
    estimates without cliffs.
    """
    limit = latency_ms - save_ms
    hunts = [_Hunt(spec, site, latency_ms, limit, fine) for site in sites(spec)]
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
