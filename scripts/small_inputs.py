"""Small real inputs of every kind that the commands read, made here: for fuzz_inputs and bench_kills."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mbv3.latency import LatencyTable, NetworkTime, Timed, open_runtime, weights_mb
from mbv3.nn import build
from mbv3.space import SearchSpace, layer_keys, load_space
from mbv3.spec import ArchSpec, LayerKey, dump_spec, lower, lower_key
from mbv3.training import save_weights

SPACE = """\
format: mbv3-space/1
name: tiny
input: {resolution: 32}
stem: {k: 3, out: 16, nl: HS, s: 2}
blocks:
  - {name: a, s: 1, out: 16, e: [2, 4], k: [3, 5]}
  - {name: b, s: 2, out: 32, e: [2, 6], k: [3, 5], l: [1, 2]}
  - {name: c, s: 2, out: 48, e: [2, 6], k: [3, 5], se: [0, 1]}
head: {features: 32, classes: 2}
"""
CLASSES = ("ground", "red", "green")
COLOURS = ("red", "green")


def layer_ms(key: LayerKey) -> float:
    """ms of a layer on a machine that exists here only."""
    layer = lower_key(key)
    return 0.05 + layer.madds / 1e6 + layer.params / 1e6


def computed_table(space: SearchSpace) -> LatencyTable:
    """What a table of `space` would hold if layers took `layer_ms`; its fingerprint is this machine's."""
    layers = {k: Timed(round(layer_ms(k), 6), 12, round(layer_ms(k), 6), 0.0) for k in layer_keys(space)}
    nets = []
    for g in space.sample(np.random.default_rng(0), 6):
        keys = [x.key for x in lower(space.deployed(tuple(int(v) for v in g)))]
        hot, mb = sum(layers[k].ms for k in keys), sum(map(weights_mb, keys))
        madds = sum(lower_key(k).madds for k in keys)
        nets.append(NetworkTime("calibration:" + "-".join(map(str, g)), round(hot + 0.1, 6), hot, mb, madds))
    reference = {"spec": "mobilenet_v3_large", "width": space.width, "resolution": list(space.resolution),
                 "classes": 1000, "ms": 3.0}  # fmt: skip
    about = {"space": space.name, "width": space.width, "resolution": space.resolution[0], "date": "2026-01-01"}
    table = LatencyTable(open_runtime("onnxruntime", 1).fingerprint, reference, layers, about=about)
    return table.calibrated(nets)


def blob(rng: np.random.Generator, kind: int, side: int = 32) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[int]]:
    """A picture of one bright rectangle, red or green; its mask; its box."""
    w, h = rng.integers(10, 20, 2)
    x, y = rng.integers(0, side - w), rng.integers(0, side - h)
    image = rng.integers(0, 60, (side, side, 3)).astype(np.uint8)
    image[y : y + h, x : x + w, kind] += 180
    mask = np.zeros((side, side), np.uint8)
    mask[y : y + h, x : x + w] = 1 + kind
    return image, mask, [int(v) for v in (x, y, x + w, y + h)]


def class_folder(where: Path, n: int) -> Path:
    """WHERE/<class>/*.png: `n` images of each of two classes."""
    rng = np.random.default_rng(0)
    for kind, name in enumerate(COLOURS):
        (where / name).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(blob(rng, kind)[0]).save(where / name / f"{i}.png")
    return where


def masked_folder(where: Path, n: int) -> Path:
    """WHERE/{images,masks}/*.png and classes.txt: three classes."""
    rng = np.random.default_rng(1)
    for sub in ("images", "masks"):
        (where / sub).mkdir(parents=True)
    for i in range(n):
        image, mask, _ = blob(rng, i % 2)
        Image.fromarray(image).save(where / "images" / f"{i}.png")
        Image.fromarray(mask).save(where / "masks" / f"{i}.png")
    (where / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    return where


def coco_folder(where: Path, n: int) -> Path:
    """WHERE/images/*.png and annotations/instances_train.json."""
    rng = np.random.default_rng(2)
    document: dict[str, list[Any]] = {
        "images": [], "annotations": [],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(COLOURS)],
    }  # fmt: skip
    (where / "images").mkdir(parents=True)
    (where / "annotations").mkdir()
    for i in range(n):
        image, _, (x0, y0, x1, y1) = blob(rng, i % 2)
        Image.fromarray(image).save(where / "images" / f"{i}.png")
        document["images"].append({"id": i, "file_name": f"{i}.png", "width": 32, "height": 32})
        document["annotations"].append(
            {"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0}
        )
    (where / "annotations" / "instances_train.json").write_text(json.dumps(document), encoding="utf-8")
    return where


def voc_xml(name: str, side: int, boxes: list[tuple[str, list[int]]]) -> str:
    """One annotation of Pascal VOC's kind."""
    root = Xml.Element("annotation")
    Xml.SubElement(root, "filename").text = name
    size = Xml.SubElement(root, "size")
    for tag, value in (("width", side), ("height", side), ("depth", 3)):
        Xml.SubElement(size, tag).text = str(value)
    for label, edges in boxes:
        thing = Xml.SubElement(root, "object")
        Xml.SubElement(thing, "name").text = label
        Xml.SubElement(thing, "difficult").text = "0"
        box = Xml.SubElement(thing, "bndbox")
        for tag, edge in zip(("xmin", "ymin", "xmax", "ymax"), edges, strict=True):
            Xml.SubElement(box, tag).text = str(edge)
    return Xml.tostring(root, encoding="unicode")


def voc_folder(where: Path, n: int) -> Path:
    """WHERE/JPEGImages/*.png and Annotations/*.xml."""
    rng = np.random.default_rng(3)
    for sub in ("JPEGImages", "Annotations"):
        (where / sub).mkdir(parents=True)
    for i in range(n):
        image, _, (x0, y0, x1, y1) = blob(rng, i % 2)
        Image.fromarray(image).save(where / "JPEGImages" / f"{i}.png")
        text = voc_xml(f"{i}.png", 32, [(COLOURS[i % 2], [x0 + 1, y0 + 1, x1, y1])])
        (where / "Annotations" / f"{i}.xml").write_text(text, encoding="utf-8")
    return where


def network(space: SearchSpace) -> ArchSpec:
    """The largest network of a small space."""
    return replace(space.deployed(tuple(n - 1 for n in space.sizes)), name="small")


def write_space_and_table(where: Path) -> tuple[Path, Path]:
    """WHERE/tiny.yaml and tiny.csv."""
    where.mkdir(parents=True, exist_ok=True)
    (where / "tiny.yaml").write_text(SPACE, encoding="utf-8")
    computed_table(load_space(where / "tiny.yaml")).save(where / "tiny.csv")
    return where / "tiny.yaml", where / "tiny.csv"


def write_network(where: Path, space: SearchSpace) -> tuple[Path, Path]:
    """WHERE/small.yaml and small.safetensors: a network and weights of its own."""
    spec = network(space)
    (where / "small.yaml").write_text(dump_spec(spec), encoding="utf-8")
    torch.manual_seed(0)
    save_weights(where / "small.safetensors", build(spec, 0).state_dict(), network="small")
    return where / "small.yaml", where / "small.safetensors"
