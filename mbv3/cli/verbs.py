"""One function a verb: call a room, show what it gives. Rooms are imported where they are needed, so that `--help`
and `show` answer at once."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mbv3.cli.asked import network
from mbv3.cli.say import columns, dump, out, warn
from mbv3.errors import BadInput
from mbv3.files import vacant, write_atomic
from mbv3.spec import ROWS, Row, count, dump_spec, load_spec, lower

__all__ = ["resume_hint", "run"]

_current: dict[str, str] = {}


def resume_hint() -> str:
    return f". Go on with: {_current['verb']} --resume {_current['run']}" if "run" in _current else ""


def run(args: Namespace) -> int:
    """Run the verb of parsed arguments; the exit code."""
    _current["verb"] = "mbv3 train" if args.verb == "train" else "mbv3-search"
    if args.verb == "latency":
        from mbv3.cli.latency_verbs import run_latency

        return run_latency(args)
    return _VERBS[args.verb](args)


# ---- search --------------------------------------------------------------------------------------------------

_OPTIONS = (
    "device", "runtime", "threads", "data", "test", "accuracy", "space", "scale", "resolution", "task", "head",
    "classes", "output_stride", "sampler", "reward", "w", "trials",
    "seed", "seed_ratio", "delta", "finetune_steps", "supernet_steps", "supernet_minutes", "final_epochs",
    "budget_minutes", "force_table", "rebuild_table",
)  # fmt: skip


def _search(args: Namespace) -> int:
    from mbv3.cli.show_events import follow
    from mbv3.pipeline import find

    if args.resume:
        _resumed(args)
        events = find(resume=args.resume)
    else:
        given = {name: getattr(args, name) for name in _OPTIONS}
        events = find(target_ms=args.target_ms, out=args.out, **given)
    return _show_run(follow(_noting(events)), args.json)


def _resumed(args: Namespace) -> None:
    """`--resume DIR` stands alone."""
    from mbv3.cli.main import defaults

    _current["run"] = args.resume
    changed = [n for n, v in defaults(args.verb).items() if n not in ("resume", "json") and getattr(args, n) != v]
    if changed:
        flags = ", ".join("SPEC" if n == "spec" else "--" + n.replace("_", "-") for n in changed)
        raise BadInput(f"--resume goes on with the run's own options; leave out {flags}")


def _noting(events: Any) -> Any:
    """Remember the run directory for the message of an interruption."""
    from mbv3.events import Note

    for event in events:
        if isinstance(event, Note) and event.stage == "run":
            _current["run"] = event.text.removeprefix("run directory ")
        yield event


def _show_run(record: dict[str, Any], as_json: bool) -> int:
    from mbv3.pipeline import times_text

    if as_json:
        dump(record)
        return int(record["exit"])
    if record.get("comparison"):
        rows = [["network", "ms", "parameters", "MAdds M", "top-1 %", "n"]]
        for r in record["comparison"]:
            ms = "-" if r["ms"] is None else f"{r['ms']:.3f}"
            top1 = f"{r['top1']:.2f} +- {r['sigma']:.2f}"
            rows.append([r["name"], ms, f"{r['params']:,}", f"{r['madds'] / 1e6:.1f}", top1, str(r["n"])])
        out(columns(rows))
    lines = [
        ("target", f"{record['target_ms']:g} ms"),
        *times_text(record).items(),
        ("accuracy", _accuracy(record["accuracy"])),
        ("parameters", f"{record['params']:,}"),
        ("MAdds", f"{record['madds'] / 1e6:.1f} M"),
        ("took", f"{record['total_s'] / 60:.1f} min"),
    ]
    out("\n".join(f"{k:<11}{v}" for k, v in lines))
    out(f"{'spec':<11}{Path(_current.get('run', '.')) / record['spec']}")
    return int(record["exit"])


def _accuracy(accuracy: dict[str, Any]) -> str:
    """The seed's accuracy with what it means; nothing where no judge scored it."""
    if accuracy["value"] is None:
        return str(accuracy["note"])
    return f"{accuracy['value']:.1f} % of the seed: {accuracy['note']}"


# ---- show ----------------------------------------------------------------------------------------------------


