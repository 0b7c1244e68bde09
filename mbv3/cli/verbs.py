"""One function a verb: call a room, show what it gives. Rooms are imported where they are needed, so that `--help`
and `show` answer at once."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbv3.errors import BadInput
from mbv3.spec import ArchSpec, count, load_spec, lower

if TYPE_CHECKING:
    from mbv3.latency import LatencyTable
    from mbv3.space import SearchSpace

__all__ = ["resume_hint", "run"]

_current: dict[str, str] = {}


def _out(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def _dump(value: Any) -> None:
    from mbv3.cli.main import dump

    _out(dump(value))


def resume_hint() -> str:
    return f". Go on with: mbv3-search --resume {_current['run']}" if "run" in _current else ""


def run(args: Namespace) -> int:
    """Run the verb of parsed arguments; the exit code."""
    if args.verb == "latency":
        return _LATENCY[args.action](args)
    return _VERBS[args.verb](args)


# ---- search --------------------------------------------------------------------------------------------------

_OPTIONS = (
    "device", "runtime", "threads", "data", "test", "accuracy", "space", "scale", "sampler", "reward", "w", "trials",
    "seed", "seed_ratio", "delta", "finetune_steps", "supernet_steps", "supernet_minutes", "final_epochs",
    "budget_minutes", "force_table", "rebuild_table",
)  # fmt: skip


def _search(args: Namespace) -> int:
    from mbv3.cli.main import search_defaults
    from mbv3.cli.show_events import follow
    from mbv3.pipeline import find

    if args.resume:
        _current["run"] = args.resume
        changed = [n for n, v in search_defaults().items() if n not in ("resume", "json") and getattr(args, n) != v]
        if changed:
            flags = ", ".join("--" + n.replace("_", "-") for n in changed)
            raise BadInput(f"--resume goes on with the run's own options; leave out {flags}")
        events = find(resume=args.resume)
    else:
        given = {name: getattr(args, name) for name in _OPTIONS}
        events = find(target_ms=args.target_ms, out=args.out, **given)
    return _show_run(follow(_noting(events)), args.json)


def _noting(events: Any) -> Any:
    """Remember the run directory for the message of an interruption."""
    from mbv3.events import Note

    for event in events:
        if isinstance(event, Note) and event.stage == "run":
            _current["run"] = event.text.removeprefix("run directory ")
        yield event


def _show_run(record: dict[str, Any], as_json: bool) -> int:
    if as_json:
        _dump(record)
        return int(record["exit"])
    if record.get("comparison"):
        rows = [["network", "ms", "parameters", "MAdds M", "top-1 %", "n"]]
        for r in record["comparison"]:
            ms = "-" if r["ms"] is None else f"{r['ms']:.3f}"
            top1 = f"{r['top1']:.2f} +- {r['sigma']:.2f}"
            rows.append([r["name"], ms, f"{r['params']:,}", f"{r['madds'] / 1e6:.1f}", top1, str(r["n"])])
        _out(_columns(rows))
    error = record.get("measured_error_ms") or 0.0
    measured = "not measured" if record["measured_ms"] is None else f"{record['measured_ms']:.2f} +- {error:.2f} ms"
    lines = [
        ("target", f"{record['target_ms']:g} ms"),
        ("measured", measured),
        ("predicted", f"{record['predicted_ms']:.2f} ms"),
        ("accuracy", _accuracy(record["accuracy"])),
        ("parameters", f"{record['params']:,}"),
        ("MAdds", f"{record['madds'] / 1e6:.1f} M"),
        ("took", f"{record['total_s'] / 60:.1f} min"),
    ]
    _out("\n".join(f"{k:<11}{v}" for k, v in lines))
    _out(f"{'spec':<11}{Path(_current.get('run', '.')) / record['spec']}")
    return int(record["exit"])


def _accuracy(accuracy: dict[str, Any]) -> str:
    """The seed's accuracy with what it means; nothing where no judge scored it."""
    if accuracy["value"] is None:
        return str(accuracy["note"])
    return f"{accuracy['value']:.1f} % of the seed: {accuracy['note']}"


# ---- show ----------------------------------------------------------------------------------------------------


def _columns(rows: list[list[str]]) -> str:
    """Rows of text in aligned columns; the first column to the left, the rest to the right."""
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))).rstrip()
        for r in rows
    )


