"""What may not change by accident: key texts, state-dict names, initial weights, graphs, YAML, cuts.

Golden data in golden.json, of hashes. MBV3_ACCEPT=1 writes it again: read the difference before it is committed.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mbv3.errors import Mbv3Error
from mbv3.export import FRAMEWORKS
from mbv3.graph import layer_model, layer_tflite
from mbv3.latency.calibration import kinds, reread
from mbv3.latency.costmodel import family, features
from mbv3.netadapt import cut, propose, sites, smallest
from mbv3.netadapt.proposals import channels
from mbv3.nn import build, cut_state, state_shapes
from mbv3.space import load_space, preset_names, scale
from mbv3.space.additive import layer_keys
from mbv3.spec import (
    ArchSpec,
    Classify,
    Conv,
    DSConv,
    MBConv,
    Row,
    count,
    dump_spec,
    head_names,
    load_spec,
    lower,
    minimalistic,
    parse_key,
    parse_spec,
    rf2,
    scale_spec,
    slim_detection,
    torchvision_reduced_tail,
    with_head,
    with_output_stride,
    without_tail,
)

GOLDEN = Path(__file__).with_name("golden.json")
ACCEPT = os.environ.get("MBV3_ACCEPT") == "1"
NETWORKS = (
    "mobilenet_v3_large", "mobilenet_v3_small", "mobilenet_v2", "mnasnet_a1", "mnasnet_b1",
    "mobilenet_v3_large_tensorflow", "mobilenet_v3_small_tensorflow", "mobilenet_v3_large_minimalistic",
    "mobilenet_v3_small_minimalistic", "lraspp_m-v3-d8", "lraspp_m-v3s-d8", "fcn_m-v2-d8", "pspnet_m-v2-d8",
    "deeplabv3_m-v2-d8", "deeplabv3plus_m-v2-d8", "lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large",
    "ssdlite320_mobilenet_v3_large", "table6_v3_large", "table6_v3_large_halved", "table6_v3_small",
    "table6_v3_small_halved", "table6_v2", "table6_mnasnet", *(f"table7_row{n}" for n in range(1, 12)),
)  # fmt: skip
WIDTHS = ("", "@0.35", "@0.75", "@1.4")
SPACES = ("mnasnet", "mnasnet-imagenet", "mobilenetv3", "nas-bench-macro")
RANDOM = 40


def digest(lines: Iterable[object]) -> str:
    return hashlib.sha256("\n".join(map(str, lines)).encode()).hexdigest()[:16]


def random_network(seed: int) -> ArchSpec:
    """Rows of every kind that the papers before MobileNetV4 have, with everything that a row can say."""
    rng = random.Random(seed)
    stem = Conv(k=rng.choice([1, 3, 5]), out=rng.choice([8, 12, 16]), nl=rng.choice(["RE", "HS"]), s=rng.choice([1, 2]))
    rows: list[Row] = []
    cin = stem.out
    for _ in range(rng.randint(2, 7)):
        skip = rng.choice(["identity", "pool", "none", "none"])
        exp = rng.choice([cin, 2 * cin, 24, 40])
        inner = min(exp, cin)
        more: dict[str, Any] = {
            "k": rng.choice([1, 3, 5, 7]), "out": cin if skip != "none" else rng.choice([8, 16, 20, 32]),
            "se": min(rng.choice([0, 0, 4, 8, rng.randint(1, 12)]), inner),
            "nl": rng.choice(["RE", "RE6", "HS", "NONE"]),
            "s": 1 if skip == "identity" else rng.choice([1, 1, 2]), "skip": skip,
            "dilation": rng.choice([1, 1, 1, 2]),
        }  # fmt: skip
        kind = rng.choice([Conv, DSConv, MBConv, MBConv])
        if kind is Conv:
            more["se"] = min(more["se"], more["out"])
        rows.append(MBConv(exp=exp, **more) if kind is MBConv else kind(**more))
        cin = rows[-1].out
    tail = Conv(k=1, out=rng.choice([32, 48]), nl="HS") if rng.random() < 0.6 else None
    head = Classify(features=rng.choice([0, 24]), nl=rng.choice(["RE", "HS"]), classes=rng.choice([3, 10]))
    gate = rng.choice(["HSIGMOID", "SIGMOID"])
    return ArchSpec(
        name=f"random{seed}", resolution=(32, 48), stem=stem, rows=tuple(rows), tail=tail, head=head, gate=gate,  # type: ignore[arg-type]
    )  # fmt: skip


@lru_cache(maxsize=1)
def networks() -> dict[str, ArchSpec]:
    named = {f"{n}{w}": load_spec(f"{n}{w}") for n in NETWORKS for w in (WIDTHS if "table" not in n else WIDTHS[:2])}
    return named | {f"random{i}": random_network(i) for i in range(RANDOM)}


def few() -> dict[str, ArchSpec]:
    """Networks that are small enough to build, graph and cut in a moment."""
    names = ("mobilenet_v3_small@0.35", "mobilenet_v2@0.35", "mnasnet_a1@0.35", "table7_row11@0.35")
    return {n: networks()[n] for n in (*names, *(f"random{i}" for i in range(0, RANDOM, 4)))}


def tried(make: Callable[[], object]) -> object:
    """What `make` gives, or its error's message."""
    try:
        return make()
    except Mbv3Error as e:
        return f"{type(e).__name__}: {e}"


