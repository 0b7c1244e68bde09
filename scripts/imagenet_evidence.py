"""All ImageNet evidence as rows: layers of operations, resolution, top-1, source, recipe, family."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import imagenet_networks as nets
from imagenet_networks import Ops

from mbv3.accuracy import zoo
from mbv3.space import load_space, scale
from mbv3.spec import lower


@dataclass(frozen=True)
class Row:
    name: str
    family: str
    width: float
    resolution: int
    layers: tuple[Ops, ...]
    top1: float
    source: str  # published, accel_nasbench, ofa_dynast, ofa_gatech
    recipe: str


RECIPES = {
    "slim v1": "mobilenet_v1-slim",
    "slim v2": "mobilenet_v2-slim",
    "slim v3": "mobilenet_v3-paper",
    "mnasnet tpu": "mnasnet-tpu",
    "efficientnet tpu, baseline": "efficientnet-tpu",
    "efficientnet tpu, AutoAugment": "efficientnet-tpu-autoaugment",
    "efficientnet tpu": "efficientnet-lite-tpu",
    "150 epochs cosine": "d-li14-150",
    "PaddleClas": "paddleclas",
    "pytorchcv": "pytorchcv",
    "gluon-cv": "gluon-cv",
    "torchvision": "torchvision-v1",
}


def recipe_of(row: dict[str, str]) -> str:
    text = row["recipe"]
    if text.startswith("timm"):
        if re.search(r"v2_b\d|tinynet", row["name"]):
            return "timm-tinynet" if "tinynet" in row["name"] else "efficientnetv2-tpu"
        tag = text.split()[1].rstrip(";").removesuffix("_in1k").replace("_", "-")
        trained = re.search(r"-r(\d+)", tag)
        tested_larger = (trained and int(row["resolution"]) > int(trained[1])) or "crop 1.000" in text
        return f"timm-{tag}{'-larger' if tested_larger else ''}"
    return next(name for start, name in RECIPES.items() if text.startswith(start))


def _scaled(name: str, width: float) -> tuple[Ops, ...]:
    return nets.spec_layers(name if width == 1 else f"{name}@{width:g}")


def zoo_layers(name: str) -> tuple[Ops, ...]:
    spec = next(p for p in zoo() if p.name == name).spec()
    return tuple(layer.ops for layer in lower(replace(spec, resolution=(nets.SIDE, nets.SIDE))))


EFFICIENT = {
    "b0": (1.0, 1.0), "b1": (1.0, 1.1), "b2": (1.1, 1.2), "b3": (1.2, 1.4), "b4": (1.4, 1.8), "b5": (1.6, 2.2),
}  # fmt: skip
LITE = {"lite0": "b0", "lite1": "b1", "lite2": "b2", "lite3": "b3", "lite4": "b4"}
TINY = {"a": (1.0, 1.2), "b": (0.75, 1.1), "c": (0.54, 0.85), "d": (0.54, 0.695), "e": (0.51, 0.6)}


@cache
def network(family: str, width: float, name: str) -> tuple[str, tuple[Ops, ...]] | None:
    """(family as it is left out, layers) of a published row; None where its blocks are not ours."""
    if family in ("mobilenet_v1", "fd_mobilenet"):
        if family == "fd_mobilenet":
            return family, nets.build(nets.FD_V1, stem=32, nl="RE6", tail=0, width=width)
        return family, nets.v1(width, 1024 if "100h" in name else 0)
    if family == "mobilenet_v2":
        if re.search(r"1[12]0d", name):
            return family, nets.v2(width, 1.2 if "110d" in name else 1.4, fixed=True)
        return family, nets.v2(width)
    if family.startswith("mobilenet_v3"):
        if "150d" in name:
            return "mobilenet_v3_large", nets.mobilenetv3_150d()
        if name.startswith("timm_mobilenetv3_rw"):
            return family, zoo_layers("mobilenetv3_rw.rmsp")
        if name.startswith("timm_mobilenetv3_small_050"):  # whose stem is not narrower
            small = {"stem": 16, "nl": "HS", "tail": 576, "features": 1024, "se": "expansion", "tail_grows": "scaled"}
            return family, nets.build(nets.V3_SMALL, width=width, fix_stem=True, **small)  # type: ignore[arg-type]
        # TensorFlow's rule: narrower networks keep their features, wider ones have more; PaddleClas has 1,280 always
        layers = _scaled(family if width == 1 else f"{family}_tensorflow", width)
        return family, nets.with_features(layers, 1280) if name.startswith("paddle_") else layers
    if family in ("mnasnet_a1", "mnasnet_b1"):
        return family, _scaled(family, width)
    if family == "mnasnet_small":
        return family, nets.build(nets.SMALL_MNAS, stem=8, nl="RE", tail=1280)
    if family in ("pplcnet", "lcnet"):
        return "lcnet", nets.lcnet(width)
    if family == "spnasnet":
        return family, nets.build(nets.SPNAS, stem=32, nl="RE", tail=1280)
    if family in ("fbnetc", "fbnet_c"):
        return "fbnetc", nets.build(nets.FBNETC, stem=16, nl="RE", tail=1984)
    if family == "proxylessnas_mobile":
        return family, nets.build(nets.PROXYLESS_MOBILE, stem=32, nl="RE6", tail=1280)
    if family == "proxylessnas_mob-14":
        return "proxylessnas_mobile", nets.build(
            nets.PROXYLESS_MOBILE, stem=32, nl="RE6", tail=1280, width=1.4, tail_grows="scaled"
        )
    if family.startswith("hardcorenas"):
        return "hardcorenas", nets.hardcorenas(family[-1])
    if family.startswith("fbnetv3"):
        return "fbnetv3", nets.fbnetv3(family[-1])
    if family.startswith("tinynet"):
        return "tinynet", nets.tinynet(*TINY[family[-1]])
    if (lite := re.search(r"lite(\d)", name)) and "efficientnet" in family:
        return "efficientnet_lite", nets.lite(*EFFICIENT[LITE[f"lite{lite[1]}"]])
    if family.startswith("efficientnetv2"):
        return "efficientnetv2", nets.efficientnetv2(*EFFICIENT[family[-2:]])
    if family.startswith("efficientnet") and "pruned" not in family:
        found = re.search(r"b(\d)", name, re.IGNORECASE)
        assert found
        return "efficientnet", nets.efficientnet(*EFFICIENT[f"b{found[1]}"])
    if (v4 := re.match(r"mobilenetv4_conv_(small|medium|large)", family)) is not None:
        return "mobilenetv4", nets.v4(v4[1][0], width)
    return None


def published(path: Path) -> tuple[list[Row], list[str]]:
    """Rows that our blocks can say, and the names of the others."""
    rows, left = [], []
    for r in csv.DictReader(path.read_text("utf-8").splitlines()):
        name = r["name"]
        # timm's tf_ networks are the TensorFlow rows' own weights; AdvProp's and AutoAugment's are further trainings
        port = name.startswith("timm_tf_") and not re.search(r"\.a[ap]_|v2_b", name)
        if r["quant"] != "float" or port or "mcunet" in r["recipe"]:
            left.append(name)
            continue
        made = network(r["family"], float(r["width"] or 1), name)
        if made is None:
            left.append(name)
            continue
        family, layers = made
        recipe = recipe_of(r)
        rows.append(Row(name, family, float(r["width"] or 1), int(r["resolution"]), layers, float(r["top1"]),
                        "published", recipe))  # fmt: skip
    for p in zoo():  # the table above has none of EfficientNet-EdgeTPU
        if p.network.startswith("efficientnet_e"):
            rows.append(Row(f"timm_{p.name}", "efficientnet_edge", 1.0, p.resolution, zoo_layers(p.name), p.top1,
                            "published", p.recipe))  # fmt: skip
    return rows, left


def accel_nasbench(path: Path) -> list[Row]:
    space = scale(load_space("mnasnet-imagenet"), resolution=nets.SIDE)
    rows = []
    for i, r in enumerate(csv.DictReader(path.read_text("utf-8").splitlines())):
        spec = space.spec(space.encode({n: int(r[n]) for n in space.names}))
        layers = tuple(layer.ops for layer in lower(spec))
        rows.append(Row(f"anb{i}", "accel_nasbench", 1.0, 224, layers, float(r["val_top1"]), "accel_nasbench",
                        "accel-nasbench"))  # fmt: skip
    return rows


def ofa(path: Path) -> list[Row]:
    """Subnets of Once-for-All's MobileNetV3 supernet (Cai 2020, arXiv:1908.09791)."""
    rows = []
    for i, r in enumerate(csv.DictReader(path.read_text("utf-8").splitlines())):
        ks, es, ds = (json.loads(r[c]) for c in ("ks", "e", "d"))
        net = nets.Net("HS", "expansion")
        net.conv(16, 3, 2)
        net.block(nets.B(16, nl="RE"), 16, 1)
        stages = ((24, 2, 0, "RE"), (40, 2, 0.25, "RE"), (80, 2, 0, "HS"), (112, 1, 0.25, "HS"), (160, 2, 0.25, "HS"))
        for st, (c, s, se, nl) in enumerate(stages):
            for j in range(ds[st]):
                b = nets.B(c, ks[4 * st + j], es[4 * st + j], se=se, nl=nl)
                net.block(b, c, s if j == 0 else 1)
        net.conv(960)
        source = "ofa_dynast" if r["source"].startswith("dynast") else "ofa_gatech"
        rows.append(Row(f"ofa{i}", "ofa", 1.0, int(r["r"]), net.head(1280), float(r["top1"]), source,
                        source.replace("_", "-")))  # fmt: skip
    return rows
