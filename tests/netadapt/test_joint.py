"""Joint cuts: the knapsack over all sites against every network that there is."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from mbv3.netadapt import Menu, menus, refined, solve
from mbv3.spec import ArchSpec, MBConv, all_sites, channels, count, cut_many, load_spec

from .test_proposals import SMALL, stairs

SITES = all_sites(SMALL)
SCORES = {s: np.sort(np.random.default_rng(i).exponential(1.0, channels(SMALL, s)))[::-1] for i, s in enumerate(SITES)}


def work(specs: Sequence[ArchSpec]) -> list[float]:
    """ms by multiply-adds: a site's time is a product with its neighbours' channels."""
    return [count(s).madds / 1e5 for s in specs]


def every(spec: ArchSpec, table: Sequence[Menu]) -> list[tuple[float, float]]:
    """(ms, worth) of every network of the menus."""
    found = []
    for at in itertools.product(*(range(len(m.counts)) for m in table)):
        smaller = cut_many(spec, {m.site: m.counts[i] for m, i in zip(table, at, strict=True)})
        if smaller is not None:
            found.append((work([smaller])[0], sum(m.worth[i] for m, i in zip(table, at, strict=True))))
    return found


def test_a_menu_rises_to_all_that_a_site_has() -> None:
    table = menus(SMALL, SCORES, least=0.25)
    assert [m.site for m in table] == SITES
    for m in table:
        now = channels(SMALL, m.site)
        assert m.counts[-1] == now and list(m.counts) == sorted(set(m.counts))
        assert all(n % 8 == 0 and n >= max(8, now // 4) for n in m.counts[:-1])
        best = SCORES[m.site]
        assert m.worth[-1] == 0 and list(m.worth) == pytest.approx([best[:n].sum() - best.sum() for n in m.counts])


def test_counts_by_hand_are_put_in_order() -> None:
    table = menus(SMALL, SCORES, allowed=lambda site: [32, 16, 16, 0, 8, 10_000])
    assert all(list(m.counts) == [*(n for n in (8, 16, 32) if n < m.counts[-1]), m.counts[-1]] for m in table)


@pytest.mark.parametrize("share", [0.4, 0.55, 0.7, 0.9])
def test_the_choice_is_as_good_as_the_best_of_all_networks(share: float) -> None:
    table = menus(SMALL, SCORES, least=0.3, grain=24)[:6]
    networks = every(SMALL, table)
    now, least = work([SMALL])[0], min(ms for ms, _ in networks)
    limit = least + share * (now - least)
    choice = solve(SMALL, table, work, limit)
    assert choice.latency_ms == work([choice.spec])[0] <= limit
    whole = sum(m.worth[-1] - m.worth[0] for m in table)
    best = max(worth for ms, worth in networks if ms <= limit)
    chance = np.mean([worth for ms, worth in networks if 0.97 * limit <= ms <= limit])
    assert chance < choice.worth <= best + 1e-9
    assert best - choice.worth <= 0.02 * whole  # a knapsack by prices, filling and exchanges, not by enumeration


def test_a_count_under_the_same_stair_is_never_chosen() -> None:
    """Times are stairs of 16: of two counts on one stair the larger costs nothing."""
    latency = stairs(16)
    table = menus(SMALL, SCORES)
    now = latency([SMALL])[0]
    for limit in np.linspace(now - 1.5, now - 0.3, 5):
        choice = solve(SMALL, table, latency, float(limit))
        assert choice.latency_ms <= limit
        for i in (1, 2, 3):
            exp = cast(MBConv, choice.spec.rows[i]).exp
            assert exp % 16 == 0 or exp == cast(MBConv, SMALL.rows[i]).exp


def test_within_the_limit_nothing_is_cut_and_below_the_least_the_least_is_left() -> None:
    table = menus(SMALL, SCORES)
    assert solve(SMALL, table, work, 1e9).spec == SMALL
    least = solve(SMALL, table, work, 0.0)
    assert all(least.counts[m.site] == m.counts[0] for m in table)


def test_noisy_times_do_not_keep_channels_out_of_a_large_network() -> None:
    spec = replace(load_spec("mobilenet_v3_small"), resolution=(96, 96))
    scores = {
        s: np.sort(np.random.default_rng(i).exponential(1.0, channels(spec, s)))[::-1]
        for i, s in enumerate(all_sites(spec))
    }
    rng = np.random.default_rng(0)
    noise: dict[ArchSpec, float] = {}

    def noisy(specs: Sequence[ArchSpec]) -> list[float]:
        rows = [[(cin, row.inner(cin), row.out) for _, row, cin in s.convs()] for s in specs]
        ms = [sum(cin * inner + inner * out for cin, inner, out in r) / 1e5 for r in rows]
        return [t * noise.setdefault(s, 1 + 0.01 * rng.standard_normal()) for s, t in zip(specs, ms, strict=True)]

    limit = 0.5 * noisy([spec])[0]
    choice = solve(spec, menus(spec, scores, grain=32), noisy, limit)
    assert 0.97 * limit <= choice.latency_ms <= limit
    assert all(n <= channels(spec, s) for s, n in choice.counts.items())


def test_estimates_come_first_and_measurements_nearby() -> None:
    """The device has stairs that the estimates do not show, and is a tenth slower."""
    rough, stair = stairs(1), stairs(16)

    def line(specs: Sequence[ArchSpec]) -> list[float]:
        return [5 + (ms - 5) / 16 for ms in rough(specs)]

    def exact(specs: Sequence[ArchSpec]) -> list[float]:
        return [1.1 * ms for ms in stair(specs)]

    table = menus(SMALL, SCORES)
    limit = 1.1 * stair([SMALL])[0] - 1.2
    choice = refined(SMALL, table, line, exact, limit)
    assert choice.latency_ms == exact([choice.spec])[0] <= limit
    assert choice.latency_ms > limit - 0.12  # a stair is 0.11 ms
    whole = solve(SMALL, table, exact, limit)
    least, most = (sum(m.worth[i] for m in table) for i in (0, -1))
    assert whole.worth - choice.worth < 0.05 * (most - least)
