"""Fit the shipped phone profiles on published block measurements.

    python scripts/fit_phone_profiles.py DIR     with the CSV files named below; writes mbv3/latency/profiles/*.yaml

note-10 (TFLite, one thread): note10_ofa_mbv3_blocks.csv, 1,632 measured blocks of the MobileNetV3 space at 17 input
sizes (mit-han-lab/once-for-all at 698a5c1).
pixel-1 (TFLite, one big core): pixel1_singlepath_nas_blocks.csv, 80 measured blocks and one sum of five layers
(dstamoulis/single-path-nas). What they lack is taken from elsewhere: 7x7 from the differences within each layer of
pixel1_tunas_blocks.csv (google-research, tunas), whose costs are known up to a constant a layer and disagree with the
other table by up to 1.7 in scale, so that only the ratio of 7x7 to 5x5 is used; SE from note-10, times how much slower
Pixel 1 is on the same blocks; pooling and resizing, of which no block is published, as what SE scales; h-swish from
what it costs over ReLU in V3-Large (Howard 2019, Table 5).

Times of whole networks are not used in any fit; the errors are told on them.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.optimize import nnls

from mbv3.latency import FEATURES, features, fidelity
from mbv3.spec import Classify, Conv, DSConv, LayerKey, MBConv, load_spec, lower, make_divisible

OUT = Path(__file__).resolve().parents[1] / "mbv3/latency/profiles"
Array = NDArray[np.float64]
# ms on one big core of a Pixel 1 at 224 px, of two years: the same MobileNetV2 got 13 % faster in between
PAPER, SLIM = "Howard 2019, Table 3", "slim's MobileNetV2 README (2018)"
PIXEL_1 = (
    ("mobilenet_v3_large", 51.0, PAPER),
    ("mobilenet_v3_small", 15.8, PAPER),
    ("mnasnet_a1", 71.0, PAPER),
    ("mobilenet_v2", 64.0, PAPER),
    ("mobilenet_v2@0.35", 16.6, PAPER),
    ("mobilenet_v3_large@0.75", 39.0, PAPER),
    ("mobilenet_v3_small@0.75", 12.8, PAPER),
    ("mobilenet_v2@1.4", 138.0, SLIM),
    ("mobilenet_v2", 73.8, SLIM),
    ("mobilenet_v2@0.75", 55.8, SLIM),
    ("mobilenet_v2@0.5", 28.7, SLIM),
    ("mobilenet_v2@0.35", 19.7, SLIM),
)
H_SWISH_OVER_RELU_MS = 51.4 - 50.5  # of V3-Large on a Pixel 1, Howard 2019, Table 5
ON_NOTE_10_ONLY = ("SE layer", "SE MMAdds", "scaled Melements", "resampled Melements")


def rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as f:
        yield from csv.DictReader(f)


def note_10(path: Path) -> tuple[list[LayerKey], Array]:
    """Blocks, stem and tail as layers; the pool, the feature layer and the classifier of one size as one layer."""
    keys: list[LayerKey] = []
    ms: list[float] = []
    heads: dict[str, dict[str, dict[str, str]]] = {}
    for r in rows(path):
        h, cin, out = int(r["in_hw"]), int(r["in_ch"]), int(r["out_ch"])
        if r["op"] == "expanded_conv":
            exp = int(float(r["mid_ch"]))
            row: Any = MBConv(
                k=int(r["kernel"]), s=int(r["stride"]), exp=exp, out=out, nl="HS" if float(r["hswish"]) else "RE",
                se=make_divisible(exp / 4) if int(r["se"]) else 0, skip="identity" if int(r["idskip"]) else "none",
            )  # fmt: skip
        elif r["op"] in ("Conv", "Conv_1"):
            row = Conv(k=int(r["kernel"]), s=int(r["stride"]), out=out, nl="HS")
        else:
            heads.setdefault(r["resolution"], {})[r["op"]] = r
            continue
        keys.append(LayerKey(row, cin, h, h))
        ms.append(float(r["mean_ms"]))
    for parts in heads.values():
        pool, wide = parts["AvgPool2D"], int(parts["Conv_2"]["out_ch"])
        h = int(pool["in_hw"])
        keys.append(LayerKey(Classify(features=wide, nl="HS", classes=1000), int(pool["in_ch"]), h, h))
        ms.append(sum(float(p["mean_ms"]) for p in parts.values()))
    return keys, np.array(ms)


def mnasnet_block(r: dict[str, str], h: int) -> LayerKey:
    """A block without SE and with ReLU, of a row of either Pixel 1 file, on an h x h map."""
    cin, out, s = int(r["in_ch"]), int(r["out_ch"]), int(r["stride"])
    skip = "identity" if cin == out and s == 1 else "none"
    row = MBConv(k=int(r["kernel"]), s=s, exp=cin * int(r["expand"]), out=out, se=0, nl="RE", skip=skip)  # type: ignore[arg-type]
    return LayerKey(row, cin, h, h)


def pixel_1_blocks(path: Path) -> tuple[list[LayerKey], Array]:
    keys, ms = [], []
    for r in rows(path):
        keys.append(mnasnet_block(r, int(r["in_hw"])))
        ms.append(float(r["mean_ms"]))
    return keys, np.array(ms)


def pixel_1_rest() -> tuple[Array, float]:
    """Stem, first and last block, tail and classifier of MnasNet-B1 together: 19.5999 ms (single-path-nas)."""
    layers = [
        LayerKey(Conv(k=3, s=2, out=32, nl="RE"), 3, 224, 224),
        LayerKey(DSConv(k=3, s=1, out=16, nl="RE", skip="none"), 32, 112, 112),
        LayerKey(MBConv(k=3, s=1, exp=1152, out=320, se=0, nl="RE", skip="none"), 192, 7, 7),
        LayerKey(Conv(k=1, s=1, out=1280, nl="RE"), 320, 7, 7),
        LayerKey(Classify(features=0, nl="NONE", classes=1000), 1280, 7, 7),
    ]
    return np.sum([features(k) for k in layers], axis=0), 19.5999


def pixel_1_differences(path: Path) -> tuple[Array, Array]:
    """TuNAS costs less their mean over the choices of one layer: the constant of the layer falls out."""
    sizes = {16: 112, 32: 56, 40: 28, 80: 14, 96: 14, 192: 7}
    groups: dict[tuple[str, str], list[tuple[Array, float]]] = {}
    for r in rows(path):
        if not r["expand"] or not r["kernel"] or "zero" in r["note"]:
            continue
        cin = int(r["in_ch"])
        if cin not in sizes:
            continue
        key = mnasnet_block(r, sizes[cin])
        groups.setdefault((r["stage"], r["layer"]), []).append((features(key), float(r["cost_ms"])))
    x, t = [], []
    for members in groups.values():
        if len(members) < 3:
            continue
        mean_x, mean_t = np.mean([m[0] for m in members], axis=0), float(np.mean([m[1] for m in members]))
        x += [m[0] - mean_x for m in members]
        t += [m[1] - mean_t for m in members]
    return np.array(x), np.array(t)


def solve(x: Array, t: Array, weight: Array) -> Array:
    return nnls(x * weight[:, None], t * weight)[0]


def held_out(keys: list[LayerKey], t: Array, extra: tuple[Array, Array, Array] | None = None) -> dict[str, Any]:
    """Five folds by channel pair; `extra` rows are in every fit."""
    x = np.stack([features(k) for k in keys])
    pairs = [(k.cin, getattr(k.row, "out", 0)) for k in keys]
    order = sorted(set(pairs))
    fold = np.array([order.index(p) % 5 for p in pairs])
    predicted = np.empty(len(t))
    for f in range(5):
        some = fold != f
        parts = (x[some], t[some], 1 / t[some])
        if extra is not None:
            parts = tuple(np.concatenate([a, b]) for a, b in zip(parts, extra, strict=True))  # type: ignore[assignment]
        predicted[~some] = x[~some] @ solve(*parts)
    return fidelity(predicted, t)


def whole(coefficients: Array) -> list[dict[str, Any]]:
    out = []
    for name, ms, where in PIXEL_1:
        p = float(np.sum([features(layer.key) for layer in lower(load_spec(name))], axis=0) @ coefficients)
        error = round(100 * (p / ms - 1), 1)
        out.append(
            {"network": name, "published_ms": ms, "published_in": where, "predicted_ms": round(p, 2), "error": error}
        )
    return out


def write(name: str, device: dict[str, Any], source: list[str], coefficients: Array, blocks: dict[str, Any],
          networks: list[dict[str, Any]]) -> None:  # fmt: skip
    profile = {
        "format": "mbv3-profile/1",
        "name": name,
        "device": device,
        "source": source,
        "coefficients": {f: float(f"{c:.6g}") for f, c in zip(FEATURES, coefficients, strict=True)},
        "blocks": blocks,
        "networks": networks,
    }
    OUT.mkdir(exist_ok=True)
    text = yaml.safe_dump(profile, sort_keys=False, allow_unicode=True, width=120)
    (OUT / f"{name}.yaml").write_text(
        f"# Written by scripts/fit_phone_profiles.py; ms, lower is faster.\n{text}", "utf-8"
    )
    print(json.dumps({"profile": name, "blocks": blocks, "networks": networks}, indent=1))


def main() -> None:
    data = Path(sys.argv[1])
    keys, t = note_10(data / "note10_ofa_mbv3_blocks.csv")
    x = np.stack([features(k) for k in keys])
    note = solve(x, t, 1 / t)
    note[FEATURES.index("resampled Melements")] = note[FEATURES.index("scaled Melements")]
    write(
        "note-10",
        {"cpu": "Samsung Galaxy Note10, one thread", "system": "Android aarch64", "runtime": "tflite",
         "runtime_version": "2019-2020", "threads": 1},
        [f"{len(t)} block latencies, mit-han-lab/once-for-all at 698a5c1 (Cai 2020, arXiv:1908.09791), Apache-2.0"],
        note, held_out(keys, t), [],
    )  # fmt: skip

    keys, t = pixel_1_blocks(data / "pixel1_singlepath_nas_blocks.csv")
    x = np.stack([features(k) for k in keys])
    rest_x, rest_t = pixel_1_rest()
    dx, dt = pixel_1_differences(data / "pixel1_tunas_blocks.csv")
    extra = (rest_x[None], np.array([rest_t]), np.array([1 / rest_t]))
    coefficients = solve(np.vstack([x, extra[0]]), np.array([*t, rest_t]), 1 / np.array([*t, rest_t]))
    k5, k7 = (FEATURES.index(f"depthwise {k} MMAdds") for k in ("k5", "k7+"))
    differences = solve(dx, dt, np.ones(len(dt)))
    k7_over_k5 = differences[k7] / differences[k5]
    coefficients[k7] = k7_over_k5 * coefficients[k5]
    slower = float(np.median(t / (x @ note)))
    for name in ON_NOTE_10_ONLY:
        i = FEATURES.index(name)
        coefficients[i] = slower * note[i]
    large = np.sum([features(layer.key) for layer in lower(load_spec("mobilenet_v3_large"))], axis=0)
    i, relu = FEATURES.index("h-swish Melements"), FEATURES.index("activated Melements")
    coefficients[i] = coefficients[relu] + H_SWISH_OVER_RELU_MS / large[i]
    write(
        "pixel-1",
        {"cpu": "Google Pixel 1, one big core", "system": "Android aarch64", "runtime": "tflite",
         "runtime_version": "2018-2019", "threads": 1},
        [
            f"{len(t)} block latencies and one sum of five layers, dstamoulis/single-path-nas (Stamoulis 2019), "
            "Apache-2.0",
            f"7x7 against 5x5 depthwise, {k7_over_k5:.2f} a multiply-add: {len(dt)} cost differences within layers, "
            "google-research/tunas (Bender 2020), Apache-2.0",
            f"SE: coefficients of note-10 times {slower:.2f}, how much slower Pixel 1 is on the same blocks",
            f"h-swish: {H_SWISH_OVER_RELU_MS:.1f} ms over ReLU in MobileNetV3-Large (Howard 2019, Table 5)",
        ],
        coefficients, held_out(keys, t, extra), whole(coefficients),
    )  # fmt: skip


if __name__ == "__main__":
    main()
