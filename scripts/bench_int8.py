"""What int8 loses and gains, setting by setting: results/int8.json.

python scripts/bench_int8.py mobilenet_v3_small --weights FILE --data DIR [--padding tensorflow] [--seeds 0 1 2]
                             [--resolution PX] [--turns 3] [--only-choice] [--out results/int8.json]
python scripts/bench_int8.py table [--out results/int8.json]

DIR: photographs called <anything>_<class index>.jpg, or class folders with the network's classes. For each seed the
photographs are divided: a third calibrates, a third chooses, a third reports. With --turns 3 the thirds change places,
so that every photograph reports once a seed, by a file that it had no part in. Rows: ONNX Runtime's quantizer by its
own options, then our files, each setting changed alone, and the file that `mbv3 export` would choose. `times_as_fast`
is the ratio to fp32 on one thread, both timed by turns. What is there of a network, seed and turn is not made again.
`table` prints the means over seeds, in Markdown; the error of the points lost is that of all photographs, in pairs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from json_lines import short_commit
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from mbv3.data import Pixels, decode_all, find_class_folder, find_images, normalise
from mbv3.events import result
from mbv3.export import Examples, choose_int8, compared, ratio, read_any_weights
from mbv3.files import write_atomic
from mbv3.graph import Recipe, calibrate, mixed, network_model, quantized
from mbv3.spec import ArchSpec, Classify, load_spec, with_head

ROOT = Path(__file__).resolve().parents[1]
RANGES = 32  # images that the library's quantizer and the settings changed alone are calibrated on


def photographs(folder: Path, spec: ArchSpec, labels: Sequence[str], most: int) -> tuple[Any, NDArray[np.int64]]:
    """Pixels and class indices, at most `most`, drawn evenly."""
    if any(p.is_dir() for p in folder.iterdir()):
        names, found = find_class_folder(folder)
        files = [p for p, _ in found]
        truth = [list(labels or names).index(names[c]) for _, c in found]
    else:
        files = find_images(folder)
        truth = [int(p.stem.rpartition("_")[2]) for p in files]
    drawn = np.sort(np.random.default_rng(0).permutation(len(files))[:most])
    pixels = decode_all([files[i] for i in drawn], spec.resolution, folder, "middle").pixels
    return pixels, np.array(truth, np.int64)[drawn]


def inputs(pixels: Pixels, spec: ArchSpec, i: int) -> NDArray[np.float32]:
    """(1, 3, H, W), as the network takes it."""
    one: NDArray[np.float32] = normalise(pixels[np.array([i])], spec.resolution).contiguous().numpy()
    return one


def library(model: bytes, images: Sequence[NDArray[np.float32]], **options: Any) -> bytes:
    """ONNX Runtime's quantizer with its own options."""

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = list(images)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return {"input": self.left.pop()} if self.left else None

    given = {
        "quant_format": QuantFormat.QDQ, "per_channel": True, "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "int8.onnx"
        quantize_static(onnx.load_from_string(model), out, Reader(), **{**given, **options})
        return out.read_bytes()


def equalised(model: bytes) -> bytes:
    """Nagel 2019, section 4.1 (arXiv:1906.04721): channel ranges of two convolutions made equal across a ReLU."""
    net = onnx.load_from_string(model)
    tensors = {t.name: t for t in net.graph.initializer}
    made = {n.output[0]: n for n in net.graph.node}
    takers: dict[str, list[str]] = {}
    for n in net.graph.node:
        for x in n.input:
            takers.setdefault(x, []).append(n.name)
    for second in (n for n in net.graph.node if n.op_type == "Conv"):
        relu = made.get(second.input[0])
        first = made.get(relu.input[0]) if relu is not None and relu.op_type in ("Relu", "Clip") else None
        if relu is None or first is None or first.op_type != "Conv" or len(takers[relu.output[0]]) > 1:
            continue
        a, b, c = (numpy_helper.to_array(tensors[x]) for x in (first.input[1], first.input[2], second.input[1]))
        depthwise = c.shape[1] == 1 and len(c) == len(a)
        ours = np.abs(a).max(axis=(1, 2, 3))
        theirs = np.abs(c).max(axis=(1, 2, 3) if depthwise else (0, 2, 3))
        s = np.clip(np.sqrt(np.maximum(ours, 1e-8) / np.maximum(theirs, 1e-8)), 0.1, 10).astype(np.float32)
        if relu.op_type == "Clip":
            s = np.maximum(s, 1)  # the clip at 6 becomes one at 6 s, so that answers change
        c = c * (s[:, None, None, None] if depthwise else s[None, :, None, None])
        for name, value in (
            (first.input[1], a / s[:, None, None, None]),
            (first.input[2], b / s),
            (second.input[1], c),
        ):
            tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), name))
    return net.SerializeToString()


