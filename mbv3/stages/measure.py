"""Measuring stages: the table of one network's widths, and the reference networks beside a found one."""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mbv3.errors import BadInput, Unreachable
from mbv3.events import Event
from mbv3.latency import BuildPlan, LatencyTable, Runtime, build_table
from mbv3.spec import ArchSpec, Site, load_spec, lower, pixels, scale_spec, smallest, width_rules
from mbv3.stages.scale import quick_ms
from mbv3.tables import REFERENCE, TABLE_MINUTES, Latency, reference_at

__all__ = ["REFERENCES", "ReferenceTime", "check_reach", "fast_enough", "network_table", "reference_times"]

WIDTHS = (0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1)
UNSURE = 0.05  # of a time from six runs; what is nearer is measured first
REFERENCES = ("mobilenet_v3_large", "mobilenet_v3_small")
REFERENCE_PARTS, REFERENCE_S = 2, 3.0  # of their times, and seconds of a part


@dataclass(frozen=True, slots=True)
class ReferenceTime:
    """A published network at a width, and its ms: measured where the device is at hand, else predicted."""

    name: str
    ms: float


def network_table(
    spec: ArchSpec, runtime: Runtime, path: Path, minutes: float = TABLE_MINUTES
) -> Generator[Event, None, LatencyTable]:
    """A table of the layers of `spec` and of twelve widths of it, on which it is calibrated; written to `path`."""
    exp_rule, tail_rule = width_rules(spec.name)
    relatives = [scale_spec(spec, w, exp_rule=exp_rule, tail_rule=tail_rule) for w in WIDTHS]
    plan = BuildPlan(
        keys=tuple(x.key for s in [spec, *relatives] for x in lower(s)),
        calibration=tuple((f"calibration:@{w:g}", s) for w, s in zip(WIDTHS, relatives, strict=True)),
        reference=reference_at(1.0, spec.resolution),
        about={
            "space": f"widths of {spec.name}", "space_id": "0" * 8, "width": 1.0, "resolution": pixels(spec.resolution),
            "reference": REFERENCE,
        },
    )  # fmt: skip
    yield from build_table(runtime, plan, path, minutes=minutes)
    return LatencyTable.load(path)


def fast_enough(spec: ArchSpec, now: float, target_ms: float, least: float) -> Unreachable:
    """The error where nothing needs shrinking."""
    return Unreachable(
        f"{spec.name} already takes {now:.3g} ms, under the target of {target_ms:g} ms; NetAdapt only shrinks",
        least,
        now,
    )


def check_reach(spec: ArchSpec, target_ms: float, runtime: Runtime, some: Collection[Site] | None = None) -> None:
    """A few runs of `spec` and of its smallest cut, at the sites of NetAdapt or `some`, before anything is measured
    long or trained.

    Raises:
        BadInput: nothing of the network can be cut.
        Unreachable: the network is clearly under the target, or no cut leads to it.
    """
    end = smallest(spec, some)
    if end == spec:
        raise BadInput(f"{spec.name}: has nothing to cut: no site has more than the fewest channels that its rows "
                       "allow; give a wider network, or --only and --keep that leave more")  # fmt: skip
    now, least = quick_ms(runtime, [spec, end])
    if now <= (1 - UNSURE) * target_ms:
        raise fast_enough(spec, now, target_ms, least)
    if least > (1 + UNSURE) * target_ms:
        raise Unreachable(
            f"a target of {target_ms:g} ms cannot be met: {spec.name} takes {now:.3g} ms and, cut to 8 channels "
            f"everywhere, still {least:.3g} ms on this device; a smaller input resolution may reach it",
            least,
            now,
        )


def reference_times(found: ArchSpec, width: float, latency: Latency) -> Sequence[ReferenceTime]:
    """MobileNetV3-Large and -Small at `width`, with the resolution, classes and head of `found`."""
    specs: list[ArchSpec] = []
    for name in REFERENCES:
        ref = scale_spec(load_spec(name), width, found.resolution)
        specs.append(latency.dress(replace(ref, head=replace(ref.head, classes=found.head.classes))))
    if latency.device is None:
        ms = latency.rough(1.0)(specs)
    else:
        ms = list(latency.device.networks(specs, parts=REFERENCE_PARTS, max_s=REFERENCE_S).ms)
    return [ReferenceTime(f"{name}@{width:g}", t) for name, t in zip(REFERENCES, ms, strict=True)]
