"""`mbv3 latency ACTION`: read arguments, call one function of mbv3.tables, show its events, print its result."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbv3.cli.network import HEAD_FLAGS, network
from mbv3.cli.printing import columns, dump, out, warn
from mbv3.cli.show_events import follow
from mbv3.errors import BadInput
from mbv3.files import writable, write_atomic

if TYPE_CHECKING:
    from mbv3.latency import CheckReport, LatencyTable
    from mbv3.tables import OpenTable, Profile

__all__ = ["run_latency"]


def run_latency(args: Namespace) -> int:
    """Run the action of parsed arguments; the exit code."""
    if getattr(args, "device", None) == "":
        raise BadInput("--device is empty; name a device, or leave it out for this CPU")
    if getattr(args, "seed", 0) < 0:
        raise BadInput(f"--seed must not be negative (got {args.seed})")
    return _ACTIONS[args.action](args)


# ---- tables


def _build(args: Namespace) -> int:
    from mbv3.tables import build_remote, scaled_space, table_plan

    over_adb = bool(args.device) and args.device.startswith("adb:")
    if args.benchmark is not None and not over_adb:
        raise BadInput("--benchmark is for --device adb:SERIAL; other devices use the Python package of the runtime")
    limits = {"error": args.error, "minutes": args.minutes}
    if not args.device:
        table = _choose(args, device=None, rebuild=args.rebuild, **limits).table
        if args.out:
            table.save(Path(args.out))
        return _print_table(table, args)
    if not args.out:
        raise BadInput("--out TABLE.csv is needed with --device: where the table of the device is written")
    plan = table_plan(scaled_space(args.space, args.scale))
    events = build_remote(
        args.device, plan, args.runtime, args.threads, Path(args.out), benchmark=args.benchmark, **limits
    )
    return _print_table(follow(events), args)


def _kit(args: Namespace) -> int:
    from mbv3.tables import scaled_space, write_space_kit

    space = scaled_space(args.space, args.scale)
    kit = write_space_kit(
        space, Path(args.out), args.runtime, args.threads, error=args.error, minutes=args.minutes
    )  # fmt: skip
    if args.json:
        dump({"out": args.out, "layers": kit.layers, "networks": kit.networks, "bytes": kit.size_bytes})
        return 0
    out(f"{kit.path}: {kit.layers} layers and {kit.networks} networks, {kit.size_bytes / 1e6:.1f} MB")
    out("copy it to the device and run there: python3 run.py")
    out(f"copy results.jsonl back and run here: mbv3 latency import {kit.path} results.jsonl --out table.csv")
    return 0


def _import(args: Namespace) -> int:
    from mbv3.latency import import_kit, noise_warning

    table = import_kit(Path(args.kit), Path(args.results))
    table.save(Path(args.out))
    for note in noise_warning(table):
        warn(note.text)
    return _print_table(table, args)


def _transfer(args: Namespace) -> int:
    from mbv3.latency import LatencyTable, read_networks
    from mbv3.tables import space_of, transfer_list

    table = LatencyTable.load(args.table)
    space = space_of(table, args.space)
    measured = read_networks(Path(args.measured))
    moved = transfer_list(table, space, measured, device=args.name, fit=args.fit, source=args.measured)
    moved.save(Path(args.out))
    return _print_table(moved, args)


def _choose(args: Namespace, device: str | None, **how: Any) -> OpenTable:
    from mbv3.tables import choose_table

    found: OpenTable = follow(
        choose_table(device, args.runtime, args.threads, space=args.space, scale=args.scale, **how)
    )
    return found


def _print_table(table: LatencyTable, args: Namespace) -> int:
    transferred = (table.about or {}).get("transferred")
    if args.json:
        value = {"layers": len(table.layers), "reference_ms": table.reference_ms, "report": table.report}
        dump({**value, **({"transferred": transferred} if transferred else {}), "out": args.out})
        return 0
    ref = table.reference
    out(f"{len(table.layers)} layers on {table.fingerprint}")
    out(f"reference {ref['spec']}@{ref['width']:g}, {ref['resolution'][0]} px: {table.reference_ms:.3f} ms")
    if transferred:
        t, factors = transferred, (f"{work} {factor:.2f}" for work, factor in transferred["factors"].items())
        out(f"ms relative to {t['cpu']}, {t['runtime']}, {t['threads']} thread(s): {', '.join(factors)}")
    if table.report:
        out(f"errors ({table.report['how']}):")
        out("\n".join(_report_lines(table.report)))
    if args.out:
        out(args.out)
    return 0


# ---- measurements


def _check(args: Namespace) -> int:
    from mbv3.latency import check_minutes, open_runtime
    from mbv3.tables import check, check_count, space_of

    check_count(args.networks)  # these before a table is built for it
    check_minutes(args.minutes)
    plot_format = _plot_format(args.plot)
    opened = _choose(args, args.device, force=args.force_table)
    runtime = opened.runtime or open_runtime(args.runtime, args.threads)
    if not args.force_table:  # also refuses a kit's or transferred table of another device
        opened.table.require(runtime.fingerprint, args.device or "the table")
    space = space_of(opened.table, args.space)
    report = check(runtime, opened.table, space, args.networks, args.seed, args.minutes)
    if args.json:
        dump({**report, "caveat": opened.caveat})
    else:
        _print_check(report)
        if opened.caveat:
            out(f"but: {opened.caveat}")
    if plot_format:
        from mbv3.report import check_plot

        write_atomic(Path(args.plot), check_plot(report, str(runtime.fingerprint), plot_format, opened.caveat))
    return 0


def _plot_format(path: str | None) -> str | None:
    """The format of the figure; a bad path is refused before anything is measured."""
    if path is None:
        return None
    suffix = Path(path).suffix.lower().removeprefix(".")
    if suffix not in ("png", "svg", "pdf"):
        raise BadInput(f"--plot must name a .png, .svg or .pdf file (got {path})")
    writable(Path(path))
    return suffix


def _measure(args: Namespace) -> int:
    from mbv3.latency import open_runtime
    from mbv3.tables import measure_network

    if (args.spec is None) == (args.like is None):
        raise BadInput("give one SPEC, or --like TABLE.csv for networks of its space")
    if args.spec is not None and args.out is not None:
        raise BadInput("--out: a list of times needs --like TABLE.csv; the time of one SPEC is printed")
    if args.like is not None:
        if given := [f"--{n.replace('_', '-')}" for n in HEAD_FLAGS if getattr(args, n) is not None]:
            raise BadInput(f"{', '.join(given)}: only for a SPEC; the networks of --like are those of its table")
        return _measure_list(args)
    m = measure_network(network(args), open_runtime(args.runtime, args.threads))
    if args.json:
        dump({"ms": m.ms, "error_ms": m.error_ms, "reference_ms": m.reference_ms, "estimated": False})
        return 0
    out(
        f"{m.ms:.3f} ms: {m.ratio:.4f} +- {m.ratio_error:.4f} times MobileNetV3-Large at 224 px, which took "
        f"{m.reference_ms:.3f} ms in the same rounds"
    )
    return 0


def _measure_list(args: Namespace) -> int:
    from mbv3.latency import LatencyTable, check_minutes, open_runtime
    from mbv3.tables import check_count, measure_list, space_of

    if not args.out:
        raise BadInput("--out NETS.csv is needed with --like: where the times are written")
    check_count(args.networks)
    check_minutes(args.minutes)
    writable(Path(args.out))
    table = LatencyTable.load(args.like)
    space, runtime = space_of(table, args.space), open_runtime(args.runtime, args.threads)
    found = measure_list(table, space, runtime, args.networks, seed=args.seed, minutes=args.minutes)
    write_atomic(Path(args.out), found.networks.dumps())
    n = len(found.networks.times)
    if args.json:
        dump({"n": n, "noise_floor": found.noise_floor, "out": args.out})
    else:
        out(f"{n} networks, noise floor {found.noise_floor} %, {args.out}")
    return 0


def _print_check(report: CheckReport) -> None:
    out("\n".join(_report_lines(report)))
    worst, built = report["worst"], report["as_built"]
    out(f"worst: {worst['network']}, {worst['predicted_ms']:.3f} ms predicted, {worst['measured_ms']:.3f} measured")
    if n := report["calibrated_on"]:
        how = f"with a calibration fitted again to all calibration networks, {n} of them measured in the same rounds"
    else:
        how = "with the calibration of the table"
    out(
        f"{how}; as built: RMSPE {built['rmspe']} %, bias {built['bias']:+} %, within 5 % {built['within_5']} %, "
        f"Spearman {built['spearman']}"
    )
    out(
        f"since the table was built the networks changed by {report['drift']:+.1f} % relative to the reference "
        f"network, which changed by {report['reference_drift']:+.1f} %"
    )


def _report_lines(report: Any) -> list[str]:
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


# ---- predictions


def _predict(args: Namespace) -> int:
    from mbv3.tables import predict

    spec = network(args)
    opened = _choose(args, args.device, force=args.force_table)
    p = predict(spec, opened.table, opened.runtime)
    if args.json:
        value = {"ms": p.ms, "reference_ms": p.table.reference_ms}
        dump({**value, "estimated": p.estimated > 0, "estimated_rows": p.estimated, "caveat": opened.caveat})
        return 0
    out(f"{p.ms:.3f} ms predicted on {p.table.fingerprint.cpu}")
    if opened.caveat:
        out(f"but: {opened.caveat}")
    if p.estimated:
        out(f"{p.estimated} of {len(p.prediction.rows)} rows are not in the table and are estimated by its cost model, "
            f"whose held-out error is {p.table.cost_model.error} % RMSPE a row")  # fmt: skip
    return 0


def _devices(args: Namespace) -> int:
    from mbv3.latency import runtime_names
    from mbv3.tables import known_devices

    known = known_devices()
    if args.json:
        value: dict[str, Any] = {"this-cpu": {"cpu": known.here.cpu, "estimated": False}}
        for p in known.profiles:
            details = {"source": p.sources, "blocks": dict(p.blocks), "networks": p.networks}
            value[p.name] = {"cpu": p.fingerprint.cpu, "estimated": True, **details}
        dump(value)
        return 0
    out(f"this-cpu: {known.here.cpu}, measured; runtimes {', '.join(runtime_names())}")
    for p in known.profiles:
        _print_profile(p)
    return 0


def _print_profile(p: Profile) -> None:
    f, blocks = p.fingerprint, p.blocks
    out(f"{p.name}: {f.cpu}, {f.runtime} of {f.runtime_version}, estimated from published measurements")
    out(
        f"  blocks held out by channel pair: RMSPE {blocks['rmspe']:.1f} %, within 10 % {blocks['within_10']} %, "
        f"Spearman {blocks['spearman']:.3f}, n {blocks['n']}"
    )
    if p.networks:
        out("  whole networks; the fit uses none of them, except V3-Large for the cost of h-swish:")
        rows = [["network", "published ms", "predicted ms", "error %", "published in"]]
        for n in p.networks:
            times = (f"{n['published_ms']:g}", f"{n['predicted_ms']:.1f}", f"{n['error']:+.1f}")
            rows.append([n["network"], *times, n["published_in"]])
        out("\n".join("    " + line for line in columns(rows).split("\n")))
    else:
        out("  no whole network is published for it, so its error on networks is not known")
    out("\n".join(f"  from {s}" for s in p.sources))


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