def settings(
    model: bytes, images: Sequence[NDArray[np.float32]], chosen: Recipe
) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """(name, how the file is made)."""
    few = images[:RANGES]
    u8, s8 = QuantType.QUInt8, QuantType.QInt8
    yield "as it was: quantize_static, u8 s8, a scale a channel, QDQ", lambda: quantized(model, few)
    for name, options in (
        ("a scale a tensor", {"per_channel": False}),
        ("QOperator", {"quant_format": QuantFormat.QOperator}),
        ("reduce_range", {"reduce_range": True}),
        ("weights u8", {"weight_type": u8}),
        ("activations s8", {"activation_type": s8}),
        ("activations s8, symmetric", {"activation_type": s8, "extra_options": {"ActivationSymmetric": True}}),
        ("percentile", {"calibrate_method": CalibrationMethod.Percentile}),
        ("entropy", {"calibrate_method": CalibrationMethod.Entropy}),
        ("moving average", {"extra_options": {"CalibMovingAverage": True}}),
    ):
        yield f"quantize_static, {name}", lambda options=options: library(model, few, **options)
    seen = calibrate(model, few)
    everything = replace(chosen, floats=())
    names = tuple(seen.low)
    for clip in (0.0, 0.001, 0.01, 0.1):
        same = replace(everything, clips=dict.fromkeys(names, clip))
        yield f"ours, all in int8, clip {clip:g} %", lambda r=same: mixed(model, seen, r)
    yield "ours, all in int8, clips by answers", lambda: mixed(model, seen, everything)
    se = tuple(dict.fromkeys(n.name.partition(".se.")[0] + ".se" for n in onnx.load_from_string(model).graph.node
                             if ".se." in n.name))  # fmt: skip
    for name, recipe in (
        ("weights that may saturate", replace(everything, safe=False)),
        ("no bias correction", replace(everything, correct=False)),
        ("SE in float", replace(everything, floats=se)),
        ("stem in float", replace(everything, floats=("stem",))),
        ("stem and head in float", replace(everything, floats=("stem", "head"))),
    ):
        yield f"ours, clips by answers, {name}", lambda r=recipe: mixed(model, seen, r)

    def with_equal_ranges() -> bytes:
        other = equalised(model)
        return mixed(other, calibrate(other, few), replace(everything, clips={}))

    yield "ours, all in int8, no clip, equalised", with_equal_ranges


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--padding", default="both", choices=("both", "tensorflow"))
    parser.add_argument("--resolution", type=int)
    parser.add_argument("--classes", type=int)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--turns", type=int, default=1, choices=(1, 3))
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--only-choice", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "int8.json")
    o = parser.parse_args()
    if o.network == "table":
        return print(table(json.loads(o.out.read_text("utf-8"))))
    if o.weights is None or o.data is None:
        parser.error("--weights and --data are needed")
    logging.disable(logging.WARNING)
    spec = load_spec(o.network)
    if o.classes and isinstance(spec.head, Classify):
        spec = with_head(spec, replace(spec.head, classes=o.classes))
    if o.resolution:
        spec = replace(spec, resolution=(o.resolution, o.resolution))
    weights = read_any_weights(o.weights, spec)
    spec = replace(weights.spec, padding=o.padding)
    model = network_model(spec, {k: v.numpy() for k, v in weights.state.items()})
    pixels, truth = photographs(o.data, spec, weights.labels, o.images)
    commit = short_commit()
    network = f"{o.network}, {o.data.name}, {spec.resolution[0]} px, padding {spec.padding}"
    for seed, turn in itertools.product(o.seeds, range(o.turns)):
        kept = json.loads(o.out.read_text("utf-8")) if o.out.exists() else []
        if any((k["network"], k["seed"], k.get("turn", 0)) == (network, seed, turn) for k in kept):
            continue
        order = np.random.default_rng(seed).permutation(len(truth))
        thirds = np.array_split(order, 3)
        thirds = thirds[turn:] + thirds[:turn]
        sets = [Examples([inputs(pixels, spec, i) for i in part], truth[part]) for part in thirds]
        about = {
            "network": network, "seed": seed, "turn": turn, "weights": o.weights.name,
            "images": [len(s) for s in sets], "threads": 1, "device": f"{platform.machine()}, {cpu()}",
            "vnni": "vnni" in flags(), "onnxruntime": version("onnxruntime"), "commit": commit,
            "rows": rows_of(model, sets, o.only_choice),
        }  # fmt: skip
        kept = sorted([*kept, about], key=lambda k: (k["network"], k["seed"], k.get("turn", 0)))
        write_atomic(o.out, json.dumps(kept, indent=1) + "\n")