# ---- the parts ---------------------------------------------------------------------------------------------------


def _keys() -> dict[str, str]:
    return {n: digest(layer.key for layer in lower(s)) for n, s in networks().items()}


def _counts() -> dict[str, str]:
    return {n: digest([c.params, c.madds, *c.by_row]) for n, s in networks().items() for c in [count(s)]}


def _state_dicts() -> dict[str, str]:
    return {n: digest(state_shapes(s).items()) for n, s in networks().items()}


def _yaml() -> dict[str, str]:
    return {n: digest([dump_spec(s)]) for n, s in networks().items()}


def _ops() -> dict[str, str]:
    return {n: digest(op for layer in lower(s) for op in layer.ops) for n, s in networks().items()}


def _spaces() -> dict[str, str]:
    return {n: digest(sorted(map(str, layer_keys(scale(load_space(n), 0.5, 64))))) for n in SPACES}


def _changes() -> dict[str, str]:
    def every(spec: ArchSpec) -> Iterable[object]:
        for change in (rf2, torchvision_reduced_tail, slim_detection, without_tail, minimalistic):
            yield tried(lambda change=change: dump_spec(change(spec)))  # type: ignore[misc]
        for dilation in ("torchvision", "slim", "mmseg_v2"):
            for stride in (8, 16):
                yield tried(lambda s=stride, d=dilation: dump_spec(with_output_stride(spec, s, d)))  # type: ignore[misc]
        for exp_rule in ("table", "ratio", "rounded-ratio"):
            for tail_rule in ("ratio", "fixed", "fixed-below-1", "tensorflow"):
                for width in (0.35, 0.75, 1.3):
                    yield tried(
                        lambda w=width, e=exp_rule, t=tail_rule: dump_spec(  # type: ignore[misc]
                            scale_spec(spec, w, exp_rule=e, tail_rule=t)
                        )
                    )
        wide = replace(spec, resolution=(512, 512))
        for head in head_names():
            yield tried(lambda h=head: dump_spec(with_head(wide, h, 5)))  # type: ignore[misc]

    names = ("mobilenet_v3_large", "mobilenet_v2", "mnasnet_a1", *(f"random{i}" for i in range(0, RANDOM, 2)))
    return {n: digest(every(networks()[n])) for n in names}


def _latency() -> dict[str, str]:
    def every(spec: ArchSpec) -> Iterable[object]:
        for layer in lower(spec):
            key = layer.key
            if isinstance(key.row, Row):
                yield [f"{v:.9g}" for v in features(key)], f"{reread(key):.9g}", kinds(key)[:9]
                yield family(key)[1:]

    return {n: digest(every(s)) for n, s in few().items()}


