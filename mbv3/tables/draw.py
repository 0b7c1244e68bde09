"""Networks of a space, drawn for the calibration of a table and for checks of it."""

from __future__ import annotations

import numpy as np

from mbv3.space import SearchSpace, tabulate
from mbv3.spec import ArchSpec, lower_key

__all__ = ["calibration_network", "calibration_networks", "cut_network", "random_networks"]

CALIBRATION_NETWORKS = 60
CUT_EVERY = 3  # every third network is cut: without these, networks cut by NetAdapt were predicted up to 2 % lower


def random_networks(space: SearchSpace, n: int, seed: int, label: str) -> list[tuple[str, ArchSpec]]:
    """`n` random networks, named `label`:GENOME. Half of them are spread evenly over the MAdds of the space, because
    uniform choices give mostly networks of medium size; the rest is drawn uniformly."""
    rng = np.random.default_rng(seed)
    genomes = space.sample(rng, 8 * n)
    madds = tabulate(space, lambda k: lower_key(k).madds)(genomes)
    order = np.argsort(madds)
    picks = [*order[np.linspace(0, len(order) - 1, n - n // 2).astype(int)], *rng.permutation(len(order))]
    chosen = [tuple(int(v) for v in genomes[i]) for i in dict.fromkeys(int(p) for p in picks)]
    unique = list(dict.fromkeys(chosen))[:n]
    mixed = [unique[i] for i in rng.permutation(len(unique))]  # shuffled, so that the first few have all sizes too
    return [(f"{label}:{'-'.join(map(str, g))}", space.deployed(g)) for g in mixed]


def cut_network(spec: ArchSpec, seed: int) -> ArchSpec:
    """`spec` with half of its sites cut to arbitrary channel counts, like a network after NetAdapt."""
    from mbv3.netadapt import channels, cut, sites  # beside torch code still: a prediction must not load torch

    rng = np.random.default_rng(seed)
    for _ in range(len(sites(spec)) // 2):
        places = sites(spec)
        site = places[int(rng.integers(len(places)))]
        now = channels(spec, site)
        spec = cut(spec, site, int(rng.integers(min(now, max(8, now // 2)), now + 1))) or spec
    return spec


def calibration_network(space: SearchSpace, label: str) -> ArchSpec:
    """The network of the (scaled) space with this label: KIND:GENOME, or cut:SEED:GENOME for one that was cut."""
    kind, _, genome = label.partition(":")
    if kind != "cut":
        return space.deployed(space.genome(genome))
    seed, _, genome = genome.partition(":")
    return space.dress(cut_network(space.spec(space.genome(genome)), int(seed)))


def calibration_networks(space: SearchSpace) -> list[tuple[str, ArchSpec]]:
    """The networks on which a table of this (scaled) space is calibrated."""
    drawn = random_networks(space, CALIBRATION_NETWORKS, 12345, "calibration")
    few = len(drawn) < CALIBRATION_NETWORKS  # in a small space every network is also measured uncut
    whole = [network for i, network in enumerate(drawn) if few or i % CUT_EVERY]
    thin = [f"cut:{i}:{label.partition(':')[2]}" for i, (label, _) in enumerate(drawn) if i % CUT_EVERY == 0]
    return whole + [(label, calibration_network(space, label)) for label in thin]
