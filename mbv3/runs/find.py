"""`find`: from a target in milliseconds to a network, stage by stage, every stage resumable."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mbv3 import __version__
from mbv3.data import peek_class_folder
from mbv3.errors import BadInput, Mbv3Error, MissingLayerError, Unreachable
from mbv3.events import Done, Event, Note, Progress, StageStart
from mbv3.files import write_atomic
from mbv3.graph import network_model, quantized
from mbv3.latency import Device, LatencyTable, open_runtime
from mbv3.report import write_report
from mbv3.runs.exporting import calibration_images
from mbv3.runs.options import Options
from mbv3.runs.rundir import RunDir, file_sha256, versions
from mbv3.search import Search, Trial, imagenet_top1, make_reward
from mbv3.space import Additive, Genome, SearchSpace, layer_keys, load_space, parse_scale, scale, tabulate
from mbv3.spec import ArchSpec, count, dump_spec, load_spec, parse_resolution, pixels, read_spec, scale_spec
from mbv3.stages.adapt import Shrunk, shrink
from mbv3.stages.compare import train_and_compare
from mbv3.stages.judge import Images, Judge, load_images, prepare
from mbv3.stages.scale import check_range, choose_scale, quick_ms
from mbv3.tables import TABLE_MINUTES, Latency, open_table, read_table, reference_of, table_plan
from mbv3.training import read_weights, save_weights

__all__ = ["find", "times_text"]

TRIALS = {"imagenet": 4000, "supernet": 240, "train": 24}
_BATCH = 20


def find(
    target_ms: float | None = None, out: str | Path | None = None, resume: str | Path | None = None, **options: Any
) -> Iterator[Event]:
    """Find a network that runs in `target_ms` on the device; what mbv3-search runs.

    `options` are those of `Options`. `resume` goes on with an interrupted run directory under its own options.
    Yields events, at last Done with the contents of run.json.

    Raises:
        BadInput: an option, a file or a folder cannot be used.
        Unreachable: the target lies outside what the space can reach on this device.
    """
    if resume is not None:
        if target_ms is not None or out is not None or options:
            raise BadInput("--resume goes on with the run's own options; give it alone")
        run = RunDir.open(Path(resume))
        try:
            asked = Options.of(run.record["args"])
        except TypeError as e:
            raise BadInput(f"{run.path / 'run.json'}: its args were edited ({e})") from None
        if run.record["status"] == "done":
            _remove_checkpoints(run)  # it may have been killed between its last two steps
            if not (run.path / "report.html").exists():
                yield Note("report", f"wrote {write_report(run.path)}")
            yield Done("run", f"{run.path} is finished", run.record)
            return
        if "network" in run.record:
            from mbv3.runs.netadapt import alone_stages

            yield from guarded(run, alone_stages(asked, run))
            return
    else:
        if target_ms is None:
            raise BadInput("--target-ms is missing: how many milliseconds may one image take?")
        asked = Options.of({"target_ms": target_ms, **options})
        space = load_space(asked.space_name)  # a bad space is told before anything is made
        if asked.accuracy_kind == "imagenet":
            imagenet_top1(space, [tuple(0 for _ in space.sizes)])
        asked.headed(scale(space, 1.0, asked.pinned_resolution))
        if asked.data is not None:
            peek_class_folder(Path(asked.data))
        if asked.test is not None:
            peek_class_folder(Path(asked.test), like=Path(str(asked.data)))
        if asked.estimate_only:
            table, _ = read_table(asked.device, asked.runtime, asked.threads, asked.force_table)
            try:
                _ = table.cost_model  # NetAdapt's cuts will need it, long after this
            except BadInput as e:
                raise BadInput(f"{asked.device}: too small a table to estimate cut layers from ({e})") from None
        record = {
            "version": __version__, "command": _command(asked), "args": asked.as_dict(),
            "target_ms": asked.target_ms, "versions": versions(), "seeds": {"search": asked.seed},
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "hashes": {},
        }  # fmt: skip
        run = RunDir.create(Path(out) if out is not None else _free_folder(asked.target_ms), record)
        yield Note("run", f"run directory {run.path}")
    yield from guarded(run, _stages(asked, run))


def guarded(run: RunDir, stages: Iterator[Event]) -> Iterator[Event]:
    """Run the stages, the directory locked; how they end is kept in run.json."""
    run.lock()
    try:
        run.record.pop("error", None)
        run.save(status="running", exit=None)
        yield from stages
    except Unreachable as e:
        run.save(status="unreachable", exit=3, error=str(e), range_ms=[e.smallest_ms, e.largest_ms])
        raise
    except Mbv3Error as e:
        run.save(status="failed", exit=e.exit_code, error=str(e))
        raise
    except (KeyboardInterrupt, GeneratorExit):
        run.save(status="interrupted", exit=4)
        raise
    finally:
        run.unlock()


def _free_folder(target_ms: float) -> Path:
    base = Path("runs") / f"{target_ms:g}ms"
    if not base.exists():
        return base
    n = 2
    while base.with_name(f"{base.name}-{n}").exists():
        n += 1
    return base.with_name(f"{base.name}-{n}")


def _command(o: Options) -> str:
    parts = ["mbv3-search"]
    default = Options(target_ms=1.0)
    for name, value in o.as_dict().items():
        if name == "target_ms" or value != getattr(default, name):
            flag = "--" + name.replace("_", "-")
            text = f"{value:g}" if isinstance(value, float) else str(value)
            parts.append(flag if value is True else f"{flag} {text}")
    return " ".join(parts)


def _stages(o: Options, run: RunDir) -> Iterator[Event]:
    space, table, device = yield from _device_and_table(o, run)
    latency = Latency(table, device, space.dress)
    if o.estimate_only:
        note = f"nothing was timed in this run: latencies are predictions from the table {Path(o.device).name}"
        run.note(note)
        yield Note("table", note, warning=True)
    if o.segment:
        run.save(task=o.task, head=o.dense, classes=o.dense_classes, output_stride=space.output_stride)
        note = (
            f"the search ranked backbones by their accuracy as classifiers; the {o.dense} head counts with its time, "
            "and its weights are as initialised"
        )
        run.note(note)
        yield Note("search", note, warning=True)
    additive = _additive(space, latency)
    c = table.calibration.c
    smallest, largest = (additive.extreme(big)[0] + c for big in (False, True))
    run.save(range_ms=[smallest, largest])
    check_range(o.target_ms, smallest, largest, space, o.scale != "auto")
    yield Note("table", f"networks of the space take {smallest:.3g} to {largest:.3g} ms here")

    images: Images | None = None
    if o.data is not None:
        with run.stage("images"):
            yield StageStart("images", f"reading {o.data}")
            images = load_images(o, space)
            run.record["hashes"]["data"] = images.train.sha256
            run.save()
    with run.stage("accuracy"):
        judge: Judge | None = None
        for event in prepare(o, run, space, images or load_images(o, space)):
            if isinstance(event, Judge):
                judge = event
            else:
                yield event
        assert judge is not None
    with run.stage("search"):
        seed_trial = yield from _search(o, run, space, judge, additive, c)
    genome = seed_trial.genome
    seed_spec = space.spec(genome, f"seed_{o.target_ms:g}ms")
    run.write("seed.yaml", dump_spec(space.dress(seed_spec)))
    run.save(
        seed_ms=seed_trial.latency_ms,
        seed_trial=seed_trial.number,
        accuracy={"value": round(seed_trial.accuracy, 3), "kind": judge.kind, "unit": "%", "note": judge.note},
    )

    images = images or load_images(o, space)
    yield from conclude(o, run, genome, seed_spec, judge, images, latency)


def conclude(
    o: Options, run: RunDir, genome: Genome, seed_spec: ArchSpec, judge: Judge, images: Images, latency: Latency
) -> Iterator[Event]:
    """From the seed to the finished run directory: NetAdapt, verdict, results, training, report."""
    if images.procedural:
        note = (
            "no images were given: NetAdapt chose its cuts on a small built-in task of procedurally generated images, "
            "and the weights are trained on that task only; give --data DIR for a choice on your images"
        )
        run.note(note)
        yield Note("netadapt", note, warning=True)
    shrunk: Shrunk | None = None
    with run.stage("netadapt"):
        for item in shrink(o, run, genome, seed_spec, judge, images, latency):
            if isinstance(item, Shrunk):
                shrunk = item
            else:
                yield item
    assert shrunk is not None
    spec = _write_result(o, run, shrunk, images, latency)
    if not images.procedural:
        with run.stage("training"):
            yield from train_and_compare(o, run, spec, images, latency.device, shrunk.accuracy)
        _trained_weights(run, spec, images)
    _finish(run, shrunk, spec, latency)
    report = write_report(run.path)
    yield Note("report", f"wrote {report}")
    if not shrunk.reached:
        ms = shrunk.verdict.ms if shrunk.verdict else shrunk.predicted_ms
        raise Mbv3Error(
            f"NetAdapt could cut no further: {ms:.3g} ms, over the target of {o.target_ms:g} ms; the smallest network "
            f"it passed is {run.path / 'mobilenetv3.yaml'}. Give a smaller --scale"
        )
    yield Done("run", _verdict(run), run.record)


def _device_and_table(
    o: Options, run: RunDir
) -> Generator[Event, None, tuple[SearchSpace, LatencyTable, Device | None]]:
    """Scale and table. Returns (scaled space, table, device at hand or None)."""
    base = o.headed(scale(load_space(o.space_name), 1.0, o.pinned_resolution))
    classes, most = None, None
    if o.data is not None:
        classes, _, side = peek_class_folder(Path(o.data))
        most = max(32, min(1024, -(-2 * side // 32) * 32))  # finer than twice the pictures there is nothing to see
    own = run.path / "latency-table.csv"
    if o.estimate_only:
        with run.stage("table"):
            # a resumed run keeps to its copy: the file may have changed, moved, or be named from another folder
            source = str(own) if own.exists() else o.device
            table, caveat = read_table(source, o.runtime, o.threads, o.force_table)
            if caveat and source == o.device:
                run.note(caveat)
                yield Note("table", caveat, warning=True)
            about = dict(table.about or {})
            fixed = parse_scale(o.scale)
            width = fixed[0] if fixed else None
            if table.model is not None:
                predicted = partial(_predicted_ms, table)
                choice = choose_scale(
                    predicted, base, width, o.pinned_resolution, o.target_ms, o.seed_ratio, classes, most
                )
                space, why = choice.space, choice.why
            else:
                res = o.asked_resolution
                if width is None:  # an older table tells the side of a square
                    width = float(about.get("width", 1))
                    res = res or parse_resolution(str(about.get("resolution", 224)))
                space = scale(base, width, res, classes)
                whose = "as asked" if fixed else "the scale of the table"
                why = f"width {width:g} at {pixels(space.resolution)} px, {whose}"
            missing = _rows_missing(space, table)
            if missing and table.model is None:
                note = f"{missing} layers of the space are not in the table and are estimated"
                run.note(note)
                yield Note("table", note, warning=True)
            if not own.exists():
                table.save(own)
            _save_scale(run, space, why, table, None)
            if "table" not in run.record["hashes"]:
                run.record["hashes"]["table"] = file_sha256(own if table.model is not None else Path(o.device))
                run.save()
        return space, table, None
    runtime = open_runtime(o.runtime, o.threads)
    scaled = run.record.get("scale")
    with run.stage("scale"):
        if scaled is None:
            yield StageStart("scale", f"timing networks of space {base.name} on {runtime.fingerprint.cpu}")
            timed = partial(quick_ms, runtime)
            choice = choose_scale(
                timed, base, (parse_scale(o.scale) or (None,))[0], o.pinned_resolution, o.target_ms, o.seed_ratio,
                classes, most,
            )  # fmt: skip
            space = choice.space
            yield Note("scale", choice.why)
            run.save(
                scale=_scale(space, choice.why),
                device={**runtime.fingerprint.as_dict(), "load_at_start": os.getloadavg()[0]},
            )
        else:
            space = scale(base, float(scaled["width"]), parse_resolution(str(scaled["resolution"])), classes)
    with run.stage("table"):
        found = LatencyTable.load(own) if own.exists() else None
        if found is None:
            found = yield from open_table(runtime, table_plan(space), rebuild=o.rebuild_table, minutes=TABLE_MINUTES)
        found.require(runtime.fingerprint, str(own))
        found.save(own)
        run.record["hashes"]["table"] = run.record["hashes"].get("table") or file_sha256(own)
        device = Device(runtime, reference_of(found), found.reference_ms)
        _save_scale(run, space, run.record["scale"]["why"], found, device)
        report = found.report or {}
        if report:
            yield Note(
                "table",
                f"the table predicts whole networks to {report.get('rmspe')} % RMSPE, {report.get('within_5')} % "
                f"within 5 % (noise floor {report.get('noise_floor')} %)",
            )
    return space, found, device


def _predicted_ms(table: LatencyTable, specs: Sequence[ArchSpec]) -> list[float]:
    return [table.latency_ms(s, estimate=True) for s in specs]


def _rows_missing(space: SearchSpace, table: LatencyTable) -> int:
    return sum(k not in table.layers for k in layer_keys(space))


def _scale(space: SearchSpace, why: str) -> dict[str, Any]:
    return {"space": space.name, "width": space.width, "resolution": pixels(space.resolution), "why": why}


def _save_scale(run: RunDir, space: SearchSpace, why: str, table: LatencyTable, device: Device | None) -> None:
    ref = table.reference
    changes: dict[str, Any] = {
        "scale": _scale(space, why),
        "reference_ms": table.reference_ms,
        "reference": f"{ref['spec']}@{ref['width']:g}, {pixels(reference_of(table).resolution)} px",
    }
    if device is None:
        changes["device"] = table.fingerprint.as_dict()
    run.save(**changes)


def _additive(space: SearchSpace, latency: Latency) -> Additive:
    """The calibrated latency of every network of the space, less the calibration's constant."""
    table = latency.table
    c = table.calibration

    def ms(key: Any) -> float:
        return c.layer_ms(key, table.hot_ms(key, estimate=latency.device is None))

    try:
        return tabulate(space, ms)
    except MissingLayerError as e:
        raise BadInput(
            f"the latency table does not hold this space; measure it anew with --rebuild-table ({e})"
        ) from None


