"""Which table a run uses: the cache's, a new one, or a file."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mbv3.errors import BadInput, Unreachable
from mbv3.events import Event, Note
from mbv3.files import cache_folder
from mbv3.latency import (
    ERROR,
    MINUTES,
    BuildPlan,
    Device,
    LatencyTable,
    Runtime,
    build_table,
    interleave,
    load_profile,
    noise_warning,
    open_runtime,
    profile_names,
    table_path,
)
from mbv3.netadapt.proposals import channels, cut, sites
from mbv3.pipeline.options import pixels
from mbv3.space import Genome, SearchSpace, scale, tabulate
from mbv3.space.additive import layer_keys
from mbv3.spec import ArchSpec, LayerKey, load_spec, lower, lower_key, scale_spec

__all__ = [
    "TABLE_MINUTES",
    "Latency",
    "Whole",
    "calibration_network",
    "choose_scale",
    "cut_network",
    "measure_whole",
    "open_table",
    "quick_ms",
    "random_networks",
    "read_table",
    "reference_at",
    "reference_of",
    "table_plan",
]

REFERENCE = "mobilenet_v3_large"
CALIBRATION_NETWORKS = 60
CUT_EVERY = 3  # one of so many is cut: without them what NetAdapt leaves was told lower still, by up to 2 %
KNOWN_ROWS = 48  # of the table, timed again beside rows that it lacks; each is off by some percent
WHOLE_S = 2.0  # seconds of a part
TABLE_MINUTES = 2.0  # of a run; `mbv3 latency build` beforehand gives it a table that was timed for longer
VERDICT_PARTS = 8  # a part is off by about 1.5 %, so their mean by 0.5 %


def reference_at(width: float, resolution: int | tuple[int, int], classes: int = 1000) -> ArchSpec:
    """The reference network (MobileNetV3-Large) at a scale."""
    res = (resolution, resolution) if isinstance(resolution, int) else resolution
    spec = scale_spec(load_spec(REFERENCE), width, res)
    return replace(spec, name=f"{REFERENCE}@{width:g}", head=replace(spec.head, classes=classes))


def reference_of(table: LatencyTable) -> ArchSpec:
    """The reference network that a table's times are told against."""
    ref = table.reference
    h, w = (int(v) for v in ref["resolution"])
    return reference_at(float(ref["width"]), (h, w), int(ref.get("classes", 1000)))


