"""What may be cut, and how far: to the tops of the stairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3.netadapt import propose
from mbv3.spec import ArchSpec, Classify, Conv, DSConv, MBConv, Site, channels, count, cut, load_spec, sites, smallest

LARGE = load_spec("mobilenet_v3_large")
NETS = [load_spec(n) for n in ("mobilenet_v3_large", "mobilenet_v3_small", "mobilenet_v2", "mnasnet_a1", "mnasnet_b1")]
SMALL = ArchSpec(
    name="small",
    resolution=(32, 32),
    stem=Conv(k=3, out=16, nl="HS", s=2),
    rows=(
        MBConv(k=3, exp=16, out=16, skip="identity"),
        MBConv(k=3, exp=100, out=24, s=2),
        MBConv(k=5, exp=144, out=24, se=36, nl="HS", skip="identity"),
        MBConv(k=5, exp=200, out=48, se=50, nl="HS", s=2),
    ),
    tail=None,
    head=Classify(features=32, classes=8),
)


def test_sites_of_mobilenet_v3_large_by_hand() -> None:
    assert sites(LARGE) == [
        *(Site("expansion", i, i) for i in range(1, 15)),  # row 0 has no expansion layer
        Site("bottleneck", -1, 0),  # 16, tied to the stem by row 0's residual
        Site("bottleneck", 1, 2),  # 24
        Site("bottleneck", 3, 5),  # 40
        Site("bottleneck", 6, 9),  # 80
        Site("bottleneck", 10, 11),  # 112
        Site("bottleneck", 12, 14),  # 160
    ]
    assert [channels(LARGE, s) for s in sites(LARGE)[:4]] == [64, 72, 72, 120]
    assert [channels(LARGE, s) for s in sites(LARGE)[14:]] == [16, 24, 40, 80, 112, 160]
    assert [str(s) for s in sites(LARGE)[13:16]] == ["rows[14]", "stem+rows[0:1]", "rows[1:3]"]


def test_a_stem_without_residual_is_not_tied() -> None:
    rows = (DSConv(k=3, out=16), MBConv(k=3, exp=64, out=24))
    spec = replace(SMALL, rows=rows)
    assert sites(spec) == [Site("expansion", 1, 1), Site("bottleneck", 0, 0), Site("bottleneck", 1, 1)]
    assert cut(spec, Site("bottleneck", 0, 0), 8).stem.out == 16  # type: ignore[union-attr]


def test_cuts_by_hand() -> None:
    cut_exp = cut(LARGE, Site("expansion", 10, 10), 240)
    assert cut_exp is not None
    assert cut_exp.rows[10] == replace(LARGE.rows[10], exp=240, se=64)  # a quarter of 240, made divisible
    assert [r for i, r in enumerate(cut_exp.rows) if i != 10] == [r for i, r in enumerate(LARGE.rows) if i != 10]
    cut_out = cut(LARGE, Site("bottleneck", 3, 5), 32)
    assert cut_out is not None and [r.out for r in cut_out.rows[2:7]] == [24, 32, 32, 32, 80]
    assert [r.exp for r in cut_out.rows] == [r.exp for r in LARGE.rows]  # type: ignore[union-attr]
    tied = cut(LARGE, Site("bottleneck", -1, 0), 8)
    assert tied is not None and (tied.stem.out, tied.rows[0].out, tied.rows[0].exp) == (8, 8, 8)  # type: ignore[union-attr]


def test_a_cut_that_would_lose_an_expansion_is_none() -> None:
    assert cut(LARGE, Site("expansion", 1, 1), 16) is None  # its input has 16
    assert cut(LARGE, Site("expansion", 1, 1), 24) is not None
    narrow = cut(LARGE, Site("expansion", 7, 7), 72)
    assert narrow is not None and cut(narrow, Site("bottleneck", 6, 9), 72) is None  # row 7 would equal its input


def expands(spec: ArchSpec) -> list[bool]:
    return [isinstance(row, MBConv) and row.exp != cin for _, row, cin in spec.convs()]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(NETS), st.data())
def test_cuts_after_cuts_keep_residuals_and_expansions(start: ArchSpec, data: st.DataObject) -> None:
    spec = start
    for _ in range(data.draw(st.integers(1, 6))):
        site = data.draw(st.sampled_from(sites(spec)))
        now = channels(spec, site)
        smaller = cut(spec, site, data.draw(st.integers(min(8, now), now)))
        if smaller is None:
            continue
        spec = smaller  # ArchSpec itself refuses a residual between unequal channels
    assert [r.skip for r in spec.rows] == [r.skip for r in start.rows]
    assert expands(spec) == expands(start)  # no row lost its expansion, none won one
    assert all(a.se <= b.se and (a.se > 0) == (b.se > 0) for a, b in zip(spec.rows, start.rows, strict=True))
    assert count(spec).madds <= count(start).madds and count(spec).params <= count(start).params


# -- propose

Latency = Callable[[Sequence[ArchSpec]], list[float]]


def stairs(step: int, offset: int = 0, noise: float = 0.0) -> Latency:
    """ms: 0.1 for every `step` channels begun in an expansion, the same in a bottleneck."""

    def latency(specs: Sequence[ArchSpec]) -> list[float]:
        out = []
        for spec in specs:
            ms = 5.0
            for row in spec.rows:
                exp = row.exp if isinstance(row, MBConv) else 0
                ms += 0.1 * math.ceil((exp - offset) / step) + 0.1 * math.ceil((row.out - offset) / step)
            rng = np.random.default_rng(sum(map(ord, repr(spec))))
            out.append(ms + noise * float(rng.uniform(-1, 1)))
        return out

    return latency


@pytest.mark.parametrize(("step", "offset"), [(16, 0), (16, 6), (32, 4)])
def test_expansions_land_on_the_tops_of_the_stairs(step: int, offset: int) -> None:
    latency = stairs(step, offset)
    now = latency([SMALL])[0]
    for saved in (1, 2):  # stairs
        found = propose(SMALL, now, 0.1 * saved - 0.01, latency)
        by_site = {p.site: p for p in found if p.site.kind == "expansion"}
        assert len(by_site) == 3
        for p in by_site.values():
            stair = math.ceil((p.before - offset) / step) - saved
            assert p.after == stair * step + offset, (p, saved)
            assert p.latency_ms == pytest.approx(now - 0.1 * saved)


def test_without_the_fine_look_counts_are_multiples_of_8() -> None:
    latency = stairs(16, 6)
    found = propose(SMALL, latency([SMALL])[0], 0.09, latency, fine=0)
    assert found and all(p.after % 8 == 0 for p in found)


@pytest.mark.parametrize("noise", [0.0, 0.03, 0.2])
@pytest.mark.parametrize("save", [0.05, 0.3, 0.8])
def test_every_proposal_saves_at_least_what_was_asked(noise: float, save: float) -> None:
    latency = stairs(16, 2, noise)
    for spec in (SMALL, LARGE):
        now = latency([spec])[0]
        found = propose(spec, now, save, latency)
        assert found or spec is SMALL
        assert len({p.site for p in found}) == len(found)
        for p in found:
            assert p.latency_ms <= now - save
            assert p.latency_ms == latency([p.spec])[0]  # the latency of this very network
            assert p.spec == cut(spec, p.site, p.after)
            assert p.before == channels(spec, p.site) and 8 <= p.after < p.before
            assert p.after >= p.before // 4


@pytest.mark.parametrize("name", ["mobilenet_v3_large", "mobilenet_v3_small", "mnasnet_a1", "mobilenet_v2"])
def test_the_smallest_network_has_no_cuts_left(name: str) -> None:
    spec = load_spec(name)
    least = smallest(spec)
    assert len(least.rows) == len(spec.rows) and expands(least) == expands(spec)
    assert all(8 <= channels(least, site) <= 11 for site in sites(least))
    assert count(least).madds < count(spec).madds / 5


def test_what_cannot_save_enough_is_no_proposal() -> None:
    latency = stairs(16)
    now = latency([SMALL])[0]
    assert propose(SMALL, now, 3.0, latency) == []
    assert [str(p.site) for p in propose(SMALL, now, 0.7, latency)] == ["rows[3]"]  # 200 is 13 stairs; a quarter stays


def test_a_flat_latency_gives_nothing_and_ends() -> None:
    asked: list[int] = []

    def flat(specs: Sequence[ArchSpec]) -> list[float]:
        asked.append(len(specs))
        return [7.0] * len(specs)

    assert propose(LARGE, 7.0, 0.01, flat) == []
    assert len(asked) < 10  # rounds, each of many networks, so that a device measures them interleaved
    assert asked[0] > 20
