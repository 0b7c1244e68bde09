"""`mbv3 latency ACTION`: tables of this CPU and of others. Rooms are imported where they are needed."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbv3.cli.asked import HEAD_FLAGS, network
from mbv3.cli.say import columns, dump, out, warn
from mbv3.errors import BadInput
from mbv3.spec import ArchSpec, load_spec, parse_resolution

if TYPE_CHECKING:
    from mbv3.latency import LatencyTable
    from mbv3.space import SearchSpace

__all__ = ["run_latency"]


def run_latency(args: Namespace) -> int:
    """Run the action of parsed arguments; the exit code."""
    if getattr(args, "device", None) == "":
        raise BadInput("--device is empty; name a device, or leave it out for this CPU")
    if getattr(args, "seed", 0) < 0:
        raise BadInput(f"--seed must not be negative (got {args.seed})")
    return _ACTIONS[args.action](args)


def _space_of(table: LatencyTable, given: str) -> SearchSpace:
    """The scaled space that a table was built for; `given`, from --space, where the table's bears its name."""
    from mbv3.space import load_space, scale, under_head
    from mbv3.tables import space_id

    about = dict(table.about or {})
    try:
        base = load_space(given)
        if base.name != about["space"]:
            base = load_space(str(about["space"]))
        resolution = parse_resolution(str(about["resolution"]))
        space = scale(base, float(about["width"]), resolution, int(about["classes"]))
        if "head" in about:
            head, classes = about["head"]
            space = under_head(space, head, classes, about["output_stride"])
    except (KeyError, BadInput) as e:
        raise BadInput(
            f"the table does not say a space that is known here ({e}); give --space FILE, or check where it was built"
        ) from None
    if space_id(space) != about.get("space_id"):
        raise BadInput(f"the table was built for another space of the name {space.name!r}; build it anew")
    return space


def _scaled_space(args: Namespace) -> SearchSpace:
    from mbv3.space import load_space, parse_scale, scale

    fixed = parse_scale(args.scale)
    if fixed is None:
        raise BadInput("--scale auto needs a target; give 1 or WIDTHxRESOLUTION here")
    return scale(load_space(args.space), fixed[0], fixed[1] or None)


def _table(args: Namespace, **how: Any) -> tuple[LatencyTable, str | None]:
    """The table that the arguments name: a file, or the cache's, built if it is not there; and what must be said
    wherever its figures are, said here once to whoever watches."""
    from mbv3.cli.show_events import follow
    from mbv3.latency import open_runtime
    from mbv3.tables import open_table, read_table, table_plan

    if args.device:
        table, caveat = read_table(args.device, args.runtime, args.threads, args.force_table)
        if caveat:
            warn(caveat)
        return table, caveat
    runtime = open_runtime(args.runtime, args.threads)
    return follow(open_table(runtime, table_plan(_scaled_space(args)), **how)), None


def _report_lines(report: dict[str, Any]) -> list[str]:
    lines = [
        f"RMSPE {report['rmspe']} %, bias {report['bias']:+} %, within 5 % {report['within_5']} %, within 10 % "
        f"{report['within_10']} %, Spearman {report['spearman']}, n {report['n']}",
    ]
    if report.get("noise_floor") is not None:
        layers = f", of the layers' sums {report['layer_noise']} %" if "layer_noise" in report else ""
        lines.append(f"noise floor of the networks' measurement: RMSPE {report['noise_floor']} %{layers}")
    for name, b in report.get("baselines", {}).items():
        lines.append(f"  {name}: RMSPE {b['rmspe']} %, within 5 % {b['within_5']} %, Spearman {b['spearman']}")
    return lines


def _kit(args: Namespace) -> int:
    from mbv3.latency import kit_files, write_kit
    from mbv3.tables import table_plan

    plan = table_plan(_scaled_space(args))
    files = kit_files(plan, args.runtime, args.threads, error=args.error, minutes=args.minutes)
    path = Path(args.out)
    write_kit(files, path)
    size = sum(map(len, files.values()))
    if args.json:
        dump({"out": args.out, "layers": len(plan.keys), "networks": len(plan.calibration), "bytes": size})
        return 0
    out(f"{path}: {len(plan.keys)} layers and {len(plan.calibration)} networks, {size / 1e6:.1f} MB")
    out("copy it to the device and run there: python3 run.py")
    out(f"bring results.jsonl back and run here: mbv3 latency import {path} results.jsonl --out table.csv")
    return 0