def rows_of(model: bytes, sets: Sequence[Examples], only_choice: bool) -> list[dict[str, Any]]:
    """What `mbv3 export` would choose, its candidates and, unless `only_choice`, every setting alone."""
    learn, choose, report = sets
    begun = time.monotonic()
    made = result(choose_int8(model, learn, choose, report))
    took = time.monotonic() - begun
    print(made.line(), flush=True)
    rows: list[dict[str, Any]] = [{"setting": "mbv3 export", "seconds": round(took, 1), **made.as_dict()}]
    for c in made.candidates:
        rows.append({"setting": f"candidate, {len(c.floats)} parts in float", "times_as_fast": round(c.speed, 3),
                     **row(c.compared), "on": "the choosing images"})  # fmt: skip
    if only_choice:
        return rows
    for name, make in settings(model, learn.images, Recipe(floats=made.floats, clips=made.clips)):
        try:
            file = make()
        except Exception as e:  # the library refuses some of its own settings
            rows.append({"setting": name, "failed": f"{type(e).__name__}: {str(e)[:200]}"})
            continue
        fast = ratio(model, file, report.images[0], 60)
        rows.append({"setting": name, **row(compared(model, file, report)), "times_as_fast": round(fast, 3),
                     "bytes": len(file)})  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    return rows


def table(kept: Sequence[dict[str, Any]]) -> str:
    """Means over seeds and turns, a line for each network and setting. The error of the points lost is over the
    photographs, in pairs; one that reports under several seeds counts as often, so `n` is of answers."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for part in kept:
        for r in part["rows"]:
            if "failed" not in r and "on" not in r:
                found.setdefault((part["network"], r["setting"]), []).append(r)
    lines = [
        "| network | setting | n | fp32, % | int8, % | points lost | agree, % | times as fast |",
        "|---" * 8 + "|",
    ]
    for (network, setting), rows in found.items():
        n, apart = sum(images(r) for r in rows), sum(r["lost"] + r["won"] for r in rows)
        lost = sum(r["lost"] - r["won"] for r in rows) / n
        error = (max(apart / n - lost**2, 1 / n) / n) ** 0.5
        mean = {k: np.mean([r[k] for r in rows]) for k in ("fp32_top1", "int8_top1", "agreement", "times_as_fast")}
        figures = f"{mean['fp32_top1']:.1f} | {mean['int8_top1']:.1f} | {100 * lost:.2f} ± {100 * error:.2f}"
        lines.append(f"| {network} | {setting} | {n} | {figures} | {mean['agreement']:.1f} | "
                     f"{mean['times_as_fast']:.2f} |")  # fmt: skip
    return "\n".join(lines)


def images(r: Mapping[str, Any]) -> int:
    """How many photographs a row is of."""
    return int(r["n"] if "n" in r else r["images"]["reported"])


def row(c: Any) -> dict[str, Any]:
    """A comparison as numbers."""
    values = {"n": c.n, "fp32_top1": c.fp32, "int8_top1": c.int8, "lost": c.lost, "won": c.won,
              "agreement": c.agreement, "divergence": c.divergence}  # fmt: skip
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}


def _cpuinfo(field: str) -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def cpu() -> str:
    return _cpuinfo("model name") or platform.processor()


def flags() -> str:
    return _cpuinfo("flags")


if __name__ == "__main__":
    main()
