"""`mbv3 netadapt SPEC --target-ms T`: NetAdapt on any network, named, found or hand-written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mbv3 import __version__
from mbv3.data import peek_class_folder
from mbv3.errors import Unreachable
from mbv3.events import Event, Note
from mbv3.latency import BuildPlan, Device, LatencyTable, build_table, open_runtime
from mbv3.netadapt import smallest
from mbv3.runs.find import conclude, guarded
from mbv3.runs.options import Options
from mbv3.runs.rundir import RunDir, file_sha256, versions
from mbv3.space import load_space, scale
from mbv3.spec import ArchSpec, dump_spec, lower, parse_spec, scale_spec, width_rules
from mbv3.stages.judge import Judge, load_images
from mbv3.stages.scale import quick_ms
from mbv3.tables import TABLE_MINUTES, Latency, reference_at, reference_of

__all__ = ["alone_stages", "netadapt_alone"]

_WIDTHS = (0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1)


def netadapt_alone(spec: ArchSpec, target_ms: float, out: str | None, **options: Any) -> Iterator[Event]:
    """Shrink `spec` to `target_ms`. Yields events, at last Done with run.json's contents.

    Its table holds the network's own layers, calibrated on twelve widths of it.

    Raises:
        BadInput: an option cannot be used.
        Unreachable: the network is already faster than the target.
    """
    o = Options.of({"target_ms": target_ms, **options})
    if o.data is not None:
        peek_class_folder(Path(o.data))  # before anything is made
    path = Path(out) if out else Path("runs") / f"netadapt-{spec.name}-{target_ms:g}ms"
    command = f"mbv3 netadapt {spec.name} --target-ms {target_ms:g}"
    run = RunDir.create(
        path,
        {
            "version": __version__, "command": command, "args": o.as_dict(), "target_ms": target_ms,
            "versions": versions(), "seeds": {"search": o.seed}, "hashes": {}, "plan": {}, "network": dump_spec(spec),
        },
    )  # fmt: skip
    yield Note("run", f"run directory {run.path}")
    yield from guarded(run, alone_stages(o, run))


def _fast_enough(spec: ArchSpec, now: float, target_ms: float, least: float) -> Unreachable:
    return Unreachable(
        f"{spec.name} already takes {now:.3g} ms, under the target of {target_ms:g} ms; NetAdapt only shrinks",
        least,
        now,
    )


UNSURE = 0.05  # of a time from six runs; what is nearer is measured first


def _check_reach(spec: ArchSpec, target_ms: float, ms: Sequence[float]) -> None:
    """`ms`: of `spec` and of its smallest cut. Raises: Unreachable, before anything is measured long or trained."""
    now, least = ms
    if now <= (1 - UNSURE) * target_ms:
        raise _fast_enough(spec, now, target_ms, least)
    if least > (1 + UNSURE) * target_ms:
        raise Unreachable(
            f"a target of {target_ms:g} ms cannot be met: {spec.name} takes {now:.3g} ms and, cut to 8 channels "
            f"everywhere, still {least:.3g} ms on this device; a smaller input resolution may reach it",
            least,
            now,
        )


def alone_stages(o: Options, run: RunDir) -> Iterator[Event]:
    """The stages of `netadapt_alone`, each resumable."""
    spec = parse_spec(run.record["network"], "run.json: network")
    runtime = open_runtime(o.runtime, o.threads)
    if "seed_ms" not in run.record:
        _check_reach(spec, o.target_ms, quick_ms(runtime, [spec, smallest(spec)]))
    with run.stage("images"):
        images = load_images(o, scale(load_space("mobilenetv3"), 1.0, spec.resolution))
    with run.stage("table"):
        exp_rule, tail_rule = width_rules(spec.name)
        relatives = [scale_spec(spec, w, exp_rule=exp_rule, tail_rule=tail_rule) for w in _WIDTHS]
        keys = tuple(x.key for s in [spec, *relatives] for x in lower(s))
        reference = reference_at(1.0, spec.resolution)
        about = {
            "space": f"widths of {spec.name}", "space_id": "0" * 8, "width": 1.0, "resolution": spec.resolution[0],
            "reference": "mobilenet_v3_large",
        }  # fmt: skip
        plan = BuildPlan(
            keys=keys,
            calibration=tuple((f"calibration:@{w:g}", s) for w, s in zip(_WIDTHS, relatives, strict=True)),
            reference=reference,
            about=about,
        )
        own = run.path / "latency-table.csv"
        if not own.exists():
            yield from build_table(runtime, plan, own, minutes=TABLE_MINUTES)
        table = LatencyTable.load(own)
        device = Device(runtime, reference_of(table), table.reference_ms)
    latency = Latency(table, device)
    measured = latency.measure(spec, 4)
    assert measured is not None
    if "seed_ms" not in run.record and measured.ms <= o.target_ms:
        raise _fast_enough(spec, measured.ms, o.target_ms, 0.0)
    run.write("seed.yaml", dump_spec(spec))
    note = "NetAdapt's own accuracy after short fine-tuning"
    run.save(
        scale={"space": spec.name, "width": 1.0, "resolution": spec.resolution[0], "why": "the network's own size"},
        device=runtime.fingerprint.as_dict(),
        reference_ms=table.reference_ms,
        reference=f"mobilenet_v3_large@1, {spec.resolution[0]} px",
        seed_ms=measured.ms,
        accuracy={"value": None, "kind": "netadapt", "unit": "%", "note": note},
    )
    run.record["hashes"].setdefault("table", file_sha256(own))
    seed = replace(spec, provenance=())
    yield from conclude(o, run, (), seed, Judge("netadapt", note), images, latency)