def _import(args: Namespace) -> int:
    from mbv3.latency import import_kit, noise_warning

    table = import_kit(Path(args.kit), Path(args.results))
    table.save(Path(args.out))
    for note in noise_warning(table):
        warn(note.text)
    return _told(table, args)


def _build(args: Namespace) -> int:
    over_adb = bool(args.device) and args.device.startswith("adb:")
    if args.benchmark is not None and not over_adb:
        raise BadInput(
            "--benchmark is for --device adb:SERIAL; other devices are timed by the runtime's Python package"
        )
    if args.device:
        return _told(_table_from_afar(args, over_adb), args)
    table, _ = _table(args, rebuild=args.rebuild, error=args.error, minutes=args.minutes)
    if args.out:
        table.save(Path(args.out))
    return _told(table, args)


def _table_from_afar(args: Namespace, over_adb: bool) -> LatencyTable:
    from mbv3.cli.show_events import follow
    from mbv3.latency import measure_over_adb, measure_over_ssh
    from mbv3.tables import table_plan

    if not args.out:
        raise BadInput("--out TABLE.csv is needed with --device: where the device's table goes")
    plan, path = table_plan(_scaled_space(args)), Path(args.out)
    how = {"error": args.error, "minutes": args.minutes}
    if over_adb:
        events = measure_over_adb(args.device, args.benchmark, plan, args.runtime, args.threads, path, **how)
    else:
        events = measure_over_ssh(args.device, plan, args.runtime, args.threads, path, **how)
    table: LatencyTable = follow(events)
    return table


def _told(table: LatencyTable, args: Namespace) -> int:
    """Say what a table holds."""
    moved = (table.about or {}).get("transferred")
    if args.json:
        told = {"layers": len(table.layers), "reference_ms": table.reference_ms, "report": table.report}
        dump({**told, **({"transferred": moved} if moved else {}), "out": args.out})
        return 0
    ref = table.reference
    out(f"{len(table.layers)} layers on {table.fingerprint}")
    out(f"reference {ref['spec']}@{ref['width']:g}, {ref['resolution'][0]} px: {table.reference_ms:.3f} ms")
    if moved:
        factors = ", ".join(f"{work} {factor:.2f}" for work, factor in moved["factors"].items())
        out(f"ms over those on {moved['cpu']}, {moved['runtime']}, {moved['threads']} thread(s): {factors}")
    if table.report:
        out(f"trust ({table.report['how']}):")
        out("\n".join(_report_lines(dict(table.report))))
    if args.out:
        out(args.out)
    return 0


def _check_count(networks: int) -> None:
    if not 4 <= networks <= 1000:
        raise BadInput(f"--networks must be from 4 to 1000 (got {networks})")


def _plot_kind(path: str | None) -> str | None:
    """What kind of figure is asked for, before anything is timed."""
    from mbv3.files import writable

    if path is None:
        return None
    kind = Path(path).suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise BadInput(f"--plot must name a .png, .svg or .pdf file (got {path})")
    writable(Path(path))
    return kind


def _check(args: Namespace) -> int:
    from mbv3.latency import check_minutes, open_runtime
    from mbv3.tables import check

    _check_count(args.networks)
    check_minutes(args.minutes)
    kind = _plot_kind(args.plot)
    table, caveat = _table(args)
    runtime = open_runtime(args.runtime, args.threads)
    if not args.force_table:  # a table of another device, however it came here, cannot be checked on this one
        table.require(runtime.fingerprint, args.device or "the table")
    report = check(runtime, table, _space_of(table, args.space), args.networks, args.seed, args.minutes)
    if args.json:
        dump({**report, "caveat": caveat})
    else:
        _say_check(report)
        if caveat:
            out(f"but: {caveat}")
    if kind:
        from mbv3.files import write_atomic
        from mbv3.report import check_plot

        write_atomic(Path(args.plot), check_plot(report, str(runtime.fingerprint), kind, caveat))
    return 0