def random_networks(space: SearchSpace, n: int, seed: int, label: str) -> list[tuple[str, ArchSpec]]:
    """`n` random networks spread over the space's sizes, not only around its middle: every other one is drawn from
    the smaller half by MAdds."""
    rng = np.random.default_rng(seed)
    genomes = space.sample(rng, 8 * n)
    madds = tabulate(space, lambda k: lower_key(k).madds)(genomes)
    order = np.argsort(madds)
    picks = [*order[np.linspace(0, len(order) - 1, n - n // 2).astype(int)], *rng.permutation(len(order))]
    chosen = [tuple(int(v) for v in genomes[i]) for i in dict.fromkeys(int(p) for p in picks)]
    unique = list(dict.fromkeys(chosen))[:n]
    mixed = [unique[i] for i in rng.permutation(len(unique))]  # the first few of them are of all sizes too
    return [(f"{label}:{'-'.join(map(str, g))}", space.deployed(g)) for g in mixed]


def cut_network(spec: ArchSpec, seed: int) -> ArchSpec:
    """`spec` with half of its sites cut to any count of channels, as NetAdapt leaves them."""
    rng = np.random.default_rng(seed)
    for _ in range(len(sites(spec)) // 2):
        places = sites(spec)
        site = places[int(rng.integers(len(places)))]
        now = channels(spec, site)
        spec = cut(spec, site, int(rng.integers(min(now, max(8, now // 2)), now + 1))) or spec
    return spec


def calibration_network(space: SearchSpace, label: str) -> ArchSpec:
    """The network of the (scaled) space that `label` names: KIND:GENOME, or cut:SEED:GENOME for one that was cut."""
    kind, _, genome = label.partition(":")
    if kind != "cut":
        return space.deployed(space.genome(genome))
    seed, _, genome = genome.partition(":")
    return space.dress(cut_network(space.spec(space.genome(genome)), int(seed)))


def calibration_networks(space: SearchSpace) -> list[tuple[str, ArchSpec]]:
    """What a table of this (scaled) space is calibrated on."""
    drawn = random_networks(space, CALIBRATION_NETWORKS, 12345, "calibration")
    few = len(drawn) < CALIBRATION_NETWORKS  # of a small space each is timed as it is, too
    whole = [network for i, network in enumerate(drawn) if few or i % CUT_EVERY]
    thin = [f"cut:{i}:{label.partition(':')[2]}" for i, (label, _) in enumerate(drawn) if i % CUT_EVERY == 0]
    return whole + [(label, calibration_network(space, label)) for label in thin]


def space_id(space: SearchSpace) -> str:
    """Identity of a scaled space: everything that decides its layers."""
    text = repr(replace(space, source=""))
    if space.dense is not None:
        text += repr((space.dense, space.output_stride))
    return hashlib.sha256(text.encode()).hexdigest()


def table_plan(space: SearchSpace, **about: Any) -> BuildPlan:
    """What a table of this (scaled) space must hold."""
    classes = space.head.classes
    reference = reference_at(space.width, space.resolution, classes)
    calibration = calibration_networks(space)
    keys = (*layer_keys(space), *(x.key for _, spec in calibration for x in lower(spec)))
    return BuildPlan(
        keys=tuple(dict.fromkeys(keys)),
        calibration=tuple(calibration),
        reference=reference,
        about={
            "space": space.name,
            "space_id": space_id(space),
            "width": space.width,
            "resolution": pixels(space.resolution),
            "classes": classes,
            **({"head": list(space.dense), "output_stride": space.output_stride} if space.dense else {}),
            "reference": REFERENCE,
            **about,
        },
    )


def open_table(
    runtime: Runtime,
    plan: BuildPlan,
    *,
    rebuild: bool = False,
    error: float | None = None,
    minutes: float = MINUTES,
) -> Iterator[Event | LatencyTable]:
    """The cache's table for `plan`, built if it is not there. Yields events and at last the table.

    Where `error` is given, a table that is noisier and was timed for clearly less than `minutes` is measured anew."""
    path = table_path(cache_folder(), runtime.fingerprint, plan.about)
    if path.exists() and not rebuild:
        try:
            table = LatencyTable.load(path)
            table.require(runtime.fingerprint, str(path))
            date = (table.about or {}).get("date")
            if error is None or not _rougher(table, error, minutes):
                yield Note("table", f"using the latency table of {date} in {path} (--rebuild-table measures it anew)")
                if error is not None:
                    yield from noise_warning(table, error)
                yield table
                return
            yield Note("table", f"the latency table of {date} in {path} is noisier than asked for; it is measured anew")
        except BadInput as e:
            yield Note("table", f"{e}; it is measured anew", warning=True)
    yield from build_table(runtime, plan, path, error=ERROR if error is None else error, minutes=minutes)
    yield LatencyTable.load(path)


def _rougher(table: LatencyTable, error: float, minutes: float) -> bool:
    """Whether a table is noisier than asked for and was given clearly less time than is given now."""
    report = dict(table.report or {})
    noise = math.hypot(report.get("noise_floor", 0.0), report.get("layer_noise", 0.0))
    return bool(noise > error and report.get("seconds", 0.0) < 0.8 * 60 * minutes)


def read_table(path: str, runtime: str, threads: int, force: bool) -> tuple[LatencyTable, str | None]:
    """A table given as a file or by a profile's name, and a caveat where its times are not those of this device.

    Raises:
        BadInput: neither a table nor a profile.
        ForeignTable: it was measured on another device, runtime or thread count, unless `force`.
    """
    table = load_profile(path) if path in profile_names() else LatencyTable.load(path)
    if table.model is not None:
        return table, profile_caveat(table)
    about, f = dict(table.about or {}), table.fingerprint
    moved = _transferred(path, about["transferred"]) if "transferred" in about else None
    if moved is not None and f.runtime == "unknown":  # nobody can tell whether it is this device's
        return table, moved
    by = "a kit" if "kit" in about else "benchmark_model" if f.runtime_version.startswith("benchmark_model") else None
    if by:  # brought here on purpose
        return table, f"{path} was measured by {by} on {f}: times are of that device and nothing is timed here"
    here = open_runtime(runtime, threads).fingerprint
    differing = [name for name, _, _ in f.differences(here)]
    if not differing:
        return table, moved
    if not force:
        table.require(here, path)
    return table, f"forced: the latency table {path} was measured elsewhere ({', '.join(differing)} differ)"


def _transferred(path: str, moved: Mapping[str, Any]) -> str:
    return (
        f"{path} was fitted to {moved['fitted_on']} whole networks of its device; its layers' times are those on "
        f"{moved['cpu']}, {moved['runtime']}, {moved['threads']} thread(s), a factor for each kind of work"
    )


def profile_caveat(table: LatencyTable) -> str:
    """What must be said wherever a profile's times are shown."""
    about = dict(table.about or {})
    errors = [abs(float(n["error"])) for n in about.get("networks", ())]
    known = f"whole networks as published are off by {min(errors):.0f} to {max(errors):.0f} %" if errors else (
        f"blocks held out are off by {about['blocks']['rmspe']:.1f} % RMSPE, no whole network is published"
    )  # fmt: skip
    return f"{about['profile']}: every time is estimated from published measurements, nothing was timed; {known}"


# ---- scale ---------------------------------------------------------------------------------------------------


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


def _typical(space: SearchSpace) -> Genome:
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
    quick_ms: Callable[[Sequence[ArchSpec]], list[float]],
    space: SearchSpace,
    width: float | None,
    pinned: tuple[int, int] | None,
    target_ms: float,
    seed_ratio: float,
    classes: int | None,
    most_pixels: int | None,
) -> Scale:
    """The scale of a run: `width` as asked, else the one at which a typical network of the space takes
    `target_ms * seed_ratio`, at the `pinned` resolution if there is one. `quick_ms`: the device's times of
    networks, a few runs or a prediction.

    Raises:
        Unreachable: the target lies outside what the networks of the space take at that scale.
    """
    if width is not None:
        scaled = scale(space, width, pinned, classes)
        why = f"scale {width:g}x{pixels(scaled.resolution)} as asked"
    else:
        aim = target_ms * seed_ratio
        base = scale(space, 1.0, pinned, classes)
        typical = _typical(base)

        def cost(s: SearchSpace) -> float:
            return float(sum(lower_key(k).madds for k in _keys(s.deployed(typical))))

        choices = _path(most_pixels, pinned)
        spaces = [scale(space, w, r, classes) for w, r in choices]
        costs = np.array([cost(s) for s in spaces])
        [reference_ms, ms] = quick_ms([reference_at(1.0, base.resolution), base.deployed(typical)])
        per = ms / cost(base)
        at = 0
        for _ in range(4):
            new = int(np.argmin(np.abs(np.log(costs * per / aim))))
            if new == at and per != ms / cost(base):
                break
            at = new
            [ms] = quick_ms([spaces[at].deployed(typical)])
            per = ms / costs[at]
            if abs(ms / aim - 1) < 0.1:
                break
        scaled = spaces[at]
        why = (
            f"MobileNetV3-Large takes {reference_ms:.1f} ms at {pixels(base.resolution)} px; a {target_ms:g} ms budget "
            f"suits width {scaled.width:g} at {pixels(scaled.resolution)} px"
        )
    madds = tabulate(scaled, lambda k: lower_key(k).madds)
    ends = [scaled.deployed(madds.extreme(largest)[1]) for largest in (False, True)]
    smallest, largest = quick_ms(ends)
    check_range(target_ms, smallest, largest, scaled, width is not None)
    return Scale(scaled, why)


def _keys(spec: ArchSpec) -> list[LayerKey]:
    from mbv3.spec import lower

    return [x.key for x in lower(spec)]


def check_range(target_ms: float, smallest: float, largest: float, space: SearchSpace, fixed: bool) -> None:
    """Raises: Unreachable when no network of the space is near the target."""
    if smallest <= target_ms <= largest:
        return
    cure = "; --scale auto fits the space to the target" if fixed else "; another --space or device may reach it"
    raise Unreachable(
        f"a target of {target_ms:g} ms cannot be met: networks of space {space.name} at width {space.width:g}, "
        f"{pixels(space.resolution)} px take {smallest:.3g} to {largest:.3g} ms on this device{cure}",
        smallest,
        largest,
    )


# ---- one network timed whole --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Whole:
    """A network timed whole: its ms, their standard error, the reference's raw ms in the same rounds."""

    ms: float
    error_ms: float
    raw_reference_ms: float

    @property
    def most_ms(self) -> float:
        """What it takes at most, but for chance: two standard errors above `ms`."""
        return self.ms + 2 * self.error_ms


def measure_whole(device: Device, spec: ArchSpec, parts: int = VERDICT_PARTS) -> Whole:
    """`spec` timed whole on `parts` sessions, twelve rounds or more each, fewer of a slow network."""
    measured = device.networks([spec], parts=parts, seed=parts, max_s=WHOLE_S)
    return Whole(measured.ms[0], measured.errors_ms[0], measured.raw_reference_ms)


# ---- predictions ---------------------------------------------------------------------------------------------


class Latency:
    """Latency of any network for a run: from the table, missing layers measured where the device is at hand and
    estimated where it is not; corrected by whole-network measurements of the networks that the run is near."""

    def __init__(
        self,
        table: LatencyTable,
        device: Device | None,
        dress: Callable[[ArchSpec], ArchSpec] = lambda spec: spec,
        *,
        passes: int = 1,
    ) -> None:
        self.table = table
        self.device = device
        self.dress = dress  # what makes the network that is deployed, and timed, of a classifier
        self.passes = passes  # over rows measured on demand
        self.correction = 1.0
        most = max((t.n for t in table.layers.values()), default=0)  # those of the table's build, not rows on demand
        by_time = sorted((k for k, t in table.layers.items() if 2 * t.n >= most), key=table.hot_ms)
        ms = np.log([table.hot_ms(k) for k in by_time])
        evenly = np.linspace(ms[0], ms[-1], KNOWN_ROWS) if by_time else ()  # of all sizes
        self._known = {by_time[i]: table.hot_ms(by_time[i]) for i in (int(np.abs(ms - at).argmin()) for at in evenly)}

    @property
    def fine(self) -> int:
        """Grain in channels at which cliffs can be seen."""
        return 2 if self.device is not None else 0

    def __call__(self, specs: Sequence[ArchSpec]) -> list[float]:
        """Predicted ms of each network; layers that the table lacks are measured first, interleaved.

        By default in one pass, where the table takes more: NetAdapt asks for hundreds at a time and compares
        neighbouring counts of one layer, whose times it makes monotone.
        """
        if self.device is not None:
            missing = list(dict.fromkeys(k for s in specs for k in self.table.missing(s)))
            self.table = self.table.with_layers(self.device.layers(missing, self._known, passes=self.passes))
        out = []
        for spec in specs:
            prediction = self.table.predict(spec, estimate=self.device is None)
            out.append(prediction.ms * self.correction)
        return out

    def measure(self, spec: ArchSpec, parts: int) -> Whole | None:
        """`spec` timed whole on `parts` sessions; None without a device."""
        return None if self.device is None else measure_whole(self.device, spec, parts)

    def correct(self, spec: ArchSpec, measured_ms: float) -> None:
        """From here on predictions are scaled so that `spec` is predicted as it was measured."""
        self.correction *= measured_ms / self([spec])[0]
