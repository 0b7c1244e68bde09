"""From the network that a run starts NetAdapt with to the finished run directory."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from mbv3.accuracy import OFA, Estimate
from mbv3.errors import Mbv3Error, Unreachable
from mbv3.events import Done, Event, Note
from mbv3.export import Examples, compared
from mbv3.files import write_atomic
from mbv3.graph import network_model, quantized
from mbv3.record import Accuracy, Baseline, DeviceTime, LayerTime, Limit, SearchRecord
from mbv3.report import write_report
from mbv3.runs.export_images import Inputs
from mbv3.runs.exporting import INT8_IMAGES, calibration_images
from mbv3.runs.options import Options
from mbv3.runs.prepare import TABLE, table_name
from mbv3.runs.result import Found, times_text
from mbv3.runs.rundir import RunDir, file_sha256
from mbv3.spec import ArchSpec, count, dump_spec, pixels
from mbv3.stages import Adapted, Budget, Images, photos_in, reference_times, subset
from mbv3.tables import Latency, SeveralLatency
from mbv3.tasks import spread
from mbv3.training import load_checkpoint, read_weights, save_checkpoint, save_weights

__all__ = ["SPEC", "WEIGHTS", "budget_of", "deliver", "guarded", "predicted_accuracy", "remove_checkpoints",
           "write_weights"]  # fmt: skip

INT8_REPORT = 512  # held-out images that the int8 file answers
SPEC, WEIGHTS, ONNX = "mobilenetv3.yaml", "weights.safetensors", "mobilenetv3.onnx"


def budget_of(o: Options) -> Budget:
    """The minutes of a run with images, and whether amounts may follow this machine's speed."""
    return Budget(o.minutes, timed=o.timed)


def predicted_accuracy(estimate: Estimate) -> Accuracy:
    """The ImageNet accuracy of the network that is delivered."""
    why = f"; extrapolated: {estimate.why}" if estimate.extrapolated else ""
    of = f"this network after training by the recipe {estimate.recipe}"
    if estimate.recipe == OFA:
        of = "the delivered weights after their batch norms are recalibrated on ImageNet images"
    return Accuracy(
        value=round(estimate.value, 3), error=round(estimate.error, 3), kind="imagenet", unit="%",
        note=f"predicted ImageNet top-1 of {of}{why}",
        source=estimate.source, recipe=estimate.recipe, extrapolated=estimate.extrapolated,
    )  # fmt: skip


def guarded(run: RunDir[SearchRecord], work: Generator[Event, None, Found]) -> Generator[Event, None, Found]:
    """Run `work` with the directory locked; how it ends is kept in run.json."""
    run.lock()
    try:
        run.update(status="running", exit=None, error=None)
        return (yield from work)
    except Unreachable as e:
        run.update(status="unreachable", exit=3, error=str(e), range_ms=(e.smallest_ms, e.largest_ms))
        raise
    except Mbv3Error as e:
        run.update(status="failed", exit=e.exit_code, error=str(e))
        raise
    except (KeyboardInterrupt, GeneratorExit):
        run.update(status="interrupted", exit=4)
        raise
    except Exception as e:
        run.update(status="failed", exit=1, error=f"{type(e).__name__}: {e}")
        raise
    finally:
        run.unlock()


def deliver(
    o: Options, run: RunDir[SearchRecord], adapted: Adapted, images: Images | None, latency: Latency
) -> Generator[Event, None, Found]:
    """What NetAdapt left, or a supernet gave, as it is: results and report; its weights where it has some."""
    spec = _write_result(o, run, adapted, latency)
    if adapted.state is not None:
        write_weights(run, spec, adapted.state, images)
    _finish(o, run, adapted, spec, latency)
    yield Note("report", f"wrote {write_report(run.path)}")
    if not adapted.reached and o.supernet:
        raise Mbv3Error(f"measured whole it takes {adapted.ms:.3g} ms, over the target of {o.target_ms:g} ms; the "
                        f"network is {run.file(SPEC)}. Go on with a smaller --target-ms")  # fmt: skip
    if not adapted.reached:
        raise Mbv3Error(
            f"NetAdapt could cut no further: {adapted.ms:.3g} ms, over the target of {o.target_ms:g} ms; the smallest "
            f"network it passed is {run.file(SPEC)}. Give a smaller --scale"
        )
    yield Done("run", _verdict(run, spec))
    return Found(run.path, run.record)


def _write_result(o: Options, run: RunDir[SearchRecord], adapted: Adapted, latency: Latency) -> ArchSpec:
    """mobilenetv3.yaml with its provenance, and the table."""
    r = run.record
    assert r.scale is not None and r.device is not None and r.accuracy is not None
    provenance = (
        ("tool", f"mbv3-search {r.version}"),
        ("target_ms", o.target_ms),
        ("device", r.device.cpu),
        ("runtime", f"{r.device.runtime} {r.device.runtime_version}"),
        ("precision", r.device.precision),
        ("threads", r.device.threads),
        ("space", r.scale.space),
        ("width", r.scale.width),
        ("accuracy", r.accuracy.kind),
        ("sampler", o.sampler_name),
        ("seed", o.seed),
        ("table_sha256", r.hashes["table"]),
        ("weights", _origin(run, adapted)),
    )
    spec = replace(adapted.spec, name=f"found_{o.target_ms:g}ms", provenance=provenance)
    run.text(SPEC, dump_spec(spec))
    latency.table.save(run.file(TABLE))
    verdict = adapted.verdict
    run.update(
        predicted_ms=adapted.predicted_ms,
        measured_ms=verdict and verdict.ms,
        measured_error_ms=verdict and verdict.error_ms,
        raw_reference_ms=verdict and verdict.raw_reference_ms,
    )
    return spec