def _show(args: Namespace) -> int:
    spec = load_spec(args.spec)
    counts = count(spec)
    predicted: dict[str, tuple[float, bool]] = {}
    total: Any = None
    if args.device:
        from mbv3.pipeline import read_table

        table, caveat = read_table(args.device, args.runtime, args.threads, args.force_table)
        if caveat:
            print(f"warning: {caveat}", file=sys.stderr)  # noqa: T201
        total = table.predict(spec, estimate=True)
        predicted = {path: (ms, estimated) for path, ms, estimated in total.rows}
    rows: list[dict[str, Any]] = []
    for layer, c in zip(lower(spec), counts.by_row, strict=True):
        row = layer.key.row
        entry: dict[str, Any] = {"path": c.path, "op": type(row).__name__.lower()}
        entry |= {f: getattr(row, f) for f in ("k", "exp", "out", "se", "nl", "s", "skip") if hasattr(row, f)}
        entry |= {"in": list(c.in_shape), "params": c.params, "madds": c.madds}
        if predicted:
            entry |= {"ms": predicted[c.path][0], "estimated": predicted[c.path][1]}
        rows.append(entry)
    if args.json:
        value: dict[str, Any] = {"name": spec.name, "params": counts.params, "madds": counts.madds, "rows": rows}
        if total is not None:
            value |= {"predicted_ms": total.ms, "estimated": total.estimated}
        _dump(value)
        return 0
    head = ["row", "input", "op", "k", "exp", "out", "se", "nl", "s", "skip", "params", "MAdds M"]
    lines = [head + (["ms"] if predicted else [])]
    for r in rows:
        c_, h, w = r["in"]
        shape = f"{h}x{w}x{c_}"
        line = [r["path"], shape, r["op"], *(str(r.get(f, "-")) for f in ("k", "exp", "out", "se", "nl", "s", "skip"))]
        line += [f"{r['params']:,}", f"{r['madds'] / 1e6:.2f}"]
        if predicted:
            line.append(f"{r['ms']:.3f}{'~' if r['estimated'] else ''}")
        lines.append(line)
    h, w = spec.resolution
    _out(f"{spec.name}, input {h}x{w}")
    _out(_columns(lines))
    _out(f"{counts.params:,} parameters, {counts.madds / 1e6:.1f} M MAdds")
    if total is not None:
        marked = f" ({total.estimated} rows estimated, marked ~)" if total.estimated else ""
        _out(f"{total.ms:.3f} ms predicted{marked}")
    return 0


# ---- latency -------------------------------------------------------------------------------------------------


def _space_of(table: LatencyTable, given: str) -> SearchSpace:
    """The scaled space that a table was built for; `given`, from --space, where the table's bears its name."""
    from mbv3.pipeline.tables import space_id
    from mbv3.space import load_space, scale

    about = dict(table.about or {})
    try:
        base = load_space(given)
        if base.name != about["space"]:
            base = load_space(str(about["space"]))
        space = scale(base, float(about["width"]), int(about["resolution"]), int(about["classes"]))
    except (KeyError, BadInput) as e:
        raise BadInput(
            f"the table does not say a space that is known here ({e}); give --space FILE, or check where it was built"
        ) from None
    if space_id(space) != about.get("space_id"):
        raise BadInput(f"the table was built for another space of the name {space.name!r}; build it anew")
    return space


def _scaled_space(args: Namespace) -> SearchSpace:
    from mbv3.pipeline.options import parse_scale
    from mbv3.space import load_space, scale

    fixed = parse_scale(args.scale)
    if fixed is None:
        raise BadInput("--scale auto needs a target; give 1 or WIDTHxRESOLUTION here")
    return scale(load_space(args.space), fixed[0], fixed[1] or None)


def _table(args: Namespace, rebuild: bool = False) -> LatencyTable:
    """The table that the arguments name: a file, or the cache's, built if it is not there."""
    from mbv3.cli.show_events import follow
    from mbv3.latency import open_runtime
    from mbv3.pipeline import open_table, read_table, table_plan

    if getattr(args, "device", None):
        table, caveat = read_table(args.device, args.runtime, args.threads, args.force_table)
        if caveat:
            print(f"warning: {caveat}", file=sys.stderr)  # noqa: T201
        return table
    runtime = open_runtime(args.runtime, args.threads)
    result: LatencyTable = follow(open_table(runtime, table_plan(_scaled_space(args)), rebuild=rebuild))
    return result


