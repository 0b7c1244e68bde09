"""Inputs that are wrong somehow: bytes of valid files flipped, cut and spliced, and documents changed by hypothesis."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
import yaml
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from fuzz.base import IMAGE_FORMATS, coco, image_bytes, state, torch_bytes, valid
from fuzz.cases import Case

__all__ = ["bent", "main_files", "sealed", "structured"]

# ---- bytes ---------------------------------------------------------------------------------------------------


def main_files(case: Case) -> list[str]:
    """The files of an input that are to be changed."""
    names = [n for n, content in case.files.items() if isinstance(content, bytes)]
    chosen = {
        "annotations": (".json", ".xml"), "images": tuple(IMAGE_FORMATS), "masks": (".png", ".txt"),
        "checkpoint": (".safetensors", ".pth", ".tar", ".pkl"),
    }.get(case.kind, ("",))  # fmt: skip
    return [n for n in names if n.endswith(chosen) and not (case.kind == "masks" and "images/" in n)]


def bent(kind: str, rng: random.Random) -> Case:
    """A valid input with a few bytes of one file flipped, cut off, taken from elsewhere, repeated or replaced."""
    case = rng.choice(valid(kind))
    name = rng.choice(main_files(case))
    content = case.files[name]
    assert isinstance(content, bytes)
    other = rng.choice(valid(kind))
    donor = other.files[rng.choice(main_files(other))]
    assert isinstance(donor, bytes)
    new = _bent(content, donor, rng)
    if kind == "table" and rng.random() < 0.7:  # what is behind the seal is to be reached too
        new = sealed(new)
    return case.changed({name: new}, source=f"bytes of {name}")


def _bent(content: bytes, donor: bytes, rng: random.Random) -> bytes:
    new = bytearray(content)
    at = _place(len(new), rng)
    how = rng.randrange(6)
    if how == 0:
        for _ in range(rng.choice((1, 1, 2, 8, 64))):
            if new:
                new[_place(len(new), rng)] ^= 1 << rng.randrange(8)
    elif how == 1:
        del new[at:]
    elif how == 2:
        del new[at : at + rng.choice((1, 4, 100))]
    elif how == 3:
        begin = _place(len(donor), rng)
        new[at : at + rng.choice((0, 16))] = donor[begin : begin + rng.choice((4, 32, 1000))]
    elif how == 4:
        new[at:at] = new[at : at + rng.choice((1, 20, 400))]
    else:
        new[at : at + rng.choice((1, 2, 8))] = rng.choice(
            (b"\0", b"\xff" * 4, b"nan", b"-1", b"1e999", b"9" * 30, b"\xef\xbb\xbf", b"\r\n", b"[" * 200, b"null", b"")
        )
    return bytes(new)


def _place(n: int, rng: random.Random) -> int:
    """Headers are short and full of meaning: half of the places are among the first bytes."""
    return rng.randrange(max(1, n if rng.random() < 0.5 else min(n, 200)))


def sealed(content: bytes) -> bytes:
    """A table's text with the seal that its content asks for."""
    try:
        lines = content.decode().split("\n")
    except UnicodeDecodeError:
        return content
    head = [x for x in lines if x.startswith("# ") and not x.startswith("# seal: ")]
    n = next((i for i, x in enumerate(lines) if not x.startswith("# ")), len(lines))
    body = "\n".join(lines[n:])
    text = "".join(x + "\n" for x in lines[:n] if x in head)
    try:
        rows = max(len(list(csv.reader(io.StringIO(body)))) - 1, 0)
    except csv.Error:
        rows = 0
    seal = {"rows": rows, "sha256": hashlib.sha256((text + body).encode()).hexdigest()}
    return f"{text}# seal: {json.dumps(seal)}\n{body}".encode()


# ---- documents -----------------------------------------------------------------------------------------------

JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 300), st.integers(), st.floats(),
    st.sampled_from((math.nan, math.inf, -math.inf, -1, 0, 10**30, 1e300, 1e-300, "", " ", "nan", "1", "true")),
    st.text(max_size=12), st.lists(st.integers(-2, 9), max_size=3), st.just({}), st.just({"k": 3}),
)  # fmt: skip
EDITS = st.lists(
    st.tuples(st.integers(0, 10**6), st.sampled_from(("put", "put", "drop", "double", "swap", "add")), JUNK),
    min_size=1, max_size=4,
)  # fmt: skip


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key or index) of everything in a document."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    for key in keys:
        yield value, key
        yield from _places(value[key])


