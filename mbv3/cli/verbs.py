"""One function a verb: call a room, show what it gives. Rooms are imported where they are needed, so that `--help`
and `show` answer at once."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Generator
from itertools import islice
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, TypeVar

from mbv3.cli.network import network
from mbv3.cli.printing import columns, dump, out, warn
from mbv3.errors import BadInput, plain
from mbv3.files import vacant, write_atomic
from mbv3.spec import ROWS, Row, count, dump_spec, load_spec, lower

if TYPE_CHECKING:
    from mbv3.events import Event
    from mbv3.latency import Prediction
    from mbv3.record import Accuracy
    from mbv3.runs import Found, Front

__all__ = ["resume_hint", "run"]

T = TypeVar("T")

WORST = 6  # classes whose score is printed

_current: dict[str, str] = {}


def resume_hint() -> str:
    """What is kept of a run, and how to go on; empty where there is no run directory."""
    if "run" not in _current:
        return ""
    return f"what was measured and trained is kept. Go on with: {_current['verb']} --resume {quote(_current['run'])}"


def run(args: Namespace) -> int:
    """Run the verb of parsed arguments; the exit code."""
    _current["verb"] = "mbv3 train" if args.verb == "train" else "mbv3-search"
    if args.verb == "latency":
        from mbv3.cli.latency_verbs import run_latency

        return run_latency(args)
    return _VERBS[args.verb](args)


# ---- search --------------------------------------------------------------------------------------------------


def _search(args: Namespace) -> int:
    from mbv3.cli.show_events import follow
    from mbv3.runs import Options, find_events, front_events, given, is_front

    if args.resume:
        now = _resumed(args, Options)
        if is_front(Path(args.resume)):
            return _show_front(follow(_noting(front_events(resume=args.resume, **now))), args.json)
        events = find_events(resume=args.resume, **now)
    else:
        options = given(args, Options)
        if isinstance(options.get("target_ms"), tuple):
            return _show_front(follow(_noting(front_events(out=args.out, **options))), args.json)
        events = find_events(out=args.out, **options)
    return _show_found(follow(_noting(events)), args.json)


def _resumed(args: Namespace, options: Any) -> dict[str, Any]:
    """What may stand beside `--resume DIR`: where the images and the study are now."""
    from mbv3.runs import given, moved

    _current["run"] = args.resume
    beside = [name for name, value in (("SPEC", getattr(args, "spec", None)), ("--out", args.out)) if value]
    return moved(given(args, options), beside)


def _noting(events: Generator[Event, None, T]) -> Generator[Event, None, T]:
    """Remember the run directory for the message of an interruption."""
    from mbv3.events import RunStarted, watched

    def see(event: object) -> None:
        if isinstance(event, RunStarted):
            _current["run"] = str(event.path)

    return watched(events, see)


def _show_front(front: Front, as_json: bool) -> int:
    assert front.record.exit is not None
    if as_json:
        dump(front.as_dicts())
        return front.record.exit
    rows = [["target", "ms", "predicted top-1 %", "best beside", "parameters", "MAdds M", "folder"]]
    for found in front.found:
        r, a = found.record, found.record.accuracy
        if r.status != "done" or a is None:
            rows.append([f"{r.target_ms:g}", r.status, "", "", "", "", str(found.folder)])
            continue
        at = r.predicted_ms if r.measured_ms is None else r.measured_ms
        best = max((b.accuracy or 0.0 for b in r.baselines), default=None)
        rows.append(
            [f"{r.target_ms:g}", f"{at or 0.0:.3f}", _with_error(a.value, a.error), _with_error(best, None),
             f"{r.params or 0:,}", f"{(r.madds or 0) / 1e6:.1f}", str(found.folder)]
        )  # fmt: skip
    out(columns(rows))
    out(f"report     {front.report}")
    return front.record.exit


def _show_found(found: Found, as_json: bool) -> int:
    from mbv3.runs import times_text

    r = found.record
    assert r.exit is not None and r.total_s is not None
    if as_json:
        dump(found.as_dict())
        return r.exit
    if r.comparison:
        metric = "top-1" if r.accuracy is None else r.accuracy.metric
        rows = [["network", "ms", "parameters", "MAdds M", f"{metric} %", "n", "steps"]]
        for c in r.comparison:
            ms, top1 = "-" if c.ms is None else f"{c.ms:.3f}", f"{c.top1:.2f} +- {c.sigma:.2f}"
            steps = "" if c.steps is None else str(c.steps)
            rows.append([c.name, ms, f"{c.params:,}", f"{c.madds / 1e6:.1f}", top1, str(c.n), steps])
        out(columns(rows))
    elif r.baselines and r.accuracy is not None:
        a, at = r.accuracy, r.predicted_ms if r.measured_ms is None else r.measured_ms
        rows = [["network", "ms", "predicted top-1 %", "found is above by", "published"]]
        rows.append(["found", f"{at or 0.0:.3f}", _with_error(a.value, a.error), "", ""])
        for b in r.baselines:
            below = "" if b.below is None else _with_error(b.below, b.below_error)
            public = "" if b.published is None else f"{b.published:.1f} {b.weights}"
            rows.append([b.name, f"{b.ms:.3f}", _with_error(b.accuracy, b.error), below, public])
        out(columns(rows))
    lines = [
        ("target", f"{r.target_ms:g} ms"),
        *times_text(r).items(),
        ("accuracy", _accuracy(r.accuracy)),
        ("parameters", f"{r.params:,}"),
        ("MAdds", f"{(r.madds or 0) / 1e6:.1f} M"),
        *(("on", f"{Path(d.name).name}: {d.ms:.3f} ms") for d in r.devices),
        *(("at most", f"{limit.most:,.10g} {limit.name}: {limit.found:,.10g}") for limit in r.limits),
        ("took", f"{r.total_s / 60:.1f} min"),
        *([("from", r.taken_from.text)] if r.taken_from is not None else []),
        ("spec", str(found.folder / (r.spec or ""))),
    ]
    out("\n".join(f"{k:<11}{v}" for k, v in lines))
    return r.exit


def _with_error(value: float | None, error: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" + (f" +- {error:.1f}" if error is not None else "")


def _accuracy(accuracy: Accuracy | None) -> str:
    """An accuracy with what it means; nothing where no judge scored it."""
    if accuracy is None or accuracy.value is None:
        return "" if accuracy is None else accuracy.note
    if accuracy.error is not None:
        return f"{accuracy.value:.1f} +- {accuracy.error:.1f} %: {accuracy.note}"
    return f"{accuracy.value:.1f} % of the seed: {accuracy.note}"


# ---- show ----------------------------------------------------------------------------------------------------


def _show(args: Namespace) -> int:
    spec = network(args)
    if args.out:
        vacant(Path(args.out))
        write_atomic(Path(args.out), dump_spec(spec))
    counts = count(spec)
    predicted: dict[str, tuple[float, bool]] = {}
    total: Prediction | None = None
    if args.device:
        from mbv3.tables import read_table

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
        entry |= dict(row.extras()) if isinstance(row, Row) else {}
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
        shown = {**r, "s": f"{r['s']} d{r['dilation']}"} if "dilation" in r else dict(r)  # d2: dilated by 2
        kernels = [r[f] for f in ROWS[r["op"]].KERNELS] if r["op"] in ROWS else []
        shown |= {"k": "+".join(str(k or "-") for k in kernels)} if kernels else {}
        shown |= {"se": f"{r['se']} {r['se_nl']}"} if "se_nl" in r else {}
        shown |= {"nl": f"{r['nl']}+{r['out_nl']}"} if "out_nl" in r else {}
        fields = (str(shown.get(f, "-")) for f in ("k", "exp", "out", "se", "nl", "s", "skip"))
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
    from mbv3.runs import Options, adapt_events, given

    options = given(args, Options)
    if "target_ms" not in options:
        raise BadInput("--target-ms is missing: milliseconds that one image may take")
    events = adapt_events(load_spec(args.spec) if args.spec else None, out=args.out, **options)
    return _show_found(follow(_noting(events)), args.json)


def _train(args: Namespace) -> int:
    from mbv3.cli.show_events import follow
    from mbv3.runs import TrainOptions, TrainResult, given, train_events

    if args.resume:
        events = train_events(resume=args.resume, **_resumed(args, TrainOptions))
    else:
        events = train_events(args.spec, out=args.out, **given(args, TrainOptions))
    result: TrainResult = follow(_noting(events))
    if int(os.environ.get("RANK", "0")) > 0:  # under torchrun the first process prints
        return 0
    if args.json:
        dump(result.as_dict())
        return 0
    lines = [(k, f"{v:.2f} %") for k, v in result.metrics.items()]
    classes = result.by_class
    if len(classes) > 1:
        shown = ", ".join(f"{plain(name, 30)}: {v:.1f} %" for name, v in islice(classes.items(), WORST))
        lines.append(("lowest" if len(classes) > WORST else "by class", shown))
    lines += [
        ("on", f"{result.n} {result.judged_on} images"), ("took", f"{result.minutes:.1f} min"),
        ("weights", str(result.weights)),
    ]  # fmt: skip
    lines += [(n, str(result.folder / f)) for n, f in (("network", "network.yaml"), ("curve", "curve.png"),
                                                       ("answers", "predictions.png"))]  # fmt: skip
    out("\n".join(f"{k:<11}{v}" for k, v in lines))
    return 0


def _export(args: Namespace) -> int:
    from mbv3.progress import drain, silent
    from mbv3.runs import ExportOptions, export_events, given

    options = {"to": "", **given(args, ExportOptions)}
    watched = sys.stderr.isatty()  # choosing what goes into int8 takes a minute or two
    result = drain(export_events(network(args), out=args.out, **options), None if watched else silent)
    for note in () if watched else result.notes:
        print(note, file=sys.stderr)  # noqa: T201
    if args.json:
        dump(result.as_dict())
    else:
        out("\n".join(map(str, result.files)))
    return 0


def _import(args: Namespace) -> int:
    from mbv3.progress import drain, silent
    from mbv3.runs import ImportOptions, given, import_events

    watched = sys.stderr.isatty()
    result = drain(import_events(args.source, out=args.out, **given(args, ImportOptions)), None if watched else silent)
    for note in () if watched else result.notes:
        print(note, file=sys.stderr)  # noqa: T201
    if args.json:
        dump(result.as_dict())
        return 0
    spec = result.spec
    norms = f"{result.folded} folded"
    if result.unfolded_on:
        norms += f", unfolded by statistics of {result.unfolded_on} images"
    pairs = (
        f"{name} {', '.join(f'{v:.6g}' for v in values)}" for name, values in (("mean", spec.mean), ("std", spec.std))
    )
    lines = [
        ("network", f"{len(spec.rows)} rows, {result.params:,} parameters, {result.madds / 1e6:.1f} M MAdds, "
         f"{getattr(spec.head, 'classes', 0)} classes" + (" with names" if result.labels else "")),
        ("input", f"{spec.resolution[0]}x{spec.resolution[1]}, {', '.join(pairs)}, padding {spec.padding}"),
        *([("weights", "dequantised from integers")] if result.integer else []),
        *([("norms", norms)] if result.folded else []),
        *([("checked", result.checked.line())] if result.checked is not None else []),
        *(("wrote", str(file)) for file in result.files),
    ]  # fmt: skip
    out("\n".join(f"{k:<11}{v}" for k, v in lines))
    return 0


def _predict_accuracy(args: Namespace) -> int:
    from mbv3.accuracy import PAPER, imagenet

    estimate = imagenet(network(args), recipe=args.recipe or PAPER)
    if args.json:
        dump({"top1": estimate.value, "error": estimate.error, "recipe": estimate.recipe,
              "extrapolated": estimate.extrapolated, "source": estimate.source})  # fmt: skip
        return 0
    out(f"{estimate.value:.1f} +- {estimate.error:.1f} % ImageNet top-1, predicted for the recipe {estimate.recipe}")
    if estimate.extrapolated:
        out(f"extrapolated: {estimate.why}")
    return 0


def _zoo(args: Namespace) -> int:
    from mbv3.latency import Device, open_runtime
    from mbv3.stages import published_times
    from mbv3.tables import Latency, read_table, reference_at

    if args.target_ms is not None and not 0 < args.target_ms < 1e6:
        raise BadInput(f"--target-ms must be a number of milliseconds above 0 (got {args.target_ms:g})")
    if args.device:
        table, caveat = read_table(args.device, args.runtime, args.threads, args.force_table)
        if caveat:
            warn(caveat)
        found = published_times(Latency(table), args.target_ms)
    else:
        note = "measuring every network here, which takes minutes; --device TABLE.csv predicts them in seconds"
        print(note, file=sys.stderr)  # noqa: T201
        found = published_times(
            Device(open_runtime(args.runtime, args.threads), reference_at(1.0, 224)), args.target_ms
        )
    rows = [
        {"name": f.network.name, "top1": f.network.top1, "ms": f.ms, "error_ms": f.error_ms, "estimated": f.estimated,
         "params": f.network.params, "resolution": f.network.resolution, "recipe": f.network.recipe,
         "weights": f.network.weights}
        for f in found
    ]  # fmt: skip
    if args.json:
        dump(rows)
        return 0
    table_rows = [["network", "px", "top-1 %", "ms", "parameters", "weights"]]
    for f in found:
        n, ms = f.network, f"{'~' if f.estimated else ''}{f.ms:.3f} +- {f.error_ms:.3f}"
        table_rows.append([n.name, str(n.resolution), f"{n.top1:.2f}", ms, f"{n.params:,}", n.weights])
    out(columns(table_rows))
    if any(f.estimated for f in found):
        out("~: the table lacks layers of this network; they are estimated, with the error of the table's cost model")
    return 0


def _worker(args: Namespace) -> int:
    from mbv3.cli.show_events import follow
    from mbv3.runs import WorkerOptions, given, work_events

    networks = follow(work_events(args.storage, **given(args, WorkerOptions)))
    if args.json:
        dump({"networks": networks})
    return 0


def _supernet(args: Namespace) -> int:
    from mbv3.cli.show_events import follow
    from mbv3.runs import check_supernet_events

    names = ("networks", "steps", "minutes", "data", "test")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    r = follow(check_supernet_events(args.run, **given))
    if args.json:
        low, high, plain = r.low, r.high, r.tau_without_recalibration
        dump({"tau": r.tau, "low": low, "high": high, "n": r.n, "tau_without_recalibration": plain, "steps": r.steps})
    else:
        lines = (
            ("tau", f"{r.tau:.3f} ({r.low:.3f} to {r.high:.3f} with 95 %)"),
            ("without", f"{r.tau_without_recalibration:.3f}, batch norms not recalibrated"),
            ("networks", f"{r.n}, each trained alone for {r.steps} steps"),
        )
        out("\n".join(f"{k:<11}{v}" for k, v in lines))
    return 0


def _verify(args: Namespace) -> int:
    from mbv3.runs import verify

    result = verify(Path(args.run))
    if args.json:
        dump(result.as_dict())
    else:
        rows = [["check", "claimed", "found", ""]]
        rows += [[c.check, _short(c.claimed), _short(c.found), "ok" if c.ok else "DIFFERS"] for c in result.checks]
        out(columns(rows))
    return 0 if result.ok else 1


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


_VERBS: dict[str, Callable[[Namespace], int]] = {
    "search": _search,
    "show": _show,
    "netadapt": _netadapt,
    "train": _train,
    "export": _export,
    "import": _import,
    "accuracy": _predict_accuracy,
    "zoo": _zoo,
    "supernet": _supernet,
    "verify": _verify,
    "worker": _worker,
}
