"""Faults of images, masks and checkpoints: (why it must be refused or warned of, how it is planted)."""

from __future__ import annotations

import json
import math
import pickle
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from fuzz.base import image_bytes, state, torch_bytes, valid
from fuzz.cases import Case

__all__ = ["CHECKPOINT", "IMAGES", "MASKS"]

Plant = Callable[[random.Random], Case]
Files = Callable[[random.Random, Case], dict[str, Any]]


def _changed(kind: str, change: Files, says: str = "") -> Plant:
    def plant(rng: random.Random) -> Case:
        case = valid(kind)[0]
        return case.changed(change(rng, case), says=says)

    return plant


def _noise(rng: random.Random, *shape: int) -> Any:
    return np.random.default_rng(rng.randrange(2**31)).integers(0, 256, shape, dtype=np.uint8)


def _png(rng: random.Random) -> bytes:
    return image_bytes(_noise(rng, 32, 32, 3), "png")


def _content(case: Case, name: str) -> bytes:
    found = case.files[name]
    assert isinstance(found, bytes)
    return found


# ---- images


def _some_picture(rng: random.Random, case: Case) -> str:
    return rng.choice(sorted(n for n in case.files if n.startswith("data/")))


def _cut(rng: random.Random, case: Case) -> dict[str, Any]:
    name = rng.choice(sorted(n for n in case.files if n.endswith((".png", ".jpg", ".bmp", ".webp", ".ppm"))))
    content = _content(case, name)
    return {name: content[: rng.randrange(len(content) // 4, len(content) // 2)]}


def _of(*contents: bytes) -> Files:
    return lambda rng, case: {_some_picture(rng, case): rng.choice(contents)}


def _deep(make: Callable[[Any], Any]) -> Files:
    """A TIFF of values that nothing says the black and white of."""

    def change(rng: random.Random, case: Case) -> dict[str, Any]:
        values = np.random.default_rng(rng.randrange(2**31)).random((32, 32))
        return {"data/red/deep.tiff": image_bytes(Image.fromarray(make(values)), "tiff")}

    return change


def _bomb(rng: random.Random, case: Case) -> dict[str, Any]:
    side = rng.randrange(20_000, 60_000)
    return {"data/red/bomb.bmp": b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack(
        "<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 2835, 2835, 0, 0)}  # fmt: skip


def _only(keep: Callable[[str], bool], **more: Any) -> Files:
    return lambda rng, case: {**{n: None for n in case.files if not keep(n)}, **more}


def _moved(rng: random.Random, case: Case, place: Callable[[str], str]) -> dict[str, Any]:
    return {**dict.fromkeys(case.files), **{place(n): c for n, c in case.files.items()}}


def _of_channels(rng: random.Random, case: Case) -> dict[str, Any]:
    from mbv3.spec import dump_spec, load_spec

    text = dump_spec(load_spec("mobilenet_v3_small@0.35"))
    channels = rng.choice((1, 2, 4, 6, 13))
    return {"network.yaml": text.replace("channels: 3}", f"channels: {channels}}}").encode()}


def _two_spellings(rng: random.Random, case: Case) -> dict[str, Any]:
    word = rng.choice(("é", "ü", "ñ", "å"))
    import unicodedata

    return {
        f"data/{unicodedata.normalize(form, word)}/{i}.png": image_bytes(_noise(rng, 32, 32, 3), "png")
        for form in ("NFC", "NFD") for i in range(3)
    }  # fmt: skip


def _parts(rng: random.Random, case: Case) -> dict[str, Any]:
    """Training and other parts under names that are none."""
    names = rng.choice((("part1", "part2"), ("fold_a", "fold_b"), ("2023", "2024")))
    return {
        **dict.fromkeys(case.files),
        **{f"data/{part}/{n.removeprefix('data/')}": c for part in names for n, c in case.files.items()},
    }  # fmt: skip


IMAGES: tuple[tuple[str, Plant], ...] = (
    ("a picture that is cut off", _changed("images", _cut)),
    ("a file that is no picture", _changed("images", _of(b"", b"\0" * 100, b"<html>404</html>", b"\x89PNG\r\n\x1a\n"))),
    ("a picture of one value, as black ones are", _changed(
        "images", lambda r, c: {"data/red/flat.png": image_bytes(np.resize(_noise(r, 3), (32, 32, 3)), "png")},
        "flat.png")),
    ("whole numbers of 32 bits, whose white nothing says", _changed(
        "images", _deep(lambda v: (v * 2e9).astype(np.int32)), "deep.tiff")),
    ("values below zero", _changed("images", _deep(lambda v: ((v - 0.5) * 1000).astype(np.int32)), "deep.tiff")),
    ("float values beyond any scale", _changed("images", _deep(lambda v: (v * 1e6).astype(np.float32)), "deep.tiff")),
    ("float values that are not finite", _changed(
        "images", _deep(lambda v: np.where(v < 0.5, np.float32(np.nan), v).astype(np.float32)), "deep.tiff")),
    ("12-bit values in 16 bits: dark unless they are spread", _changed(
        "images", _deep(lambda v: (v * 4095).astype(np.uint16)))),
    ("a picture that would fill the memory", _changed("images", _bomb, "bomb.bmp")),
    ("one class: nothing to tell apart", _changed("images", _only(lambda n: "/red/" in n))),
    ("a class without images", _changed("images", lambda r, c: {"data/blue/readme.txt": b"later"}, "blue")),
    ("a class of one image: nothing left to hold out", _changed(
        "images", lambda r, c: {"data/blue/0.png": _png(r)}, "blue")),
    ("no images at all", _changed(
        "images", _only(lambda n: False, **{"data/red/a.txt": b"x", "data/green/b.txt": b"x"}))),
    ("no such folder", _changed("images", _only(lambda n: False))),
    ("a file in place of the folder", _changed("images", _only(lambda n: False, data=b"x"))),
    ("images beside the class folders: they would be left out unseen", _changed(
        "images", lambda r, c: {f"data/stray{r.randrange(9)}.png": _png(r)}, "stray")),
    ("folders within a class folder: one class or several?", _changed(
        "images", lambda r, c: {f"data/red/deep{r.randrange(9)}/0.png": _png(r)}, "deep")),
    ("two pictures of one name but for the suffix", _changed(
        "images", lambda r, c: {f"data/red/same.{s}": _png(r) for s in ("png", "bmp")}, "same")),
    ("a link that leads nowhere", _changed(
        "images", lambda r, c: {f"data/red/lost{r.randrange(9)}.png": Path("/nowhere/at/all.png")}, "lost")),
    ("a class folder that is a link to nothing", _changed(
        "images", lambda r, c: {f"data/gone{r.randrange(9)}": Path("/nowhere/at/all")}, "gone")),
    ("pictures in a format that is not read: they would be left out unseen", _changed(
        "images", lambda r, c: {f"data/red/photo.{r.choice(('heic', 'avif', 'cr2', 'nef', 'psd'))}": b"x" * 50},
        "cannot be read as images")),
    ("two classes of one name in two spellings", _changed("images", _two_spellings)),
    ("parts of a data set in place of classes", _changed("images", _parts)),
    ("a validation part with a class that was not learned", _changed("images", lambda r, c: {
        **_moved(r, c, lambda n: n.replace("data/", "data/train/")),
        **{f"data/val/{k}/0.png": _png(r) for k in ("red", "violet")}}, "violet")),
    ("a network that takes other channels than pictures have", _changed("images", _of_channels, "channels")),
)  # fmt: skip


# ---- masks


def _mask(rng: random.Random, case: Case) -> str:
    return f"data/masks/{rng.randrange(6)}.png"


def _as(make: Callable[[random.Random, Any], bytes]) -> Files:
    """A mask made anew from its values."""

    def change(rng: random.Random, case: Case) -> dict[str, Any]:
        import io

        name = _mask(rng, case)
        return {name: make(rng, np.asarray(Image.open(io.BytesIO(_content(case, name)))).copy())}

    return change


def _with_pixels(*values: int, dtype: str = "uint8") -> Files:
    def make(rng: random.Random, mask: Any) -> bytes:
        mask = mask.astype(dtype)
        for _ in range(rng.randrange(1, 20)):
            mask[rng.randrange(32), rng.randrange(32)] = rng.choice(values)
        return image_bytes(mask, "png")

    return _as(make)


def _all_masks(make: Callable[[random.Random, Any], Any], **more: Any) -> Files:
    def change(rng: random.Random, case: Case) -> dict[str, Any]:
        import io

        names = sorted(n for n in case.files if "/masks/" in n)
        return {**{n: image_bytes(make(rng, np.asarray(Image.open(io.BytesIO(_content(case, n)))).copy()), "png")
                   for n in names}, **more}  # fmt: skip

    return change


def _names(*texts: bytes) -> Files:
    return lambda rng, case: {"data/classes.txt": rng.choice(texts)}


MASKS: tuple[tuple[str, Plant], ...] = (
    ("an index of no class", _changed("masks", _with_pixels(3, 4, 7, 100, 254), "class ind")),
    ("an index over 255 in 16 bits", _changed("masks", _with_pixels(300, 1000, 65535, dtype="uint16"), "class ind")),
    ("a mask of another size than its picture", _changed(
        "masks", _as(lambda r, m: image_bytes(np.resize(m, r.choice(((31, 32), (32, 33), (64, 64), (1, 1)))), "png")))),
    ("a mask in colours: no index is in it", _changed(
        "masks", _as(lambda r, m: image_bytes(np.stack([m * 70] * r.choice((3, 4)), -1), "png")), "mask")),
    ("a mask as JPEG: indices are blurred into each other", _changed("masks", lambda r, c: {
        (n := _mask(r, c)): None, n.replace(".png", ".jpg"): image_bytes(_noise(r, 32, 32) % 3, "jpg")}, "JPEG")),
    ("a mask of floats", _changed("masks", lambda r, c: {
        (n := _mask(r, c)): None,
        n.replace(".png", ".tiff"): image_bytes((_noise(r, 32, 32) % 3).astype(np.float32) + 0.4, "tiff")}, "mask")),
    ("a mask that is cut off", _changed("masks", lambda r, c: {
        (n := _mask(r, c)): _content(c, n)[: r.randrange(20, len(_content(c, n)) - 30)]})),
    ("a picture without its mask", _changed("masks", lambda r, c: {_mask(r, c): None}, "no mask")),
    ("a mask without its picture", _changed(
        "masks", lambda r, c: {f"data/images/{r.randrange(6)}.png": None}, "without its image")),
    ("a picture that cannot be opened", _changed(
        "masks", lambda r, c: {f"data/images/{r.randrange(6)}.png": r.choice((b"", b"x" * 99, b"GIF89a"))})),
    ("two masks that a picture may have", _changed("masks", lambda r, c: {
        _mask(r, c).replace(".png", r.choice((".bmp", ".tiff"))): image_bytes(_noise(r, 32, 32) % 3, "bmp")})),
    ("one class only: nothing to tell apart", _changed("masks", _all_masks(lambda r, m: m * 0))),
    ("0 and 255 for two classes: 255 is ignored", _changed(
        "masks", _all_masks(lambda r, m: np.where(m > 0, 255, 0).astype(np.uint8)), "255")),
    ("indices with gaps and no names", _changed(
        "masks", _all_masks(lambda r, m: np.where(m > 0, m * 60, 0).astype(np.uint8), **{"data/classes.txt": None}))),
    ("a class that no mask holds", _changed(
        "masks", _names(b"ground\nred\ngreen\nblue\n", b"ground\nred\ngreen\nsky\nsea\n"), "class")),
    ("fewer names than classes", _changed("masks", _names(b"ground\nred\n", b"a\nb\n"))),
    ("one name for two classes", _changed("masks", _names(b"red\nred\ngreen\n", b"a\nb\nb\n"), "classes.txt")),
    ("names that are no text", _changed("masks", _names(b"\xffred\n\xfe\n", b"gr\xc3\nb\nc\n"), "classes.txt")),
    ("one name: nothing to tell apart", _changed("masks", _names(b"ground\n", b"\n\nred\n"), "classes.txt")),
    ("no masks", _changed("masks", _only(lambda n: "/masks/" not in n))),
    ("masks that are all ignored", _changed("masks", _all_masks(lambda r, m: np.full_like(m, 255)))),
    ("two images: too few to hold one out", _changed(
        "masks", _only(lambda n: n.endswith(("/0.png", "/1.png")) or "classes" in n))),
    ("a training part and nothing to score on", _changed("masks", lambda r, c: {
        **dict.fromkeys(c.files), **{n.replace("data/", "data/train/", 1): x for n, x in c.files.items()
                                         if "classes" not in n}})),
    ("a link that leads nowhere", _changed(
        "masks", lambda r, c: {f"data/images/lost{r.randrange(9)}.png": Path("/nowhere/at/all.png")}, "lost")),
)  # fmt: skip


# ---- checkpoints


def _stored(content: bytes, name: str = "input.safetensors") -> dict[str, Any]:
    return {**{n: None for n in valid("checkpoint")[0].files if n.startswith("input")}, name: content}


def _tensors(change: Callable[[random.Random, dict[str, torch.Tensor]], object]) -> Plant:
    """A change to the weights, in one of three formats; it returns a word that the message must have."""

    def plant(rng: random.Random) -> Case:
        tensors = dict(state())
        says = change(rng, tensors)
        how = rng.randrange(3)
        content = save({k: v.contiguous() for k, v in tensors.items()}) if how == 0 else torch_bytes(
            {"state_dict": tensors} if how == 1 else tensors, old=how == 2)  # fmt: skip
        files = _stored(content, "input.safetensors" if how == 0 else "input.pth")
        return valid("checkpoint")[0].changed(files, says=str(says or ""))

    return plant


def _body(rng: random.Random, tensors: dict[str, torch.Tensor], end: str = "weight") -> str:
    return rng.choice(sorted(k for k in tensors if k.endswith(end) and not k.startswith("head.")))


def _values(*values: float, dtype: torch.dtype = torch.float32) -> Callable[..., object]:
    def change(rng: random.Random, tensors: dict[str, torch.Tensor]) -> object:
        name = _body(rng, tensors)
        new = tensors[name].clone().to(dtype)
        flat = new.view(-1)
        for _ in range(rng.randrange(1, 4)):
            flat[rng.randrange(len(flat))] = rng.choice(values)
        tensors[name] = new
        return name

    return change


def _variance(rng: random.Random, tensors: dict[str, torch.Tensor]) -> object:
    name = _body(rng, tensors, "running_var")
    tensors[name] = tensors[name].clone()
    tensors[name][rng.randrange(len(tensors[name]))] = rng.choice((-1.0, -0.01, -1e9))
    return name


def _shape(rng: random.Random, tensors: dict[str, torch.Tensor]) -> object:
    name = _body(rng, tensors)
    old = tensors[name]
    tensors[name] = rng.choice((torch.cat([old, old]), old[:0], old[:1], old.unsqueeze(0)))
    return name


def _type(rng: random.Random, tensors: dict[str, torch.Tensor]) -> object:
    name = _body(rng, tensors)
    tensors[name] = tensors[name].to(rng.choice((torch.int8, torch.int64, torch.uint8, torch.bool, torch.int32)))
    return name


def _lost(rng: random.Random, tensors: dict[str, torch.Tensor]) -> object:
    del tensors[name := _body(rng, tensors, rng.choice(("weight", "bias", "running_var", "running_mean")))]
    return name


def _added(rng: random.Random, tensors: dict[str, torch.Tensor]) -> object:
    name = _body(rng, tensors).replace("weight", f"alpha{rng.randrange(9)}")
    tensors[name] = torch.ones(3)
    return name


def _half(rng: random.Random, tensors: dict[str, torch.Tensor]) -> object:
    name = _body(rng, tensors)
    tensors[name] = (tensors[name] + rng.choice((7e4, -1e5, 1e9))).half()
    return name


def _file(*contents: bytes, name: str = "input.pth") -> Plant:
    return lambda rng: valid("checkpoint")[0].changed(_stored(rng.choice(contents), name))


def _cut_file(rng: random.Random) -> Case:
    case = rng.choice(valid("checkpoint"))
    name = next(n for n in case.files if n.startswith("input"))
    content = _content(case, name)
    return case.changed({name: content[: rng.randrange(100, len(content) - 200)]})


def _header(change: Callable[[random.Random, dict[str, Any]], object]) -> Plant:
    """A change to the header of a safetensors file."""

    def plant(rng: random.Random) -> Case:
        content = save(state())
        n = int.from_bytes(content[:8], "little")
        document = json.loads(content[8 : 8 + n])
        change(rng, document)
        text = json.dumps(document).encode()
        new = len(text).to_bytes(8, "little") + text + content[8 + n :]
        return valid("checkpoint")[0].changed(_stored(new))

    return plant


def _entry(rng: random.Random, document: dict[str, Any]) -> dict[str, Any]:
    return document[rng.choice(sorted(k for k in document if k != "__metadata__" and not k.startswith("head.")))]  # type: ignore[no-any-return]


class _Runs:
    """Asks whoever unpickles it to call something."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run",)


class _Tensorless:
    """An object of nobody's."""


_Runs.__module__ = _Tensorless.__module__ = "somebody"


def _code(rng: random.Random) -> Case:
    protocol = rng.randrange(2, 5)
    return valid("checkpoint")[0].changed(_stored(pickle.dumps([_Runs()] * rng.randrange(1, 9), protocol), "input.pth"))


def _supernet(rng: random.Random, tensors: dict[str, torch.Tensor]) -> object:
    tensors[f"rows.{rng.randrange(3)}.dw.conv.7to5_matrix"] = torch.eye(25)


def _whole_other(rng: random.Random) -> Case:
    from mbv3.nn import build
    from mbv3.spec import load_spec

    other = build(load_spec(f"mobilenet_v3_small@{rng.choice((0.35, 0.5))}"), 0).state_dict()
    return valid("checkpoint")[0].changed(_stored(save(dict(other))))


CHECKPOINT: tuple[tuple[str, Plant], ...] = (
    ("NaN in a weight: every answer is NaN", _tensors(_values(math.nan))),
    ("an infinite weight", _tensors(_values(math.inf, -math.inf))),
    ("a weight that overflowed in fp16", _tensors(_half)),
    ("NaN in half precision", _tensors(_values(math.nan, dtype=torch.bfloat16))),
    ("a weight of fp64 that fp32 cannot hold", _tensors(_values(1e300, -1e39, dtype=torch.float64))),
    ("a variance below zero", _tensors(_variance)),
    ("a weight of another shape", _tensors(_shape)),
    ("weights of whole numbers: quantised, and no scale is in the file", _tensors(_type)),
    ("a weight that is missing", _tensors(_lost)),
    ("a weight that the network has no place for", _tensors(_added)),
    ("the shared weights of a supernet", _tensors(_supernet)),
    ("weights of another network", _whole_other),
    ("a file that is cut off", _cut_file),
    ("no file of weights", _file(b"", b"\0" * 200, b"hello", b"PK\x03\x04" + b"x" * 50, bytes(range(256)))),
    ("a pointer to the weights", _file(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")),
    ("a web page in place of the weights", _file(b"<!DOCTYPE html><html></html>", b"\n<HTML>", b"<html lang=en>")),
    ("a packed file", _file(b"\x1f\x8b\x08" + b"\0" * 60, b"\x1f\x8b" + b"x" * 99)),
    ("an HDF5 file of Keras", _file(b"\x89HDF\r\n\x1a\n" + b"\0" * 200)),
    ("no tensors in it", _file(torch_bytes({"a": 1}), torch_bytes([1, 2]), pickle.dumps({"x": "y"}), torch_bytes(3.0))),
    ("code to be run, and no tensors", _code),
    ("a header that is longer than the file", lambda rng: valid("checkpoint")[0].changed(
        _stored((2 ** rng.randrange(30, 62)).to_bytes(8, "little") + save(state())[8:]))),
    ("a header that is no JSON", lambda rng: valid("checkpoint")[0].changed(
        _stored((40).to_bytes(8, "little") + b"{" + bytes([rng.randrange(97, 120)] * 39) + save(state())[48:]))),
    ("bytes that lie outside of the file", _header(
        lambda r, d: _entry(r, d).update(data_offsets=[10**6, 10**6 + r.randrange(8, 4096, 4)]))),
    ("a shape that does not fit the bytes", _header(lambda r, d: _entry(r, d).update(shape=[r.randrange(1000, 9999)]))),
    ("a type that does not exist", _header(lambda r, d: _entry(r, d).update(dtype=r.choice(("F33", "", "X1"))))),
)  # fmt: skip
