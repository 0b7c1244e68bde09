"""One network at several resolutions: which of them are worth a look, the table of its layers, what meets a target."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mbv3.errors import Unreachable
from mbv3.events import Event
from mbv3.latency import BuildPlan, LatencyTable, Runtime, build_table, interleave
from mbv3.spec import ArchSpec, lower, pixels, scale_spec, smallest, width_rules
from mbv3.tables import REFERENCE, Latency, reference_at

__all__ = ["Sizes", "choose_sizes", "largest_within", "sized", "sized_table", "steady_ms"]

LatencyMs = Callable[[Sequence[ArchSpec]], Sequence[float]]  # networks to ms
FINE, COARSE = 8, 16  # pixels between resolutions of the uncut network, and of those that are cut
LEAST = 32  # pixels; half of the own size where a network is made for less than twice that
LEAST_DENSE = 64  # pixels; under that nothing of a scene is left
MOST_SIZES = 32  # that are timed
ENLARGED = 1.25  # of the photos' own size: finer than that there is little to see, but for a network's strides:
# MobileNetV3-Small has 56.8 % of CIFAR-10 right (10,000 photos to learn from) at their own 32 px, where its last map is
# one place, 73.4 % at 64 px and 79.5 % at 96 px (results/finetune.jsonl)
PLACES = 4  # a side of the last map, as at 128 px: so far are small photos enlarged
BEYOND = 1.25  # of the network's own size
REACH = 3.2  # a network that takes this multiple of the target is not cut to it: too little of it would be left
WIDTHS = (1.0, 0.75, 0.5, 0.35)  # of a table
STEADY_S = 2.0  # of timing
CALIBRATED = 12  # whole networks of a table


@dataclass(frozen=True, slots=True)
class Sizes:
    """`start`: the network as it is fine-tuned first, and teaches. `lower`: uncut, the largest sizes within the target,
    the largest first; none where every one is over it. `cut`: those to be cut to the target, from small to large."""

    start: ArchSpec
    lower: tuple[ArchSpec, ...]
    cut: tuple[ArchSpec, ...]

    @property
    def all(self) -> tuple[ArchSpec, ...]:
        """Each of them once, the largest first."""
        return tuple(sorted({*self.lower, *self.cut, self.start}, key=lambda s: s.resolution, reverse=True))


def sized(spec: ArchSpec, side: int) -> ArchSpec:
    """`spec` with an input whose short side is `side`, of the same shape to a multiple of FINE."""
    h, w = spec.resolution
    short = min(h, w)

    def scaled(v: int) -> int:
        return side if v == short else FINE * round(v * side / short / FINE)

    return replace(spec, resolution=(scaled(h), scaled(w)))


def choose_sizes(
    spec: ArchSpec, target_ms: float, photos_side: int, latency_ms: LatencyMs, *, most: int = 4,
    pinned: tuple[int, int] | None = None, dense: bool = False,
) -> Sizes:  # fmt: skip
    """Resolutions for a target. `latency_ms`: the device's times of networks, from a few runs or predicted.
    `photos_side`: short side of the typical photo. `most`: of `cut`. `pinned`: the one resolution that is asked for.
    `dense`: the network answers for every place of an image, so that its size is that of the images, which may be
    large: few sizes are tried then, and none that takes a multiple of the target is fine-tuned.

    Raises:
        Unreachable: at its smallest resolution and cut as far as the rows allow, the network takes more.
    """
    own = min(spec.resolution)
    least_side = min(LEAST_DENSE if dense else LEAST, max(16, own // 2 // COARSE * COARSE))
    least_side = max(least_side, spec.stride) if dense else least_side
    seen = photos_side if dense else max(photos_side, PLACES * spec.stride)
    top = max(least_side, int(min(max(ENLARGED * photos_side, seen), BEYOND * own)) // COARSE * COARSE)
    natural = max(least_side, min(seen, own, top) // COARSE * COARSE)
    if pinned is not None:
        whole = [replace(spec, resolution=pinned)]
        start = whole[0]
    else:
        many = dense and top - least_side > FINE * MOST_SIZES
        step = COARSE * -(-(top - least_side) // (COARSE * MOST_SIZES)) if many else FINE
        whole = [sized(spec, side) for side in range(least_side, top + 1, step)]
        start = sized(spec, natural)
    ends = smallest(whole[0])
    *times, least = latency_ms([*whole, ends])
    if least > target_ms and times[0] > target_ms:
        raise Unreachable(
            f"a target of {target_ms:g} ms cannot be met: {spec.name} takes {times[-1]:.3g} ms at "
            f"{pixels(whole[-1].resolution)} px and {times[0]:.3g} ms at {pixels(whole[0].resolution)} px on this "
            f"device, and cut to the fewest channels there still {least:.3g} ms; a smaller network may reach it",
            least,
            times[-1],
        )
    if pinned is None and step > FINE:
        whole, times = _finer(spec, whole, times, target_ms, latency_ms)
    ms = _rising(times)
    within = [s for s, t in zip(whole, ms, strict=True) if t <= target_ms]
    if dense and pinned is None:
        near = [s for s, t in zip(whole, ms, strict=True) if t <= REACH * target_ms and min(s.resolution) <= natural]
        start = near[-1] if near else whole[0]
    # a mistaken one is measured again: the next larger size is a candidate of `largest_within` too
    above = [(s, float(t)) for s, t in zip(whole, ms, strict=True) if t > target_ms]
    lower = [*([above[0][0]] if above and within else []), *within[::-1][:3]]
    able = [(s, t) for s, t in above if t <= REACH * target_ms and (pinned or min(s.resolution) % COARSE == 0)]
    return Sizes(start, tuple(lower), _spread(able or above[:1], most))


def _finer(
    spec: ArchSpec, whole: list[ArchSpec], times: list[float], target_ms: float, latency_ms: LatencyMs
) -> tuple[list[ArchSpec], list[float]]:
    """The sizes and their times with those in steps of FINE around the largest within the target: by coarse ones the
    uncut network would leave a fifth of it."""
    last = max((i for i, t in enumerate(_rising(times)) if t <= target_ms), default=-1)
    if not 0 <= last < len(whole) - 1:
        return whole, times
    between = [
        sized(spec, side) for side in range(min(whole[last].resolution) + FINE, min(whole[last + 1].resolution), FINE)
    ]
    found = list(latency_ms(between))
    return [*whole[: last + 1], *between, *whole[last + 1 :]], [*times[: last + 1], *found, *times[last + 1 :]]


def _rising(times: Sequence[float]) -> NDArray[np.float64]:
    """Noisy times of growing sizes without their falls: the middle of the curves that lie above and below them."""
    ms = np.array(times)
    return (np.maximum.accumulate(ms) + np.minimum.accumulate(ms[::-1])[::-1]) / 2


def _spread(able: Sequence[tuple[ArchSpec, float]], most: int) -> tuple[ArchSpec, ...]:
    """At most `most` of them, their times spread evenly in ratio."""
    if len(able) <= most:
        return tuple(s for s, _ in able)
    ms = np.log([t for _, t in able])
    chosen: dict[int, None] = {}
    for at in np.linspace(ms[0], ms[-1], most):
        free = [i for i in range(len(able)) if i not in chosen]
        chosen[min(free, key=lambda i: abs(ms[i] - at))] = None
    return tuple(able[i][0] for i in sorted(chosen))


def steady_ms(runtime: Runtime, specs: Sequence[ArchSpec]) -> list[float]:
    """p10 of interleaved runs over two seconds: what is decided once decides the whole run."""
    runs = [runtime.network(s) for s in specs]
    samples = interleave(runs[1:], runs[0], rounds=6, min_s=STEADY_S, seed=0, threads=runtime.fingerprint.threads)
    return [samples.anchor_ms(), *(samples.ms(i) for i in range(len(specs) - 1))]


def sized_table(sizes: Sizes, runtime: Runtime, path: Path, minutes: float) -> Generator[Event, None, LatencyTable]:
    """A table of the layers of one network at all `sizes` and at several widths of each, calibrated on twelve of
    these networks; written to `path`."""
    exp_rule, tail_rule = width_rules(sizes.start.name)
    top = sizes.all[0]
    widths = [
        (f"{w:g}x{pixels(s.resolution)}", scale_spec(s, w, exp_rule=exp_rule, tail_rule=tail_rule))
        for s in sizes.all for w in WIDTHS
    ]  # fmt: skip
    some = [widths[i] for i in sorted({round(i) for i in np.linspace(0, len(widths) - 1, CALIBRATED)})]
    plan = BuildPlan(
        keys=tuple(dict.fromkeys(x.key for _, s in widths for x in lower(s))),
        calibration=tuple((f"calibration:@{label}", s) for label, s in some),
        reference=reference_at(1.0, top.resolution),
        about={
            "space": f"sizes of {sizes.start.name}", "space_id": "0" * 8, "width": 1.0,
            "resolution": pixels(top.resolution), "reference": REFERENCE,
        },
    )  # fmt: skip
    yield from build_table(runtime, plan, path, minutes=minutes)
    return LatencyTable.load(path)


def largest_within(
    specs: Sequence[ArchSpec], target_ms: float, latency: Latency
) -> tuple[ArchSpec, float, float] | None:
    """Of networks, the largest first, the first that takes at most `target_ms`, with its ms and standard error:
    measured where the device is at hand, else predicted. None where none does."""
    for spec in specs:
        whole = latency.measure(spec, 4)
        ms, error = (whole.ms, whole.error_ms) if whole is not None else (latency([spec])[0], 0.0)
        if ms <= target_ms:
            return spec, ms, error
    return None
