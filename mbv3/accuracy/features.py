"""What the ImageNet model sees of a network: sums over layers that fall whenever a layer shrinks or goes.

A layer is read from its operations alone, so every kind of row has the same numbers: how many spatial convolutions,
how wide inside and outside, which kernels, how much squeeze-and-excitation. Each number is added up over the layers of
a stage (the layers that end at one stride). A layer that begins a stage or a run of one width also counts in sums of
its own ("first ..."): public trainings show that it brings more than a layer that repeats a width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mbv3.spec import Op

__all__ = ["LINEAR", "LOGS", "RESOLUTION", "SIDE", "group", "layer_sums", "log_columns", "network_sums", "rises"]

SIDE = 1024  # input at which layers are lowered: every stride divides it, so that sizes tell strides
STAGES = 5  # output strides 2, 4, 8, 16 and 32

INNER = tuple(range(3, 11))  # octaves of the inside's channels: 8 to 16, ..., 1024 to 2048
OUT = tuple(range(3, 10))  # octaves of the output's
_RAMPS = (
    "n", *(f"inner{1 << m}" for m in INNER), *(f"out{1 << m}" for m in OUT),
    *(f"{what}{part}" for what in ("se", "k5", "k7") for part in ("", "_mid", "_wide")),
)  # fmt: skip
_SIZES = ("mix", "root", "inside", "outside")
_BOTH = (*_RAMPS, *_SIZES)
ATOMS = (*_BOTH, *(f"first {a}" for a in _BOTH), "smooth", "pointwise")
_AT = {a: i for i, a in enumerate(ATOMS)}
WIDTH = STAGES * len(ATOMS) + 2  # of a vector of sums; the last two are the head's

# Inputs of the model that are sums themselves, and their places among the sums.
LINEAR: dict[str, int] = {
    f"{a} /{2 << s}": s * len(ATOMS) + _AT[a] for s in range(STAGES) for a in (*_RAMPS, *(f"first {r}" for r in _RAMPS))
}
# Inputs that are ln(1 + a weighted sum of sums).
LOGS = (
    *(
        f"log {a} /{2 << s}"
        for s in range(STAGES)
        for a in ("mix", "root", "inside", "outside", "n", "first mix", "first inside")
    ),
    "log smooth", "log tail", "log features", "log head", "log all mix", "log all work", "log all n", "log all inside",
    "log all outside", "log all se", "log all k5",
)  # fmt: skip
RESOLUTION = (128, 160, 192, 224, 256, 300, 380, 480)  # knots in pixels; flat beyond the last
LEAST = 24  # pixels, below which nothing changes


def _ramp(x: float, low: float, high: float) -> float:
    """0 up to 2^low, 1 from 2^high, linear in log2 between."""
    return min(max((math.log2(x) - low) / (high - low), 0.0), 1.0)


@lru_cache(maxsize=1 << 16)
def _layer(ops: tuple[Op, ...]) -> tuple[int, tuple[float, ...]]:
    """(first place, values) of a layer's part in the sums."""
    trunk = [op for op in ops if op.kind == "conv" and (op.hin, op.win) != (1, 1)]
    pooled = [op for op in ops if op.kind == "conv" and (op.hin, op.win) == (1, 1)]
    if not trunk:  # the classifier: features, then classes
        return WIDTH - 2, (float(pooled[-1].cin), sum(op.cin * op.cout for op in pooled[:-1]) / 1e4)
    begin, end = trunk[0], trunk[-1]
    stage = min(STAGES, max(1, round(math.log2(SIDE / end.hout)))) - 1
    spatial = [op for op in trunk if op.k > 1]
    v = dict.fromkeys(ATOMS, 0.0)
    mix = sum(op.cin * op.cout * op.k for op in trunk if op.groups == 1) / 256
    if not spatial:
        v["pointwise"] = mix
        return stage * len(ATOMS), tuple(v.values())
    inner = max(op.cout for op in spatial)
    v["n"] = len(spatial)
    for m in INNER:
        v[f"inner{1 << m}"] = sum(_ramp(op.cout, m, m + 1) for op in spatial)
    for m in OUT:
        v[f"out{1 << m}"] = _ramp(end.cout, m, m + 1)
    extras = {
        "k5": sum(min(max(op.k - 3, 0), 2) / 2 for op in spatial),
        "k7": sum(min(max(op.k - 5, 0), 2) / 2 for op in spatial),
        "se": pooled[0].cout / (pooled[0].cout + 8) if pooled else 0.0,
    }
    for name, x in extras.items():
        v[name], v[f"{name}_mid"], v[f"{name}_wide"] = x, x * _ramp(inner, 6, 8), x * _ramp(inner, 8, 10.5)
    v["mix"], v["root"], v["inside"], v["outside"] = mix, math.sqrt(mix), inner / 16, end.cout / 8
    # Not `skip`: cuts keep skips, and a network without any (MobileNetV1) has runs of one width too. Not at stride 2:
    # the stem's width is cut alone, and what equals it would become a first layer.
    if stage and (end.hout != begin.hin or end.cout != begin.cin):
        v.update({f"first {a}": v[a] for a in _BOTH})
    acts = [op.nl for op in ops if op.kind == "act" and (op.hout, op.wout) != (1, 1)]  # not those of squeezes
    v["smooth"] = any(nl in ("HS", "SILU") for nl in acts)
    return stage * len(ATOMS), tuple(float(x) for x in v.values())