def _search(
    o: Options, run: RunDir, space: SearchSpace, judge: Judge, additive: Additive, c: float
) -> Generator[Event, None, Trial]:
    """The search stage. Returns the seed's trial."""
    plan: dict[str, Any] = run.record.setdefault("plan", {})
    history = run.read_trials(space, o.estimate_only)

    def latency_ms(genome: Genome) -> float:
        return float(additive(np.array([genome]))[0]) + c

    tar = o.target_ms * o.seed_ratio
    if "w" not in plan:
        # the paper's -0.15 belongs to its small network, a third of the large one's time
        small = o.target_ms < 0.4 * float(run.record["reference_ms"])
        plan["w"] = o.w if o.w is not None else -0.1 if o.reward == "tunas" else -0.15 if small else -0.07
    search = Search(
        space, judge.accuracy, latency_ms, make_reward(o.reward, tar, plan["w"]),
        sampler=o.sampler, seed=o.seed, history=history,
    )  # fmt: skip
    if "trials" not in plan:
        trials = o.trials or TRIALS[judge.kind]
        if o.trials is None and judge.kind == "supernet":
            middle = tuple(n // 2 for n in space.sizes)
            judge.accuracy(middle)
            t0 = time.monotonic()
            judge.accuracy(middle)
            trials = int(min(400, max(40, 0.15 * o.minutes * 60 / (time.monotonic() - t0))))
        plan["trials"] = trials
        run.save()
    trials = plan["trials"]
    done = list(history)
    pending: list[Trial] = []
    began, before = time.monotonic(), len(done)
    yield StageStart(
        "search",
        f"{o.sampler}: {trials} trials of {space.size:.2g} networks, reward {o.reward} with w {plan['w']:g}, "
        f"TAR {tar:g} ms" + (f", going on after {before}" if before else ""),
    )
    threads = torch.get_num_threads()
    if judge.kind == "imagenet":
        torch.set_num_threads(1)  # the controller's matrices are too small to share
    try:
        told = 0.0
        for trial in search.run(trials):
            done.append(trial)
            pending.append(trial)
            if len(done) % _BATCH == 0 or len(done) >= trials:
                run.append_trials(pending, o.estimate_only)
                pending = []
            now = time.monotonic()
            if now - told > 1 or len(done) >= trials:
                told = now
                rate = (len(done) - before) / max(now - began, 1e-9)
                best = max((t.reward for t in done if t.state == "complete"), default=float("nan"))
                text = f"best reward {best:.4f}"
                yield Progress("search", len(done), trials, text, (trials - len(done)) / rate)
    finally:
        torch.set_num_threads(threads)
        if pending:
            run.append_trials(pending, o.estimate_only)
    return _pick_seed(o, done)


def _pick_seed(o: Options, trials: Sequence[Trial]) -> Trial:
    """The network handed to NetAdapt: the most accurate between the target and seed_ratio times it; else the nearest
    one above; else, as nothing needs shrinking, the most accurate below."""
    good = [t for t in trials if t.state == "complete"]
    if not good:
        raise Mbv3Error("the search has no finite trial: every accuracy or latency was not a number")
    window = [t for t in good if o.target_ms <= t.latency_ms <= 1.02 * o.seed_ratio * o.target_ms]
    if window:
        return max(window, key=lambda t: (t.accuracy, -t.latency_ms, -t.number))
    above = [t for t in good if t.latency_ms > o.target_ms]
    if above:
        return min(above, key=lambda t: (t.latency_ms, t.number))
    return max(good, key=lambda t: (t.accuracy, -t.latency_ms, -t.number))


def _write_result(o: Options, run: RunDir, shrunk: Shrunk, images: Images, latency: Latency) -> ArchSpec:
    """mobilenetv3.yaml with its provenance, weights, ONNX."""
    scale_of = run.record["scale"]
    untrained = "; the head's as initialised" if o.segment else ""
    provenance = (
        ("tool", f"mbv3-search {run.record['version']}"),
        ("target_ms", o.target_ms),
        ("device", str(run.record["device"]["cpu"])),
        ("runtime", f"{run.record['device']['runtime']} {run.record['device']['runtime_version']}"),
        ("precision", str(run.record["device"]["precision"])),
        ("threads", int(run.record["device"]["threads"])),
        ("space", str(scale_of["space"])),
        ("width", float(scale_of["width"])),
        ("accuracy", str(run.record["accuracy"]["kind"])),
        ("sampler", o.sampler),
        ("seed", o.seed),
        ("table_sha256", str(run.record["hashes"]["table"])),
        ("weights", ("procedural images" if images.procedural else "user's images") + untrained),
    )
    spec = replace(shrunk.spec, name=f"found_{o.target_ms:g}ms", provenance=provenance)
    run.write("mobilenetv3.yaml", dump_spec(spec))
    save_weights(run.path / "weights.safetensors", shrunk.state, network=spec.name)
    _write_onnx(run, spec, images)
    latency.table.save(run.path / "latency-table.csv")
    verdict = shrunk.verdict
    run.save(
        predicted_ms=shrunk.predicted_ms,
        measured_ms=verdict and verdict.ms,
        measured_error_ms=verdict and verdict.error_ms,
        raw_reference_ms=verdict and verdict.raw_reference_ms,
    )
    return spec


def _write_onnx(run: RunDir, spec: ArchSpec, images: Images) -> None:
    """mobilenetv3.onnx, and what was timed beside it where that is int8."""
    state = {k: v.numpy() for k, v in read_weights(run.path / "weights.safetensors").items()}
    model = network_model(spec, state)
    write_atomic(run.path / "mobilenetv3.onnx", model)
    if run.record["device"]["precision"] == "int8":
        few = calibration_images(images.train.images, spec.resolution)
        write_atomic(run.path / "mobilenetv3.int8.onnx", quantized(model, few))
        run.note("mobilenetv3.int8.onnx is the network that was timed; its accuracy in int8 was not judged")


def _trained_weights(run: RunDir, spec: ArchSpec, images: Images) -> None:
    """After training from scratch: its weights replace NetAdapt's where they are better on the same images."""
    from mbv3.training import load_checkpoint

    kept = load_checkpoint(run.path / "trained-0.safetensors")
    if kept is not None and run.record["plan"].get("keep_trained"):
        save_weights(run.path / "weights.safetensors", kept[0]["net"], network=spec.name)
        _write_onnx(run, spec, images)


def _finish(run: RunDir, shrunk: Shrunk, spec: ArchSpec, latency: Latency) -> None:
    prediction = latency.table.predict(spec, estimate=True)
    counts = count(spec)
    references = []
    for name in ("mobilenet_v3_large", "mobilenet_v3_small"):
        width = float(run.record["scale"]["width"])
        ref = scale_spec(load_spec(name), width, spec.resolution)
        ref = replace(ref, head=replace(ref.head, classes=spec.head.classes))
        ref = latency.dress(ref)
        if latency.device is not None:
            ms = latency.device.networks([ref]).ms[0]
        else:
            ms = latency.table.predict(ref, estimate=True).ms
        references.append({"name": f"{name}@{width:g}", "ms": round(ms, 4), "accuracy": None})
    for name in ("mobilenetv3.yaml", "weights.safetensors"):
        run.record["hashes"][name] = file_sha256(run.path / name)
    run.save(
        status="done" if shrunk.reached else "failed",
        exit=0 if shrunk.reached else 1,
        spec="mobilenetv3.yaml",
        params=counts.params,
        madds=counts.madds,
        references=references,
        netadapt_accuracy=round(shrunk.accuracy, 3),
        correction=latency.correction,
        estimated_layers=prediction.estimated,
        rows_ms=[{"path": p, "ms": round(ms * latency.correction, 5), "estimated": e} for p, ms, e in prediction.rows],
        total_s=round(sum(run.record["stages"].values()), 1),
    )
    if shrunk.reached:
        _remove_checkpoints(run)


def _remove_checkpoints(run: RunDir) -> None:
    """What only a resumed run needs."""
    for pattern in ("supernet", "seed-training", "netadapt", "trained-*", "training-*"):
        for file in run.path.glob(f"{pattern}.safetensors"):
            file.unlink()


def times_text(record: Mapping[str, Any]) -> dict[str, str]:
    """`measured`, with its standard error, and `predicted` of run.json as they are printed."""
    ms, error, predicted = record["measured_ms"], record.get("measured_error_ms"), record["predicted_ms"]
    digits = 2 if predicted >= 10 else 3
    told = "not measured"
    if ms is not None:
        told = f"{ms:.{digits}f}" + (f" +- {error:.{digits}f}" if error is not None else "") + " ms"
    return {"measured": told, "predicted": f"{predicted:.{digits}f} ms"}


def _verdict(run: RunDir) -> str:
    r = run.record
    spec = read_spec(run.path / "mobilenetv3.yaml")
    counts = count(spec)
    if r["measured_ms"] is not None:
        time_text = f"{times_text(r)['measured']} measured whole ({times_text(r)['predicted']} predicted)"
    else:
        time_text = f"{times_text(r)['predicted']} predicted, not measured"
    return (
        f"{time_text}, target {r['target_ms']:g} ms; {counts.params / 1e6:.2f} M parameters, "
        f"{counts.madds / 1e6:.0f} M MAdds at {pixels(spec.resolution)} px; {run.path / 'mobilenetv3.yaml'}"
    )