def _show(args: Namespace) -> int:
    spec = network(args)
    if args.out:
        vacant(Path(args.out))
        write_atomic(Path(args.out), dump_spec(spec))
    counts = count(spec)
    predicted: dict[str, tuple[float, bool]] = {}
    total: Any = None
    if args.device:
        from mbv3.pipeline import read_table

        table, caveat = read_table(args.device, args.runtime, args.threads, args.force_table)
        if caveat:
            warn(caveat)
        total = table.predict(spec, estimate=True)
        predicted = {path: (ms, estimated) for path, ms, estimated in total.rows}
    rows: list[dict[str, Any]] = []
    for layer, c in zip(lower(spec), counts.by_row, strict=True):
        row = layer.key.row
        entry: dict[str, Any] = {"path": c.path, "op": type(row).__name__.lower()}
        said = [f for f in row.names() if f != "dilation"] if isinstance(row, Row) else ["nl"]
        entry |= {f: getattr(row, f) for f in said if hasattr(row, f)}
        if getattr(row, "dilation", 1) != 1:
            entry["dilation"] = row.dilation  # type: ignore[union-attr]
        if len(layer.key.inputs) > 1:
            entry["inputs"] = [list(shape) for shape in layer.key.inputs]
        entry |= {"in": list(c.in_shape), "params": c.params, "madds": c.madds}
        if predicted:
            entry |= {"ms": predicted[c.path][0], "estimated": predicted[c.path][1]}
        rows.append(entry)
    if args.json:
        value: dict[str, Any] = {"name": spec.name, "params": counts.params, "madds": counts.madds, "rows": rows}
        if counts.aux_params:
            value["aux_params"] = counts.aux_params
        if total is not None:
            value |= {"predicted_ms": total.ms, "estimated": total.estimated}
        dump(value)
        return 0
    head = ["row", "input", "op", "k", "exp", "out", "se", "nl", "s", "skip", "params", "MAdds M"]
    lines = [head + (["ms"] if predicted else [])]
    for r in rows:
        shape = " ".join(f"{h}x{w}x{c}" for c, h, w in r.get("inputs", [r["in"]]))
        told = {**r, "s": f"{r['s']} d{r['dilation']}"} if "dilation" in r else dict(r)  # d2: dilated by 2
        kernels = [r[f] for f in ROWS[r["op"]].KERNELS] if r["op"] in ROWS else []
        told |= {"k": "+".join(str(k or "-") for k in kernels)} if kernels else {}
        fields = (str(told.get(f, "-")) for f in ("k", "exp", "out", "se", "nl", "s", "skip"))
        line = [r["path"], shape, r["op"], *fields]
        line += [f"{r['params']:,}", f"{r['madds'] / 1e6:.2f}"]
        if predicted:
            line.append(f"{r['ms']:.3f}{'~' if r['estimated'] else ''}")
        lines.append(line)
    h, w = spec.resolution
    out(f"{spec.name}, input {h}x{w}")
    out(columns(lines))
    out(f"{counts.params:,} parameters, {counts.madds / 1e6:.1f} M MAdds")
    if counts.aux_params:
        out(f"{counts.aux_params:,} parameters more while training, of the auxiliary head")
    if total is not None:
        marked = f" ({total.estimated} rows estimated, marked ~)" if total.estimated else ""
        out(f"{total.ms:.3f} ms predicted{marked}")
    return 0


# ---- the rest ------------------------------------------------------------------------------------------------


def _netadapt(args: Namespace) -> int:
    from mbv3.cli.show_events import follow
    from mbv3.pipeline.alone import netadapt_alone

    given = {n: getattr(args, n) for n in
             ("data", "delta", "finetune_steps", "budget_minutes", "seed", "runtime", "threads")}  # fmt: skip
    events = netadapt_alone(load_spec(args.spec), args.target_ms, args.out, **given)
    return _show_run(follow(_noting(events)), args.json)


_NO_OPTION = ("spec", "out", "resume", "json", "verb")


def _train(args: Namespace) -> int:
    from mbv3.cli.show_events import follow
    from mbv3.pipeline import train

    if args.resume:
        _resumed(args)
        events = train(resume=args.resume)
    else:
        given = {n: v for n, v in vars(args).items() if n not in _NO_OPTION}
        events = train(load_spec(args.spec) if args.spec else None, out=args.out, **given)
    record = follow(_noting(events))
    if int(os.environ.get("RANK", "0")) > 0:  # under torchrun the first process speaks
        return 0
    if args.json:
        dump(record)
        return 0
    folder = Path(_current.get("run", "."))
    lines = [(k, f"{v:.2f} %") for k, v in record["metrics"].items()]
    lines += [("on", f"{record['n']} {record['judged_on']} images"), ("took", f"{record['total_s'] / 60:.1f} min")]
    lines += [(n, str(folder / f)) for n, f in (("weights", "weights.safetensors"), ("network", "network.yaml"),
                                                ("curve", "curve.png"), ("answers", "predictions.png"))]  # fmt: skip
    out("\n".join(f"{k:<11}{v}" for k, v in lines))
    return 0


def _export(args: Namespace) -> int:
    from mbv3.pipeline.exporting import export_network

    given = {n: getattr(args, n) for n in ("weights", "out", "precision", "data")}
    record = export_network(network(args), args.to, **given)
    for note in record["notes"]:
        print(note, file=sys.stderr)  # noqa: T201
    if args.json:
        dump(record)
    else:
        out("\n".join(record["files"]))
    return 0


def _verify(args: Namespace) -> int:
    from mbv3.pipeline import verify

    result = verify(Path(args.run))
    if args.json:
        dump(result)
    else:
        rows = [["check", "claimed", "found", ""]]
        for c in result["checks"]:
            rows.append([c["check"], _short(c["claimed"]), _short(c["found"]), "ok" if c["ok"] else "DIFFERS"])
        out(columns(rows))
    return 0 if result["ok"] else 1


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


_VERBS: dict[str, Callable[[Namespace], int]] = {
    "search": _search,
    "show": _show,
    "netadapt": _netadapt,
    "train": _train,
    "export": _export,
    "verify": _verify,
}