def _say_check(report: dict[str, Any]) -> None:
    out("\n".join(_report_lines(report)))
    worst = report["worst"]
    out(f"worst: {worst['network']}, {worst['predicted_ms']:.3f} ms predicted, {worst['measured_ms']:.3f} measured")
    built = report["as_built"]
    anew = (
        f"calibrated anew with {report['calibrated_on']} of the table's calibration networks timed again in the same "
        "rounds, beside all as the build timed them"
    )
    out(
        f"{anew if report['calibrated_on'] else 'with the calibration as it is'}; as built: RMSPE {built['rmspe']} %, "
        f"bias {built['bias']:+} %, within 5 % {built['within_5']} %, Spearman {built['spearman']}"
    )
    out(
        f"since the table was built this machine changed by {report['drift']:+.1f} % against the reference network, "
        f"which itself changed by {report['reference_drift']:+.1f} %"
    )


def _measure(args: Namespace) -> int:
    from mbv3.latency import Device, open_runtime
    from mbv3.tables import measure_whole, reference_at

    if (args.spec is None) == (args.like is None):
        raise BadInput("give one SPEC, or --like TABLE.csv for networks of its space")
    if args.spec is not None and args.out is not None:
        raise BadInput("--out: a list of times comes from --like TABLE.csv; the time of one SPEC is printed")
    if args.like is not None:
        if given := [f"--{n.replace('_', '-')}" for n in HEAD_FLAGS if getattr(args, n) is not None]:
            raise BadInput(f"{', '.join(given)}: belongs to a SPEC; the table says what --like is of")
        return _measure_many(args)
    spec = network(args)
    runtime = open_runtime(args.runtime, args.threads)
    measured = measure_whole(Device(runtime, reference_at(1.0, 224), 1.0), spec)  # told in reference times
    now = measured.raw_reference_ms
    value = {"ms": measured.ms * now, "error_ms": measured.error_ms * now, "reference_ms": now, "estimated": False}
    if args.json:
        dump(value)
    else:
        out(
            f"{value['ms']:.3f} ms: {measured.ms:.4f} +- {measured.error_ms:.4f} of MobileNetV3-Large at 224 px, "
            f"which took {now:.3f} ms in the same rounds"
        )
    return 0


def _measure_many(args: Namespace) -> int:
    from mbv3.files import writable, write_atomic
    from mbv3.latency import Device, LatencyTable, MeasuredNetworks, check_minutes, open_runtime
    from mbv3.tables import reference_of, space_id, telling_networks

    if not args.out:
        raise BadInput("--out NETS.csv is needed with --like: where the times go")
    _check_count(args.networks)
    check_minutes(args.minutes)
    writable(Path(args.out))
    table = LatencyTable.load(args.like)
    space = _space_of(table, args.space)
    nets = telling_networks(table, space, args.networks, args.seed)
    runtime = open_runtime(args.runtime, args.threads)
    device = Device(runtime, reference_of(table))
    measured = device.networks([spec for _, spec in nets], more_s=60 * args.minutes, max_s=15 * args.minutes)
    times = tuple(zip((label for label, _ in nets), measured.ms, strict=True))
    told = MeasuredNetworks(times, runtime.fingerprint, device.reference_ms, space_id(space))
    write_atomic(Path(args.out), told.dumps())
    if args.json:
        dump({"n": len(nets), "noise_floor": measured.noise_floor, "out": args.out})
    else:
        out(f"{len(nets)} networks, noise floor {measured.noise_floor} %, {args.out}")
    return 0