def edited(document: Any, edits: list[tuple[int, str, Any]]) -> Any:
    """A copy of a document of mappings and lists, changed at some places."""
    new = json.loads(json.dumps(document))
    for where, how, junk in edits:
        places = list(_places(new))
        if not places:
            break
        container, key = places[where % len(places)]
        junk = deepcopy(junk)  # the same object in two places would make a ring
        if how == "put":
            container[key] = junk
        elif how == "drop":
            del container[key]
        elif how == "add" and isinstance(container, dict):
            container[str(junk)] = junk
        elif how == "double" and isinstance(container, list):
            container.insert(key, deepcopy(container[key]))
        elif how == "swap":
            other, name = places[(where // 7) % len(places)]
            try:
                container[key] = deepcopy(other[name])
            except (KeyError, IndexError):
                continue
    return new


def _text(case: Case, name: str) -> str:
    content = case.files[name]
    assert isinstance(content, bytes)
    return content.decode()


@st.composite
def _yaml_case(draw: Callable[..., Any], kind: str) -> Case:
    case = draw(st.sampled_from(valid(kind)))
    document = edited(yaml.safe_load(_text(case, "input.yaml")), draw(EDITS))
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=draw(st.booleans()))
    return case.changed({"input.yaml": text.encode("utf-8", "surrogatepass")}, source="edited")


@st.composite
def _table_case(draw: Callable[..., Any]) -> Case:
    case = valid("table")[0]
    lines = _text(case, "input.csv").splitlines()
    head = [x[2:].split(": ", 1) for x in lines if x.startswith("# ")]
    rows = list(csv.reader(x for x in lines if not x.startswith("# ")))
    edits = draw(EDITS)
    if draw(st.booleans()):
        document = edited({k: json.loads(v) for k, v in head}, edits)
        lines = [f"# {k}: {json.dumps(v)}" for k, v in document.items()]
    else:
        rows = edited(rows, edits)
        lines = [f"# {k}: {v}" for k, v in head]
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(
        [["" if v is None else v for v in row] if isinstance(row, list) else [row] for row in rows]
    )
    text = "\n".join(lines) + "\n" + out.getvalue()
    return case.changed({"input.csv": sealed(text.encode("utf-8", "backslashreplace"))}, source="edited")


@st.composite
def _coco_case(draw: Callable[..., Any]) -> Case:
    text = json.dumps(edited(coco(), draw(EDITS)))
    name = "data/annotations/instances_train.json"
    return valid("annotations")[0].changed({name: text.encode()}, source="edited")


@st.composite
def _voc_case(draw: Callable[..., Any]) -> Case:
    case = valid("annotations")[1]
    name = draw(st.sampled_from(main_files(case)))
    root = ElementTree.fromstring(_text(case, name))
    for where, how, junk in draw(EDITS):
        nodes = [(parent, child) for parent in root.iter() for child in parent]
        if not nodes:
            break
        parent, child = nodes[where % len(nodes)]
        if how in ("put", "add"):
            child.text = "".join(c for c in str(junk) if c.isprintable())
        elif how == "drop":
            parent.remove(child)
        elif how == "double":
            parent.append(child)
        else:
            child.tag = "object"
    return case.changed({name: ElementTree.tostring(root)}, source="edited")


_DTYPES = ("uint8", "uint16", "int32", "float32", "bool")
_SIDES = st.sampled_from((1, 2, 3, 7, 31, 32, 33, 64, 200))


@st.composite
def _image_case(draw: Callable[..., Any]) -> Case:
    """A picture of any depth, mode, size, orientation, format and name in a class folder."""
    case = valid("images")[0]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    h, w = draw(_SIDES), draw(_SIDES)
    dtype = draw(st.sampled_from(_DTYPES))
    scale = draw(st.sampled_from((1, 255, 4095, 65535, -70000)))
    values = rng.random((h, w)) * scale
    suffix = draw(st.sampled_from(IMAGE_FORMATS))
    mode = draw(st.sampled_from(("L", "RGB", "RGBA", "P", "CMYK", "LA", "1", "I;16", "F", "YCbCr", "HSV", "PA")))
    exif = Image.Exif()
    exif[0x0112] = draw(st.integers(0, 9))
    try:
        image = Image.fromarray(values.clip(0, 1) > 0.5 if dtype == "bool" else values.astype(dtype))
        if draw(st.booleans()):
            image = image.convert(mode)
        content = image_bytes(image, suffix, exif=exif)
    except (OSError, ValueError, KeyError, TypeError, OverflowError):  # the format cannot hold it
        content = image_bytes(Image.fromarray((rng.random((h, w, 3)) * 255).astype(np.uint8)), "png")
    name = draw(st.text(st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), max_size=20))
    return case.changed({f"data/green/x{name}.{suffix}": content}, source="drawn")


