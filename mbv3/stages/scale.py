"""The scale of a run: width and resolution of the space, chosen for the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mbv3.errors import Unreachable
from mbv3.latency import Runtime, interleave
from mbv3.space import Genome, SearchSpace, scale, tabulate
from mbv3.spec import ArchSpec, lower, lower_key, pixels
from mbv3.tables import reference_at

__all__ = ["LatencyMs", "Scale", "check_range", "choose_scale", "quick_ms", "typical"]


LatencyMs = Callable[[Sequence[ArchSpec]], Sequence[float]]  # networks to ms


def quick_ms(runtime: Runtime, specs: Sequence[ArchSpec]) -> list[float]:
    """p10 of a few interleaved runs each."""
    runs = [runtime.network(s) for s in specs]
    samples = interleave(runs[1:], runs[0], rounds=6, seed=0, threads=runtime.fingerprint.threads)
    return [samples.anchor_ms(), *(samples.ms(i) for i in range(len(specs) - 1))]


@dataclass(frozen=True)
class Scale:
    """A scaled space and the reason in one line."""

    space: SearchSpace
    why: str


def typical(space: SearchSpace) -> Genome:
    """The genome at the 40th percentile of MAdds of 500 random ones."""
    genomes = space.sample(np.random.default_rng(0), 500)
    madds = tabulate(space, lambda k: lower_key(k).madds)(genomes)
    return tuple(int(v) for v in genomes[np.argsort(madds)[200]])


def _path(most: int | None, pinned: tuple[int, int] | None) -> list[tuple[float, int | tuple[int, int]]]:
    """Scales along which width and resolution grow together, as 1.1 and 1.15 to a power (Tan 2019,
    EfficientNet, arXiv:1905.11946); beyond `most` pixels, and at a `pinned` resolution, only the width grows."""
    if pinned is not None:
        return [(w / 20, pinned) for w in range(4, 81)]
    found: list[tuple[float, int]] = []
    for i in range(-80, 81):
        phi = i / 8
        width, res = round(1.1**phi * 20) / 20, max(32, round(224 * 1.15**phi / 16) * 16)
        if most is not None and res > most:
            # the same multiply-adds at `most` pixels
            width, res = round(1.1**phi * 224 * 1.15**phi / most * 20) / 20, most
        if 0.2 <= width <= 4 and res <= 1024:
            found.append((width, res))
    if most is not None:
        found += [(w / 20, r) for r in (most,) for w in range(4, 81)]
    return [*sorted(set(found), key=lambda s: s[0] * s[1])]


def choose_scale(
    latency_ms: LatencyMs,
    space: SearchSpace,
    target_ms: float,
    *,
    width: float | None = None,
    resolution: tuple[int, int] | None = None,
    seed_ratio: float = 1.25,
    classes: int | None = None,
    most_pixels: int | None = None,
) -> Scale:
    """The scale of a run: `width` as given, else the one at which a typical network of the space takes
    `target_ms * seed_ratio`, at `resolution` where that is given, else with width and resolution grown together, up to
    `most_pixels`. `latency_ms`: the device's times of networks, from a few runs or predicted.

    Raises:
        Unreachable: the target lies outside what the networks of the space take at that scale.
    """
    if width is not None:
        scaled = scale(space, width, resolution, classes)
        why = f"scale {width:g}x{pixels(scaled.resolution)} as asked"
    else:
        choices = _path(most_pixels, resolution)
        base = scale(space, 1.0, resolution, classes)
        aim = target_ms * seed_ratio
        scaled, reference_ms = _nearest(latency_ms, base, [scale(space, w, r, classes) for w, r in choices], aim)
        why = (
            f"MobileNetV3-Large takes {reference_ms:.1f} ms at {pixels(base.resolution)} px; a {target_ms:g} ms budget "
            f"suits width {scaled.width:g} at {pixels(scaled.resolution)} px"
        )
    madds = tabulate(scaled, lambda k: lower_key(k).madds)
    ends = [scaled.deployed(madds.extreme(largest)[1]) for largest in (False, True)]
    smallest, largest = latency_ms(ends)
    check_range(target_ms, smallest, largest, scaled, width is not None)
    return Scale(scaled, why)


def _nearest(
    latency_ms: LatencyMs, base: SearchSpace, spaces: Sequence[SearchSpace], aim_ms: float
) -> tuple[SearchSpace, float]:
    """(the space whose typical network takes nearest to `aim_ms`, ms of the reference network at the base's size): ms
    per multiply-add, corrected by up to four times of the choice."""
    middle = typical(base)

    def cost(s: SearchSpace) -> float:
        return float(sum(x.madds for x in lower(s.deployed(middle))))

    costs = np.array([cost(s) for s in spaces])
    reference_ms, ms = latency_ms([reference_at(1.0, base.resolution), base.deployed(middle)])
    first = per = ms / cost(base)
    at = 0
    for _ in range(4):
        new = int(np.argmin(np.abs(np.log(costs * per / aim_ms))))
        if new == at and per != first:
            break
        at = new
        [ms] = latency_ms([spaces[at].deployed(middle)])
        per = ms / costs[at]
        if abs(ms / aim_ms - 1) < 0.1:
            break
    return spaces[at], reference_ms


def check_range(
    target_ms: float, smallest: float, largest: float, space: SearchSpace, fixed: bool, chosen: bool = False
) -> None:
    """`fixed`: the scale is the user's; `chosen`: it was chosen by timing a few networks.

    Raises: Unreachable when no network of the space is near the target."""
    if smallest <= target_ms <= largest:
        return
    cure = "--scale auto fits the space to the target" if fixed else "another --space or device may reach it"
    if not fixed and chosen:
        cure = (
            "a few runs had promised that it can, so the device was busy then or is now: run this again when nothing "
            "else runs, or give a --scale"
        )
    raise Unreachable(
        f"a target of {target_ms:g} ms cannot be met: networks of space {space.name} at width {space.width:g}, "
        f"{pixels(space.resolution)} px take {smallest:.3g} to {largest:.3g} ms on this device; {cure}",
        smallest,
        largest,
    )