def layer_sums(ops: Sequence[Op]) -> NDArray[np.float64]:
    """A layer's part in the sums, (WIDTH,); every value is at least 0. `ops` are lowered at an input of SIDE pixels."""
    start, values = _layer(tuple(ops))
    out = np.zeros(WIDTH)
    out[start : start + len(values)] = values
    return out


def network_sums(layers: Iterable[Sequence[Op]]) -> NDArray[np.float64]:
    """The sums of a network, (WIDTH,)."""
    return np.asarray(np.sum([layer_sums(ops) for ops in layers], axis=0), dtype=np.float64)


def log_columns() -> NDArray[np.float64]:
    """What LOGS are logarithms of, as weights of the sums, (WIDTH, len(LOGS)), all at least 0."""
    out = np.zeros((WIDTH, len(LOGS)))

    def put(log: str, atoms: dict[str, float], stages: Iterable[int], falls: float = 1.0) -> None:
        for s in stages:
            for atom, weight in atoms.items():
                out[s * len(ATOMS) + _AT[atom], LOGS.index(log)] += weight * falls ** (STAGES - 1 - s)

    every = range(STAGES)
    for s in every:
        for a in ("mix", "root", "inside", "outside", "n", "first mix", "first inside"):
            put(f"log {a} /{2 << s}", {a: 1.0}, [s])
        if s < STAGES - 1:  # at the last stride the layers without a kernel are the tail's
            put(f"log mix /{2 << s}", {"pointwise": 1.0}, [s])
    put("log smooth", {"smooth": 1.0}, every)
    put("log tail", {"pointwise": 1.0}, [STAGES - 1])
    out[WIDTH - 2, LOGS.index("log features")] = 1.0
    out[WIDTH - 1, LOGS.index("log head")] = 1.0
    put("log all mix", {"mix": 1.0, "pointwise": 1.0}, every)
    put("log all work", {"mix": 1.0, "pointwise": 1.0}, every, falls=4.0)
    for name, atom in (("n", "n"), ("inside", "inside"), ("outside", "outside"), ("se", "se"), ("k5", "k5")):
        put(f"log all {name}", {atom: 1.0}, every)
    return out


def rises(resolution: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Inputs of the resolution (pixels a side), (..., len(RESOLUTION)): ln min(resolution, knot), from 0 at 24 pixels.

    With weights of at least 0 their sum rises and bends downwards: the last pixels never help more than the first. In
    the evidence above 224 pixels resolution grows together with depth and width, which alone could tell nothing else.
    """
    r = np.asarray(resolution, dtype=np.float64)[..., None]
    return np.asarray(np.log(np.clip(r, LEAST, np.array(RESOLUTION, dtype=np.float64)) / LEAST))


def group(name: str) -> str:
    """What a source scales as one: kernels, squeezes, first layers or the others, of one stage; '' for nothing."""
    if " /" not in name:
        return ""
    atom, stage = name.removeprefix("log ").split(" /")
    base = atom.removeprefix("first ")
    kind = base[0] if base[0] == "k" else "se" if base.startswith("se") else "first" if base != atom else "layers"
    return f"{kind} /{stage}"