@st.composite
def _mask_case(draw: Callable[..., Any]) -> Case:
    case = valid("masks")[0]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    h, w = draw(st.sampled_from(((32, 32), (32, 32), (32, 31), (1, 1), (64, 32))))
    top = draw(st.sampled_from((1, 2, 3, 255, 65535)))
    mask = rng.integers(0, top + 1, (h, w)).astype(draw(st.sampled_from(("uint8", "uint16", "int32", "float32"))))
    changes: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from([n for n in case.files if "masks/" in n]), min_size=1, max_size=6)):
        try:
            image = Image.fromarray(mask)
            if draw(st.booleans()):
                image = image.convert(draw(st.sampled_from(("P", "L", "RGB", "1", "LA", "I"))))
            changes[name] = image_bytes(image, draw(st.sampled_from(("png", "png", "tiff", "bmp", "gif", "jpg"))))
        except (OSError, ValueError):
            changes[name] = None
    if draw(st.booleans()):
        names = draw(st.lists(st.text(max_size=6), max_size=5))
        text = "\n".join(names).encode("utf-8", "backslashreplace")
        changes["data/classes.txt"] = draw(st.sampled_from((text, None)))
    return case.changed(changes, source="drawn")


_TORCH = tuple(getattr(torch, n) for n in ("float32", "float64", "float16", "bfloat16", "int64", "bool", "complex64"))


@st.composite
def _checkpoint_case(draw: Callable[..., Any]) -> Case:
    """Tensors of any type, shape and name, nested anyhow, in one of the formats."""
    base = valid("checkpoint")[0]
    tensors: dict[Any, Any] = dict(state())
    for where, how, junk in draw(EDITS):
        name = sorted(map(str, tensors))[where % max(1, len(tensors))] if tensors else "x"
        if how in ("drop", "swap"):
            tensors.pop(name, None)
        elif how == "add":
            tensors[str(junk)] = junk
        else:
            shape = draw(st.lists(st.integers(0, 3), max_size=4))
            tensors[name] = torch.zeros(shape, dtype=draw(st.sampled_from(_TORCH)))
    how = draw(st.sampled_from(("safetensors", "zip", "old")))
    if how == "safetensors":
        kept = {str(k): v.contiguous() for k, v in tensors.items() if isinstance(v, torch.Tensor)}
        about = draw(st.sampled_from((None, {"mbv3": "{"}, {"mbv3": "[]"})))
        content, suffix = save(kept, metadata=about), "safetensors"
    else:
        nest = draw(st.lists(st.sampled_from(("state_dict", "model", "ema", "module", "0")), max_size=3))
        value: Any = tensors
        for key in nest:
            value = {key: value, "epoch": 1}
        wrapped = draw(st.sampled_from((value, [value], {"a": tensors, "b": value}, list(tensors.values()))))
        content, suffix = torch_bytes(wrapped, old=how == "old"), "pth"
    files: dict[str, Any] = {n: None for n in base.files if n.startswith("input")}
    return base.changed({**files, f"input.{suffix}": content}, source="drawn")


def structured(kind: str) -> st.SearchStrategy[Case]:
    """Inputs of a kind that keep to its format and break its rules."""
    return {
        "spec": _yaml_case("spec"), "space": _yaml_case("space"), "table": _table_case(),
        "annotations": st.one_of(_coco_case(), _voc_case()), "images": _image_case(), "masks": _mask_case(),
        "checkpoint": _checkpoint_case(),
    }[kind]  # fmt: skip
