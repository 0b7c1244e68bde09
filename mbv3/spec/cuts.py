"""Where a network can be cut, and cutting it: one expansion, one bottleneck size in all blocks that share it, the
convolutions before and after the blocks, and the channels of a dense head."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, cast, get_args

from mbv3.errors import BadInput
from mbv3.spec.arch import ArchSpec
from mbv3.spec.classify import Classify
from mbv3.spec.heads import Dense, widths_of, with_widths
from mbv3.spec.kinds import Row

__all__ = [
    "LEAST_CHANNELS", "Site", "all_sites", "among", "channels", "cut", "cut_many", "named_sites", "sites", "smallest",
]  # fmt: skip

LEAST_CHANNELS = 8  # that a site is cut to

HeadKind = Literal["filters", "low_filters", "branches", "extras"]  # fields of a dense head
_OF_HEAD: tuple[str, ...] = get_args(HeadKind)
_LISTS = ("branches", "extras")


@dataclass(frozen=True, slots=True)
class Site:
    """A place to cut. `first`..`last` are rows; a bottleneck that a residual ties to the stem starts at row -1, where
    a stem by itself is. The tail and what the head has come after the last row. Of a dense head's lists `index` says
    which number of them."""

    kind: Literal["expansion", "bottleneck", "stem", "tail", "features"] | HeadKind
    first: int
    last: int
    index: int = 0

    @property
    def of_head(self) -> bool:
        """Whether it is of a dense head."""
        return self.kind in _OF_HEAD

    def __str__(self) -> str:
        if self.of_head:
            return f"head.{self.kind}" + (f"[{self.index}]" if self.kind in _LISTS else "")
        if self.kind in ("stem", "tail", "features"):
            return self.kind
        if self.first == self.last:
            return f"rows[{self.first}]"
        return f"{'stem+' if self.first < 0 else ''}rows[{max(self.first, 0)}:{self.last + 1}]"


def sites(spec: ArchSpec, tied: Literal["residual", "width"] = "residual") -> list[Site]:
    """The places that the paper cuts, in network order: (1) any expansion layer, (2) every bottleneck size, in all
    consecutive blocks that share it, so that residuals keep (Howard 2019, section 4.2); and a dense head's channels,
    which the paper sets by hand (section 6.4).

    Blocks share a bottleneck where a residual joins them; stages that have as many channels by chance do not. With
    `width` these do, too: a model that counts where the width changes would see a change that no stage brought."""
    found = [site for site in all_sites(spec) if site.kind in ("expansion", "bottleneck") or site.of_head]
    if tied == "residual":
        return found
    runs: list[Site] = []
    for site in (site for site in found if site.kind == "bottleneck"):
        if runs and spec.rows[site.last].out == spec.rows[runs[-1].last].out:
            runs[-1] = replace(runs[-1], last=site.last)
        else:
            runs.append(site)
    return [site for site in found if site.kind == "expansion"] + runs + [site for site in found if site.of_head]


def all_sites(spec: ArchSpec) -> list[Site]:
    """Every place that can be cut: expansions and bottlenecks, then a stem that no residual ties, the tail, and the
    features of a classifier or the channels of a dense head. Squeeze channels follow their expansion. A head's widths
    of at most LEAST_CHANNELS are none."""
    found: list[Site] = []
    cin = spec.stem.out
    for i, row in enumerate(spec.rows):
        if row.expands(cin):
            found.append(Site("expansion", i, i))
        cin = row.out
    first = -1
    more: list[Site] = []
    for i in range(len(spec.rows) + 1):
        if i == len(spec.rows) or spec.rows[i].skip == "none":
            alone = first == i - 1 == -1
            (more if alone else found).append(Site("stem" if alone else "bottleneck", first, i - 1))
            first = i
    end = len(spec.rows)
    if spec.tail is not None:
        more.append(Site("tail", end, end))
    if isinstance(spec.head, Classify) and spec.head.features:
        more.append(Site("features", end + 1, end + 1))
    if isinstance(spec.head, Dense):
        kinds = {(kind, i): n for (kind, i), n in widths_of(spec.head).items() if n > LEAST_CHANNELS}
        more += [Site(cast(HeadKind, kind), end + 1, end + 1, i) for kind, i in kinds]
    return found + more


def named_sites(spec: ArchSpec, keep: str | None = None, only: str | None = None) -> frozenset[Site]:
    """Those of `all_sites` that `only` names, or all, without those that `keep` names. Both are lists with commas of
    expansions, bottlenecks, stem, tail, features, head, or rows: rows[3] is every site that takes in row 3, rows[2:5]
    every one that takes in rows 2, 3 or 4, stem the bottleneck that a residual ties to it too, head all that is after
    the tail, head.filters or head.extras[1] one width of a dense head.

    Raises:
        BadInput: a name that names no site of `spec`, or no site is left.
    """
    every = all_sites(spec)

    def found(flag: str, text: str) -> set[Site]:
        of_each = {name.strip(): [s for s in every if _names(name.strip(), s)] for name in text.split(",")}
        for name, named in of_each.items():
            if not named:
                kinds = (str(s) if s.of_head else _KINDS.get(s.kind, s.kind) for s in every)
                there = ", ".join(dict.fromkeys([*kinds, "rows[N]", "rows[N:M]"]))
                raise BadInput(
                    f"{flag} {text}: {name!r} names nothing of {spec.name} that can be cut; there are {there}, with "
                    f"rows 0 to {len(spec.rows) - 1}"
                )
        return {s for named in of_each.values() for s in named}

    left = set(every) if only is None else found("--only", only)
    left -= set() if keep is None else found("--keep", keep)
    if not every:
        raise BadInput(f"{spec.name}: has nothing that can be cut")
    if not left:
        given = " ".join(f"{flag} {text}" for flag, text in (("--only", only), ("--keep", keep)) if text is not None)
        raise BadInput(f"{given}: there is nothing left to cut; name fewer sites to keep")
    return frozenset(left)


_KINDS = {"expansion": "expansions", "bottleneck": "bottlenecks"}


def _names(name: str, site: Site) -> bool:
    rows = re.fullmatch(r"rows\[([0-9]{1,9})(?::([0-9]{1,9}))?\]", name)
    if rows is not None:
        first = int(rows[1])
        last = first if rows[2] is None else int(rows[2]) - 1
        return site.kind in _KINDS and first <= last and max(site.first, 0) <= last and site.last >= first
    if name == "stem":
        return site.first < 0
    if site.of_head:
        return name in ("head", f"head.{site.kind}", str(site))
    return name in (site.kind, _KINDS.get(site.kind)) or (name == "head" and site.kind == "features")


def among(site: Site, some: Collection[Site] | None) -> bool:
    """Whether all of `site` lies in `some` sites of the network; None stands for all sites."""
    if some is None or site in some:
        return True
    ties = [s for s in some if s.kind in ("bottleneck", "stem")]
    rows = range(site.first, site.last + 1)
    return site.kind == "bottleneck" and all(any(s.first <= i <= s.last for s in ties) for i in rows)


def channels(spec: ArchSpec, site: Site) -> int:
    """Channels at `site` now."""
    if site.kind == "stem":
        return spec.stem.out
    if site.kind == "tail" and spec.tail is not None:
        return spec.tail.out
    if site.kind == "features" and isinstance(spec.head, Classify):
        return spec.head.features
    if site.of_head and isinstance(spec.head, Dense):
        return widths_of(spec.head)[site.kind, site.index]
    row = spec.rows[site.last]
    if site.kind == "bottleneck":
        return row.out
    return row.inner(spec.rows[site.last - 1].out if site.last else spec.stem.out)


def cut(spec: ArchSpec, site: Site, after: int) -> ArchSpec | None:
    """`spec` with `after` channels at `site`; None where the row form cannot say it (a row whose expansion would
    equal its input would lose its expansion convolution)."""
    return cut_many(spec, {site: after})


def cut_many(spec: ArchSpec, counts: Mapping[Site, int]) -> ArchSpec | None:
    """`spec` with other channels at many sites at once; None as for `cut`."""
    inner = {site.first: n for site, n in counts.items() if site.kind == "expansion"}
    outer = {
        i: n for site, n in counts.items() if site.kind in ("bottleneck", "stem")
        for i in range(site.first, site.last + 1)
    }  # fmt: skip
    stem = replace(spec.stem, out=outer.get(-1, spec.stem.out))
    rows: list[Row] = []
    old_in, new_in = spec.stem.out, stem.out
    for i, row in enumerate(spec.rows):
        new = _row(row, old_in, new_in, outer.get(i, row.out), inner.get(i))
        if new is None:
            return None
        rows.append(new)
        old_in, new_in = row.out, new.out
    tail, head = spec.tail, spec.head
    for site, n in counts.items():
        if site.kind == "tail" and tail is not None:
            tail = replace(tail, out=n)
        elif site.kind == "features" and isinstance(head, Classify):
            head = replace(head, features=n)
    own: dict[tuple[str, int], int] = {(site.kind, site.index): n for site, n in counts.items() if site.of_head}
    if own and isinstance(head, Dense):
        head = with_widths(head, own)
    return replace(spec, stem=stem, rows=tuple(rows), tail=tail, head=head)


@lru_cache(maxsize=100_000)  # joint cuts ask for ten thousand networks that share most rows
def _row(row: Row, old_in: int, new_in: int, out: int, inner: int | None) -> Row | None:
    if inner is not None:
        narrow = row.cut_inner(new_in, inner)
        # its expansion is of a new size, whatever its old one was beside the old input
        return None if narrow is None else narrow.cut(new_in, new_in, out)
    return row if out == row.out and old_in == new_in else row.cut(old_in, new_in, out)


def smallest(spec: ArchSpec, some: Collection[Site] | None = None) -> ArchSpec:
    """`spec` with every site of `sites`, or those of `some`, cut to the fewest channels that the rows allow: no such
    cuts lead below it."""
    for site in sites(spec) if some is None else [s for s in all_sites(spec) if s in some]:
        for after in range(LEAST_CHANNELS, channels(spec, site)):
            smaller = cut(spec, site, after)
            if smaller is not None:
                spec = smaller
                break
    return spec