def _report_lines(report: dict[str, Any]) -> list[str]:
    lines = [
        f"RMSPE {report['rmspe']} %, bias {report['bias']:+} %, within 5 % {report['within_5']} %, within 10 % "
        f"{report['within_10']} %, Spearman {report['spearman']}, n {report['n']}",
        f"noise floor of the measurement itself: RMSPE {report.get('noise_floor')} %",
    ]
    for name, b in report.get("baselines", {}).items():
        lines.append(f"  {name}: RMSPE {b['rmspe']} %, within 5 % {b['within_5']} %, Spearman {b['spearman']}")
    return lines


def _latency_kit(args: Namespace) -> int:
    from mbv3.latency import kit_files, write_kit
    from mbv3.pipeline import table_plan

    plan = table_plan(_scaled_space(args))
    files = kit_files(plan, args.runtime, args.threads)
    out = Path(args.out)
    write_kit(files, out)
    size = sum(map(len, files.values()))
    if args.json:
        _dump({"out": args.out, "layers": len(plan.keys), "networks": len(plan.calibration), "bytes": size})
        return 0
    _out(f"{out}: {len(plan.keys)} layers and {len(plan.calibration)} networks, {size / 1e6:.1f} MB")
    _out("copy it to the device and run there: python3 run.py")
    _out(f"bring results.jsonl back and run here: mbv3 latency import {out} results.jsonl --out table.csv")
    return 0


def _latency_import(args: Namespace) -> int:
    from mbv3.latency import import_kit

    table = import_kit(Path(args.kit), Path(args.results))
    table.save(Path(args.out))
    return _told(table, args)


def _latency_build(args: Namespace) -> int:
    table = _table_over_ssh(args) if args.device else _table(args, args.rebuild)
    if args.out:
        table.save(Path(args.out))
    return _told(table, args)


def _table_over_ssh(args: Namespace) -> LatencyTable:
    from mbv3.cli.show_events import follow
    from mbv3.latency import measure_over_ssh
    from mbv3.pipeline import table_plan

    if not args.out:
        raise BadInput("--out TABLE.csv is needed with --device: where the device's table goes")
    plan = table_plan(_scaled_space(args))
    table: LatencyTable = follow(measure_over_ssh(args.device, plan, args.runtime, args.threads))
    return table


def _told(table: LatencyTable, args: Namespace) -> int:
    """Say what a table holds."""
    if args.json:
        _dump(
            {"layers": len(table.layers), "reference_ms": table.reference_ms, "report": table.report, "out": args.out}
        )
        return 0
    ref = table.reference
    _out(f"{len(table.layers)} layers on {table.fingerprint.cpu}, {table.fingerprint.runtime} "
         f"{table.fingerprint.runtime_version}, {table.fingerprint.threads} thread(s)")  # fmt: skip
    _out(f"reference {ref['spec']}@{ref['width']:g}, {ref['resolution'][0]} px: {table.reference_ms:.3f} ms")
    if table.report:
        _out(f"trust ({table.report['how']}):")
        _out("\n".join(_report_lines(dict(table.report))))
    if args.out:
        _out(args.out)
    return 0


def _latency_check(args: Namespace) -> int:
    from mbv3.latency import open_runtime
    from mbv3.pipeline.check import check

    if not 4 <= args.networks <= 1000:
        raise BadInput(f"--networks must be from 4 to 1000 (got {args.networks})")
    table = _table(args)
    runtime = open_runtime(args.runtime, args.threads)
    report = check(runtime, table, _space_of(table, args.space), args.networks, args.seed)
    if args.json:
        _dump(report)
        return 0
    _out("\n".join(_report_lines(report)))
    worst = report["worst"]
    _out(f"worst: {worst['network']}, {worst['predicted_ms']:.3f} ms predicted, {worst['measured_ms']:.3f} measured")
    built = report["as_built"]
    _out(
        f"calibrated anew on {report['calibrated_on']} of the table's calibration networks, timed in the same rounds; "
        f"as built: RMSPE {built['rmspe']} %, bias {built['bias']:+} %, within 5 % {built['within_5']} %, Spearman "
        f"{built['spearman']}"
    )
    _out(
        f"since the table was built this machine changed by {report['drift']:+.1f} % against the reference network, "
        f"which itself changed by {report['reference_drift']:+.1f} %"
    )
    return 0