def _origin(run: RunDir[SearchRecord], adapted: Adapted) -> str:
    """Where the delivered weights are from."""
    init = run.record.init
    if adapted.state is None:
        return "none"
    return "user's images" if init is None else f"{init.network}, sha256 {init.sha256}"


def write_weights(run: RunDir[SearchRecord], spec: ArchSpec, weights: dict[str, Tensor], images: Images | None) -> None:
    """weights.safetensors, mobilenetv3.onnx, and what was timed beside it where that is int8 and there are images."""
    save_weights(run.file(WEIGHTS), weights, (spec.mean, spec.std), network=spec.name)
    state = {k: v.numpy() for k, v in read_weights(run.file(WEIGHTS)).items()}
    model = network_model(spec, state)
    write_atomic(run.file(ONNX), model)
    timed_int8 = run.record.device is not None and run.record.device.precision == "int8"
    if timed_int8 and images is None:
        run.note("the network was timed in int8, whose ranges need images: mbv3 export --precision int8 --data DIR")
    elif timed_int8 and images is not None:
        index = spread(len(images.train), INT8_IMAGES)
        some, _ = images.train.batch(index, images.size, "none", np.random.default_rng(0))
        int8 = quantized(model, calibration_images(some, spec))
        write_atomic(run.file("mobilenetv3.int8.onnx"), int8)
        if images.work.task != "classify":
            run.note("mobilenetv3.int8.onnx is the network that was timed; its answers were not compared")
            return
        held = photos_in(subset(images.held_out, INT8_REPORT))
        seen = Inputs(held.images, spec.resolution, np.arange(len(held)), (spec.mean, spec.std))
        answers = compared(model, int8, Examples(seen, held.labels))
        run.note(f"mobilenetv3.int8.onnx is the network that was timed: top-1 on {answers.n} held-out images is "
                 f"{answers.fp32:.1f} % in fp32 and {answers.int8:.1f} % in int8; mbv3 export --precision int8 --data "
                 "DIR chooses what stays in float, and so keeps more of it")  # fmt: skip


def _finish(o: Options, run: RunDir[SearchRecord], adapted: Adapted, spec: ArchSpec, latency: Latency) -> None:
    prediction = latency.table.predict(spec, estimate=True)
    counts, has = count(spec), o.limits.of(spec)
    assert run.record.scale is not None
    references = reference_times(spec, run.record.scale.width, latency)
    run.hash(**{name: file_sha256(run.file(name)) for name in (SPEC, WEIGHTS) if run.file(name).exists()})
    factor = latency.correction
    run.update(
        status="done" if adapted.reached else "failed",
        exit=0 if adapted.reached else 1,
        spec=SPEC,
        params=counts.params,
        madds=counts.madds,
        devices=_device_times(o, spec, latency),
        limits=tuple(Limit(name=name, most=most, found=round(has[name], 6)) for name, most in o.limits),
        references=tuple(Baseline(name=r.name, ms=round(r.ms, 4), accuracy=None) for r in references),
        netadapt_accuracy=round(adapted.accuracy, 3),
        correction=factor,
        estimated_layers=prediction.estimated,
        rows_ms=tuple(LayerTime(path=p, ms=round(ms * factor, 5), estimated=e) for p, ms, e in prediction.rows),
        total_s=round(sum(run.record.stages.values()), 1),
    )
    if adapted.reached:
        remove_checkpoints(run)


def _device_times(o: Options, spec: ArchSpec, latency: Latency) -> tuple[DeviceTime, ...]:
    """The network on each of several devices; nothing where there is one."""
    if not isinstance(latency, SeveralLatency):
        return ()
    weights = latency.weights or (None,) * len(o.devices)
    return tuple(
        DeviceTime(name=name, table=table_name(i), ms=round(device([spec])[0], 5), weight=weight)
        for i, (name, device, weight) in enumerate(zip(o.devices, latency.devices, weights, strict=True))
    )


def _checkpoints(run: RunDir[SearchRecord]) -> Iterator[Path]:
    for pattern in ("seed-training", "netadapt", "road-*"):
        yield from run.path.glob(f"{pattern}.safetensors")
    yield from run.path.glob("cut-*/netadapt*.safetensors")
    for pattern in ("pixels-*.u8", "pixels-*.json"):
        yield from run.path.glob(pattern)
    if run.record.network is None:  # nothing goes on from the networks that a search passed
        yield from run.path.glob("curve/*.safetensors")


def remove_checkpoints(run: RunDir[SearchRecord]) -> None:
    """Remove what only a resumed run needs. Shared weights stay, for `mbv3 supernet check`, without what their training
    remembers."""
    for file in _checkpoints(run):
        file.unlink()
    shared = run.file("supernet.safetensors")
    found = load_checkpoint(shared)
    if found is not None and len(found[0]) > 1:
        save_checkpoint(shared, {"net": found[0]["net"]}, found[1])


def _verdict(run: RunDir[SearchRecord], spec: ArchSpec) -> str:
    r = run.record
    counts = count(spec)
    times = times_text(r)
    if r.measured_ms is not None:
        time_text = f"{times['measured']} measured whole ({times['predicted']} predicted)"
    else:
        time_text = f"{times['predicted']} predicted, not measured"
    return (
        f"{time_text}, target {r.target_ms:g} ms; {counts.params / 1e6:.2f} M parameters, "
        f"{counts.madds / 1e6:.0f} M MAdds at {pixels(spec.resolution)} px; {run.file(SPEC)}"
    )