def _cuts() -> dict[str, str]:
    """NetAdapt's sites, the networks that its cuts give, its proposals under MAdds as time."""

    def every(spec: ArchSpec) -> Iterable[object]:
        for site in sites(spec):
            now = channels(spec, site)
            yield site, now
            for after in {max(1, now // 3), max(1, now - 8), max(1, now - 1)}:
                smaller = tried(lambda site=site, after=after: cut(spec, site, after))  # type: ignore[misc]
                yield dump_spec(smaller) if isinstance(smaller, ArchSpec) else smaller
        yield dump_spec(smallest(spec))
        ms = count(spec).madds / 1e6
        found = propose(spec, ms, 0.05 * ms, lambda specs: [count(s).madds / 1e6 for s in specs])
        yield from ((p.site, p.before, p.after, f"{p.latency_ms:.9g}") for p in found)

    return {n: digest(every(s)) for n, s in few().items()}


def _exports() -> dict[str, str]:
    def every(spec: ArchSpec) -> Iterable[object]:
        for name, target in FRAMEWORKS.items():
            faults = list(target.faults(spec))
            yield name, *faults
            if not faults:
                yield sorted(target.source(spec).items()), target.names(spec).modules

    return {n: digest(every(s)) for n, s in networks().items() if "table" not in n}


def _weights() -> dict[str, str]:
    def values(state: dict[str, torch.Tensor]) -> Iterable[object]:
        for name, value in state.items():
            yield name, tuple(value.shape), hashlib.sha256(value.numpy().tobytes()).hexdigest()

    found = {}
    for n, spec in few().items():
        state = build(spec, 7).state_dict()
        found[n] = digest(values(state))
        for i, site in enumerate(sites(spec)):
            smaller = tried(lambda site=site: cut(spec, site, max(1, channels(spec, site) - 3)))  # type: ignore[misc] # noqa: B023
            if isinstance(smaller, ArchSpec):
                found[f"{n} cut {i}"] = digest(values(cut_state(state, spec, smaller)))
        net = build(replace(spec, resolution=(64, 64)), 7).eval()
        x = torch.randn(1, spec.in_channels, 64, 64, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            out = net(x)
        found[f"{n} output"] = digest([hashlib.sha256(out.numpy().tobytes()).hexdigest()])
    return found


def _graphs(make: Callable[..., bytes]) -> dict[str, str]:
    specs = (networks()[f"random{i}"] for i in range(0, RANDOM, 8))
    keys = {str(layer.key): layer.key for spec in specs for layer in lower(spec)}
    return {"layers": digest(hashlib.sha256(make(key)).hexdigest() for key in keys.values())}


def _onnx() -> dict[str, str]:
    return _graphs(layer_model)


def _tflite() -> dict[str, str]:
    return _graphs(layer_tflite)


# part: how it is made, and of what the bytes depend on beside this package
PARTS: dict[str, tuple[Callable[[], dict[str, str]], Callable[[], str]]] = {
    "keys": (_keys, str), "counts": (_counts, str), "state dicts": (_state_dicts, str), "yaml": (_yaml, str),
    "ops": (_ops, str), "spaces": (_spaces, str), "changes": (_changes, str), "latency": (_latency, str),
    "cuts": (_cuts, str), "exports": (_exports, str),
    "weights": (_weights, lambda: f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"),
    "onnx": (_onnx, lambda: f"onnx {version('onnx')}, numpy {np.__version__}"),
    "tflite": (_tflite, lambda: f"ai-edge-litert {version('ai-edge-litert')}, numpy {np.__version__}"),
}  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_as_recorded(part: str) -> None:
    make, depends = PARTS[part]
    if part == "tflite":
        pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    golden = json.loads(GOLDEN.read_text("utf-8")) if GOLDEN.exists() else {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        now = {"of": depends(), **make()}
    finally:
        torch.set_num_threads(threads)
    if ACCEPT:
        golden[part] = now
        GOLDEN.write_text(json.dumps(golden, indent=0, sort_keys=True) + "\n", "utf-8")
    if golden[part]["of"] != now["of"]:
        pytest.skip(f"recorded with {golden[part]['of']}, here is {now['of']}")
    changed = sorted(n for n in golden[part].keys() | now.keys() if golden[part].get(n) != now.get(n))
    assert changed == [], f"{part} changed; if that is meant, run this with MBV3_ACCEPT=1"


@pytest.mark.parametrize("name", [f"random{i}" for i in range(RANDOM)])
def test_texts_read_back(name: str) -> None:
    spec = networks()[name]
    assert parse_spec(dump_spec(spec)) == spec
    assert all(parse_key(str(layer.key)) == layer.key for layer in lower(spec))


def test_the_presets_are_all_pinned() -> None:
    assert set(SPACES) <= set(preset_names())