def _transfer(args: Namespace) -> int:
    from mbv3.latency import Fingerprint, LatencyTable, read_networks, transfer
    from mbv3.tables import calibration_network, reference_of, space_id

    table = LatencyTable.load(args.table)
    space = _space_of(table, args.space)
    measured = read_networks(Path(args.measured))
    if measured.space_id not in (None, space_id(space)):
        raise BadInput(
            f"{args.measured}: its networks are of another space or scale than {args.table} is of ({space.name}, "
            f"{space.resolution[0]}x{space.resolution[1]} px); measure with --like {args.table}"
        )
    if args.name and measured.fingerprint is not None:
        raise BadInput(f"--name {args.name!r}: {args.measured} says itself of which device it is; leave --name out")

    def named(name: str) -> ArchSpec:
        ours = name.startswith(("check:", "calibration:", "cut:"))
        return calibration_network(space, name) if ours else load_spec(name)

    unknown = Fingerprint(
        cpu=args.name or f"of {args.measured}", vector="", cores=1, system="", kernel="", governor="",
        runtime="unknown", runtime_version="", threads=1,
    )  # fmt: skip
    nets = [(name, named(name), ms) for name, ms in measured.times]
    reference = (reference_of(table), measured.reference_ms)
    moved = transfer(table, nets, measured.fingerprint or unknown, reference, args.fit)
    moved.save(Path(args.out))
    return _told(moved, args)


def _devices(args: Namespace) -> int:
    from mbv3.latency import load_profile, open_runtime, profile_names

    here = open_runtime("onnxruntime", 1).fingerprint
    tables = {name: load_profile(name) for name in profile_names()}
    abouts = {name: dict(table.about or {}) for name, table in tables.items()}
    if args.json:
        value: dict[str, Any] = {"this-cpu": {"cpu": here.cpu, "estimated": False}}
        for name, about in abouts.items():
            more = {k: about[k] for k in ("source", "blocks", "networks")}
            value[name] = {"cpu": tables[name].fingerprint.cpu, "estimated": True, **more}
        dump(value)
        return 0
    out(f"this-cpu: {here.cpu}, measured")
    for name, about in abouts.items():
        table, blocks = tables[name], about["blocks"]
        f = table.fingerprint
        out(f"{name}: {f.cpu}, {f.runtime} of {f.runtime_version}, estimated from published measurements")
        out(
            f"  blocks held out by channel pair: RMSPE {blocks['rmspe']:.1f} %, within 10 % {blocks['within_10']} %, "
            f"Spearman {blocks['spearman']:.3f}, n {blocks['n']}"
        )
        if about["networks"]:
            out("  whole networks, not used in the fit but for what h-swish adds to V3-Large:")
            rows = [["network", "published ms", "predicted ms", "error %", "published in"]]
            for n in about["networks"]:
                times = (f"{n['published_ms']:g}", f"{n['predicted_ms']:.1f}", f"{n['error']:+.1f}")
                rows.append([n["network"], *times, n["published_in"]])
            out("\n".join("    " + line for line in columns(rows).split("\n")))
        else:
            out("  no whole network is published for it, so its error on networks is not known")
        out("\n".join(f"  from {s}" for s in about["source"]))
    return 0


def _predict(args: Namespace) -> int:
    spec = network(args)
    table, caveat = _table(args)
    if not args.device and table.missing(spec):  # the device is at hand: what the table lacks is measured
        from mbv3.latency import Device, open_runtime
        from mbv3.tables import Latency, reference_of

        runtime = open_runtime(args.runtime, args.threads)
        latency = Latency(table, Device(runtime, reference_of(table), table.reference_ms), passes=6)
        latency([spec])
        table = latency.table
    p = table.predict(spec, estimate=True)
    if args.json:
        dump(
            {
                "ms": p.ms,
                "reference_ms": table.reference_ms,
                "estimated": p.estimated > 0,
                "estimated_rows": p.estimated,
                "caveat": caveat,
            }
        )
        return 0
    out(f"{p.ms:.3f} ms predicted on {table.fingerprint.cpu}")
    if caveat:
        out(f"but: {caveat}")
    if p.estimated:
        out(f"{p.estimated} of {len(p.rows)} rows are not in the table and are estimated by its cost model, "
             f"whose held-out error is {table.cost_model.error} % RMSPE a row")  # fmt: skip
    return 0


_ACTIONS: dict[str, Callable[[Namespace], int]] = {
    "build": _build,
    "check": _check,
    "measure": _measure,
    "predict": _predict,
    "devices": _devices,
    "transfer": _transfer,
    "kit": _kit,
    "import": _import,
}