def _latency_measure(args: Namespace) -> int:
    from mbv3.latency import Device, open_runtime
    from mbv3.pipeline.tables import measure_whole, reference_at

    if (args.spec is None) == (args.like is None):
        raise BadInput("give one SPEC, or --like TABLE.csv for random networks of its space")
    if args.like is not None:
        return _measure_many(args)
    spec = load_spec(args.spec)
    runtime = open_runtime(args.runtime, args.threads)
    device = Device(runtime, reference_at(1.0, 224))
    measured = measure_whole(device, spec)
    now = measured.raw_reference_ms / device.reference_ms
    value = {
        "ms": measured.ms * now,
        "error_ms": measured.error_ms * now,
        "reference_ms": measured.raw_reference_ms,
        "estimated": False,
    }
    if args.json:
        _dump(value)
    else:
        share, large_ms = measured.ms / device.reference_ms, measured.raw_reference_ms
        _out(
            f"{value['ms']:.3f} +- {value['error_ms']:.3f} ms, {share:.3f} of MobileNetV3-Large at 224 px "
            f"({large_ms:.3f} ms in the same rounds)"
        )
    return 0


def _measure_many(args: Namespace) -> int:
    from mbv3.files import write_atomic
    from mbv3.latency import Device, LatencyTable, MeasuredNetworks, open_runtime
    from mbv3.pipeline.check import unseen_networks
    from mbv3.pipeline.tables import reference_of

    if not args.out:
        raise BadInput("--out NETS.csv is needed with --like: where the times go")
    if not 4 <= args.networks <= 1000:
        raise BadInput(f"--networks must be from 4 to 1000 (got {args.networks})")
    table = LatencyTable.load(args.like)
    nets = unseen_networks(table, _space_of(table, args.space), args.networks, args.seed)
    runtime = open_runtime(args.runtime, args.threads)
    device = Device(runtime, reference_of(table))
    measured = device.networks([spec for _, spec in nets], more_s=60.0)
    times = tuple(zip((label for label, _ in nets), measured.ms, strict=True))
    write_atomic(Path(args.out), MeasuredNetworks(times, runtime.fingerprint, measured.raw_reference_ms).dumps())
    if args.json:
        _dump({"n": len(nets), "noise_floor": measured.noise_floor, "out": args.out})
    else:
        _out(f"{len(nets)} networks, noise floor {measured.noise_floor} %, {args.out}")
    return 0


def _latency_transfer(args: Namespace) -> int:
    from mbv3.latency import Fingerprint, LatencyTable, read_networks, transfer
    from mbv3.pipeline.tables import reference_of

    table = LatencyTable.load(args.table)
    space = _space_of(table, args.space)
    measured = read_networks(Path(args.measured))

    def network(name: str) -> ArchSpec:
        label, colon, genome = name.partition(":")
        return space.spec(space.genome(genome)) if colon and label in ("check", "calibration") else load_spec(name)

    unknown = Fingerprint(
        cpu=f"of {args.measured}", vector="", cores=1, system="", kernel="", governor="", runtime="unknown",
        runtime_version="", threads=1,
    )  # fmt: skip
    nets = [(name, network(name), ms) for name, ms in measured.times]
    reference = (reference_of(table), measured.reference_ms)
    moved = transfer(table, nets, measured.fingerprint or unknown, reference, args.fit)
    moved.save(Path(args.out))
    return _told(moved, args)


