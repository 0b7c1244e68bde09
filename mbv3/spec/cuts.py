"""Where a network can be cut, and cutting it: one expansion, or one bottleneck size in all blocks that share it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from mbv3.spec.arch import ArchSpec
from mbv3.spec.kinds import Row

__all__ = ["LEAST_CHANNELS", "Site", "channels", "cut", "sites", "smallest"]

LEAST_CHANNELS = 8  # that a site is cut to


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
        if out == row.out and old_in == new_in:
            old_in, new_in = row.out, out
            continue
        new = row.cut(old_in, new_in, out)
        if new is None:
            return None
        rows[i] = new
        old_in, new_in = row.out, out
    return replace(spec, stem=stem, rows=tuple(rows))


def smallest(spec: ArchSpec) -> ArchSpec:
    """`spec` with every site cut to the fewest channels that the rows allow: no cuts lead below it."""
    for site in sites(spec):
        for after in range(LEAST_CHANNELS, channels(spec, site)):
            smaller = cut(spec, site, after)
            if smaller is not None:
                spec = smaller
                break
    return spec