def _latency_devices(args: Namespace) -> int:
    from mbv3.latency import load_profile, open_runtime, profile_names

    here = open_runtime("onnxruntime", 1).fingerprint
    tables = {name: load_profile(name) for name in profile_names()}
    abouts = {name: dict(table.about or {}) for name, table in tables.items()}
    if args.json:
        value: dict[str, Any] = {"this-cpu": {"cpu": here.cpu, "estimated": False}}
        for name, about in abouts.items():
            more = {k: about[k] for k in ("source", "blocks", "networks")}
            value[name] = {"cpu": tables[name].fingerprint.cpu, "estimated": True, **more}
        _dump(value)
        return 0
    _out(f"this-cpu: {here.cpu}, measured")
    for name, about in abouts.items():
        table, blocks = tables[name], about["blocks"]
        f = table.fingerprint
        _out(f"{name}: {f.cpu}, {f.runtime} of {f.runtime_version}, estimated from published measurements")
        _out(
            f"  blocks held out by channel pair: RMSPE {blocks['rmspe']:.1f} %, within 10 % {blocks['within_10']} %, "
            f"Spearman {blocks['spearman']:.3f}, n {blocks['n']}"
        )
        if about["networks"]:
            _out("  whole networks, none of them used in the fit:")
            rows = [["network", "published ms", "predicted ms", "error %", "published in"]]
            for n in about["networks"]:
                times = (f"{n['published_ms']:g}", f"{n['predicted_ms']:.1f}", f"{n['error']:+.1f}")
                rows.append([n["network"], *times, n["published_in"]])
            _out("\n".join("    " + line for line in _columns(rows).split("\n")))
        else:
            _out("  no whole network is published for it, so its error on networks is not known")
        _out("\n".join(f"  from {s}" for s in about["source"]))
    return 0


def _latency_predict(args: Namespace) -> int:
    spec = load_spec(args.spec)
    table = _table(args)
    if not args.device and table.missing(spec):  # the device is at hand: what the table lacks is measured
        from mbv3.latency import Device, open_runtime
        from mbv3.pipeline.tables import Latency, reference_of

        runtime = open_runtime(args.runtime, args.threads)
        latency = Latency(table, Device(runtime, reference_of(table), table.reference_ms))
        latency([spec])
        table = latency.table
    p = table.predict(spec, estimate=True)
    if args.json:
        _dump(
            {
                "ms": p.ms,
                "reference_ms": table.reference_ms,
                "estimated": p.estimated > 0,
                "estimated_rows": p.estimated,
            }
        )
        return 0
    _out(f"{p.ms:.3f} ms predicted on {table.fingerprint.cpu}")
    if p.estimated:
        _out(f"{p.estimated} of {len(p.rows)} rows are not in the table and are estimated by its cost model, "
             f"whose held-out error is {table.cost_model.error} % RMSPE a row")  # fmt: skip
    return 0


# ---- the rest ------------------------------------------------------------------------------------------------


def _netadapt(args: Namespace) -> int:
    from mbv3.cli.show_events import follow
    from mbv3.pipeline.alone import netadapt_alone

    given = {n: getattr(args, n) for n in
             ("data", "delta", "finetune_steps", "budget_minutes", "seed", "runtime", "threads")}  # fmt: skip
    events = netadapt_alone(load_spec(args.spec), args.target_ms, args.out, **given)
    return _show_run(follow(_noting(events)), args.json)


def _export(args: Namespace) -> int:
    from mbv3.files import write_atomic
    from mbv3.graph import network_model

    spec: ArchSpec = load_spec(args.spec)
    state = None
    if args.weights:
        from mbv3.training import read_weights

        state = {k: v.numpy() for k, v in read_weights(Path(args.weights)).items()}
    out = Path(args.out or f"{spec.name}.onnx")
    write_atomic(out, network_model(spec, state))
    _out(str(out))
    if state is None:
        print("weights are random: give --weights FILE for trained ones", file=sys.stderr)  # noqa: T201
    return 0


def _verify(args: Namespace) -> int:
    from mbv3.pipeline import verify

    result = verify(Path(args.run))
    if args.json:
        _dump(result)
    else:
        rows = [["check", "claimed", "found", ""]]
        for c in result["checks"]:
            rows.append([c["check"], _short(c["claimed"]), _short(c["found"]), "ok" if c["ok"] else "DIFFERS"])
        _out(_columns(rows))
    return 0 if result["ok"] else 1


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


_VERBS: dict[str, Callable[[Namespace], int]] = {
    "search": _search,
    "show": _show,
    "netadapt": _netadapt,
    "export": _export,
    "verify": _verify,
}
_LATENCY: dict[str, Callable[[Namespace], int]] = {
    "build": _latency_build,
    "check": _latency_check,
    "measure": _latency_measure,
    "predict": _latency_predict,
    "devices": _latency_devices,
    "transfer": _latency_transfer,
    "kit": _latency_kit,
    "import": _latency_import,
}
