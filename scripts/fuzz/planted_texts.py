"""Faults of specs, spaces, tables and annotations: (why it must be refused or warned of, how it is planted)."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import yaml
from small_inputs import COLOURS, voc_xml

from fuzz.base import coco, image_bytes, valid
from fuzz.cases import Case
from fuzz.mutate import sealed

__all__ = ["ANNOTATIONS", "SPACE", "SPEC", "TABLE"]

Change = Callable[[random.Random, Any], object]
Plant = Callable[[random.Random], Case]


def _load(case: Case) -> dict[str, Any]:
    content = case.files["input.yaml"]
    assert isinstance(content, bytes)
    return dict(yaml.safe_load(content))


def _dumped(kind: str, document: Any) -> Case:
    return valid(kind)[0].changed({"input.yaml": yaml.safe_dump(document, sort_keys=False).encode()})


def _document(kind: str, change: Change) -> Plant:
    """A change to the document of the small network or space; it returns a word that the message must have."""

    def plant(rng: random.Random) -> Case:
        document = _load(valid(kind)[0])
        says = change(rng, document)
        case = _dumped(kind, document)
        return case if says is None else case.changed({}, says=str(says))

    return plant


def _raw(kind: str, change: Callable[[random.Random, str], str]) -> Plant:
    """A change to the text."""

    def plant(rng: random.Random) -> Case:
        content = valid(kind)[0].files["input.yaml"]
        assert isinstance(content, bytes)
        text = change(rng, content.decode())
        return valid(kind)[0].changed({"input.yaml": text.encode("utf-8", "surrogateescape")})

    return plant


def _row(rng: random.Random, d: dict[str, Any]) -> dict[str, Any]:
    return rng.choice(d["rows"])  # type: ignore[no-any-return]


def _put(where: Callable[[random.Random, Any], dict[str, Any]], name: str, *values: Any) -> Change:
    def change(rng: random.Random, document: Any) -> object:
        where(rng, document)[name] = rng.choice(values)
        return name

    return change


def _top(rng: random.Random, d: dict[str, Any]) -> dict[str, Any]:
    return d


def _at(name: str) -> Callable[[random.Random, Any], dict[str, Any]]:
    return lambda rng, d: d[name]


def _mb(rng: random.Random, d: dict[str, Any]) -> dict[str, Any]:
    return rng.choice([r for r in d["rows"] if r.get("op") == "mbconv"])


def _misspelt(rng: random.Random, d: dict[str, Any]) -> object:
    name = rng.choice(sorted(d))
    d[name + "s"] = d.pop(name)
    return name + "s"


def _extra(rng: random.Random, d: dict[str, Any]) -> object:
    row = rng.choice(d.get("rows") or d["blocks"])
    row[word := f"extra_{rng.randrange(99)}"] = 1
    return word


def _without(*names: str) -> Change:
    def change(rng: random.Random, d: dict[str, Any]) -> object:
        d.pop(name := rng.choice(names))
        return name

    return change


def _residual(rng: random.Random, d: dict[str, Any]) -> object:
    row = next(r for r in d["rows"] if r.get("op") == "mbconv" and r.get("s", 1) > 1)
    row["skip"] = "identity"
    return "skip"


def _doubled_key(rng: random.Random, text: str) -> str:
    lines = text.splitlines()
    line = rng.choice([x for x in lines if x[:1].isalpha() and not x.endswith(":")])
    return "\n".join([*lines, line.partition(":")[0] + ": 3"])


_BAD_COUNTS = (0, -1, -16, 2.5, "16", True, None, 10**9, math.nan, [16])

SPEC: tuple[tuple[str, Plant], ...] = (
    ("another format: its numbers may mean something else",
     _document("spec", _put(_top, "format", "mbv3-spec/2", "mbv3-spec/0", "spec", 1, None))),
    ("no format line: nothing says that it is a network", _document("spec", _without("format"))),
    ("a misspelt name: what it was to set is not set", _document("spec", _misspelt)),
    ("an unknown field in a row: what it was to do is not done", _document("spec", _extra)),
    ("the same name twice: one of the two values is lost", _raw("spec", _doubled_key)),
    ("a kernel that no convolution has", _document("spec", _put(_row, "k", 0, 2, 4, -3, 33, 3.0, "3", True))),
    ("channels that cannot be", _document("spec", _put(_row, "out", *_BAD_COUNTS))),
    ("an expansion that cannot be", _document("spec", _put(_mb, "exp", *_BAD_COUNTS))),
    ("a squeeze that cannot be", _document("spec", _put(_mb, "se", -1, 2.5, "8", True, 10**9, math.nan))),
    ("a stride that cannot be", _document("spec", _put(_row, "s", 0, -1, 9, 1.5, "2", False, None))),
    ("a nonlinearity that does not exist", _document("spec", _put(_row, "nl", "RELU", "hs", 1, None, ["RE"]))),
    ("a kind of row that does not exist", _document("spec", _put(_row, "op", "mbconv3", "conv2d", "", 1, None))),
    ("a shortcut over a stride: the shapes differ", _document("spec", _residual)),
    ("an input without pixels", _document("spec", _put(_at("input"), "resolution", 0, -5, 1e6, math.nan, [32], "x"))),
    ("channels of the input that cannot be", _document("spec", _put(_at("input"), "channels", 0, -3, 2000, "3"))),
    ("an eps under which a variance of 0 divides by 0, or none",
     _document("spec", _put(_at("bn"), "eps", 0, -1e-3, math.nan, math.inf, "1e-3x", None, True))),
    ("a momentum that is no share", _document("spec", _put(_at("bn"), "momentum", -0.1, 2, math.nan, "x"))),
    ("classes that cannot be", _document("spec", _put(_at("head"), "classes", 0, -2, 2.5, "2", None, 10**9))),
    ("a dropout that is no share", _document("spec", _put(_at("head"), "dropout", -0.1, 1.5, math.nan, "x", None))),
    ("features of the head that cannot be", _document("spec", _put(_at("head"), "features", -1, 2.5, "x", 10**9))),
    ("no rows: there is no network", _document("spec", _put(_top, "rows", [], None, {}, "x"))),
    ("no head, stem or rows", _document("spec", _without("head", "stem", "rows"))),
    ("a gate that does not exist", _document("spec", _put(_top, "gate", "SIGMOIDS", 1, None))),
    ("a padding that does not exist", _document("spec", _put(_top, "padding", "same", "valid", 1, None))),
    ("two documents in one file: one would be left out", _raw("spec", lambda r, t: f"{t}---\n{t}")),
    ("a tag that asks for code to be run", _raw("spec", lambda r, t: t.replace(
        "gate: ", f"gate: {r.choice(('!!python/object/apply:os.system', '!!python/name:os.system', '!x'))} "))),
    ("an anchor: with its aliases a bomb", _raw(
        "spec", lambda r, t: t.replace("rows:", f"rows: &a{r.randrange(99)}", 1))),
    ("bytes that are no UTF-8", _raw("spec", lambda r, t: t + "# " + "\udcff\udcfe" * r.randrange(1, 5) + "\n")),
    ("a control character, which a terminal would obey", _raw("spec", lambda r, t: t.replace(
        "name: ", f"name: x{r.choice(chr(27) + chr(7) + chr(0))}", 1))),
    ("cut off in the middle", _raw("spec", lambda r, t: t[: r.randrange(30, len(t) // 2)])),
)  # fmt: skip


# ---- spaces


def _block(rng: random.Random, d: dict[str, Any]) -> dict[str, Any]:
    return rng.choice(d["blocks"])  # type: ignore[no-any-return]


def _twice(rng: random.Random, d: dict[str, Any]) -> object:
    block = _block(rng, d)
    block["k"] = [*block["k"], rng.choice(block["k"])]
    return "twice"


def _same_name(rng: random.Random, d: dict[str, Any]) -> object:
    one, other = rng.sample(range(3), 2)
    d["blocks"][one]["name"] = d["blocks"][other]["name"]
    return "same name"


def _no_choice(rng: random.Random, d: dict[str, Any]) -> object:
    for block in d["blocks"]:
        for name in ("e", "k", "l", "se"):
            if isinstance(block.get(name), list):
                block[name] = rng.choice(block[name])
    return "choice"


def _too_many(rng: random.Random, d: dict[str, Any]) -> object:
    n = rng.randrange(30, 60)
    d["blocks"][0].update(e=[1 + i / 8 for i in range(n)], k=[3, 5, 7, 9, 11], l=list(range(1, 33)), se=[0, 1],
                          width=[0.5 + i / 16 for i in range(20)])  # fmt: skip
    return "combinations"


def _wide(rng: random.Random, d: dict[str, Any]) -> object:
    _block(rng, d).update(out=rng.randrange(40_000, 65_000), width=8)
    return None


SPACE: tuple[tuple[str, Plant], ...] = (
    ("another format: its fields may mean something else",
     _document("space", _put(_top, "format", "mbv3-space/2", "mbv3-spec/1", 1, None))),
    ("a misspelt name: what it was to set is not set", _document("space", _misspelt)),
    ("an unknown field in a block: what it was to offer is not offered", _document("space", _extra)),
    ("the same name twice: one of the two values is lost", _raw("space", _doubled_key)),
    ("the same choice twice: two genomes would be one network", _document("space", _twice)),
    ("two blocks of one name: their genes could not be told apart", _document("space", _same_name)),
    ("nothing to choose: there is no search", _document("space", _no_choice)),
    ("more combinations than a cost table can hold", _document("space", _too_many)),
    ("an empty list of choices", _document("space", _put(_block, "k", [], [[]], [{}]))),
    ("an even or impossible kernel among the choices",
     _document("space", _put(_block, "k", [3, 4], [0, 3], [3, -5], [3, 99], [3, 5.0], [3, "5"], [3, True], 2))),
    ("an expansion that cannot be", _document("space", _put(_block, "e", [0, 2], [2, -1], [math.nan, 2], [2, math.inf],
                                                            [2, "4"], [2, True], 99))),
    ("a depth that cannot be", _document("space", _put(_block, "l", [-2, 1], [1, -1], [1, 99], [1, 1.5], "2", True))),
    ("a squeeze that is no switch", _document("space", _put(_block, "se", [0, 2], [0, 0.25], -1, "1", [0, True]))),
    ("a stride that cannot be", _document("space", _put(_block, "s", 0, -1, 9, 1.5, "2", [1, 2]))),
    ("channels that cannot be", _document("space", _put(_block, "out", 0, -8, 2.5, "16", None, 10**9, [16, 0]))),
    ("a block without channels", _document("space", lambda r, d: [_block(r, d).pop("out"), "out"][1])),
    ("a kind of row that does not exist", _document("space", _put(_block, "op", "mbconv6", ["mbconv", "x"], 1))),
    ("a nonlinearity that does not exist", _document("space", _put(_block, "nl", "RELU6", ["RE", "x"], 1))),
    ("a squeeze ratio that is no share", _document("space", _put(_top, "se_ratio", 0, -1, 2, math.nan, "x"))),
    ("an input without pixels", _document("space", _put(_at("input"), "resolution", 0, -1, 1e6, [32], "x", math.nan))),
    ("no blocks: there is no network", _document("space", _put(_top, "blocks", [], {}, None, "x"))),
    ("no head, stem or blocks", _document("space", _without("head", "stem", "blocks"))),
    ("an eps under which a variance of 0 divides by 0, or none",
     _document("space", _put(_top, "bn", {"eps": 0}, {"eps": -1}, {"eps": math.nan}, {"eps": "x"}, 1))),
    ("classes that cannot be", _document("space", _put(_at("head"), "classes", 0, -1, 2.5, "2", None))),
    ("a stem that cannot be", _document("space", _put(_at("stem"), "k", 0, 2, -3, 1.5, "3", [3, 5]))),
    ("layers wider than any that is allowed", _document("space", _wide)),
    ("bytes that are no UTF-8", _raw("space", lambda r, t: t + "# " + "\udcff" * r.randrange(1, 9) + "\n")),
    ("cut off in the middle", _raw("space", lambda r, t: t[: r.randrange(30, len(t) // 2)])),
)  # fmt: skip


# ---- tables


def _table(change: Callable[[random.Random, dict[str, Any], list[list[str]]], object], seal: bool = True) -> Plant:
    """A change to header and rows, sealed anew unless the fault is the seal's to find."""

    def plant(rng: random.Random) -> Case:
        case = valid("table")[0]
        content = case.files["input.csv"]
        assert isinstance(content, bytes)
        lines = content.decode().splitlines()
        head = {k: json.loads(v) for k, v in (x[2:].split(": ", 1) for x in lines if x.startswith("# "))}
        rows = [x.split(",") for x in lines if not x.startswith("# ")]
        says = change(rng, head, rows)
        text = "".join(f"# {k.strip()}: {json.dumps(v)}\n" for k, v in head.items())
        new = (text + "\n".join(map(",".join, rows)) + "\n").encode()
        return case.changed({"input.csv": sealed(new) if seal else new}, says=str(says or ""))

    return plant


def _layers(rows: list[list[str]]) -> list[list[str]]:
    return [r for r in rows if r[0] == "layer"]


def _cell(column: int, *values: str) -> Callable[..., object]:
    def change(rng: random.Random, head: Any, rows: list[list[str]]) -> object:
        row = rng.choice(_layers(rows))
        row[column] = rng.choice(values)
        return row[1]

    return change


def _head(part: str, name: str | int, *values: Any) -> Callable[..., object]:
    def change(rng: random.Random, head: Any, rows: Any) -> object:
        (head[part] if part else head)[name] = rng.choice(values)

    return change


def _repeated(rng: random.Random, head: Any, rows: list[list[str]]) -> object:
    row = list(rng.choice(_layers(rows)))
    row[2] = f"{float(row[2]) * rng.choice((0.5, 2, 10)):.6f}"
    rows.insert(rng.randrange(1, len(rows)), row)
    return row[1]


def _columns(rng: random.Random, head: Any, rows: list[list[str]]) -> object:
    i, j = rng.sample(range(2, 7), 2)
    rows[0][i], rows[0][j] = rows[0][j], rows[0][i]
    return "column"


def _network(at: int, *values: Any) -> Callable[..., object]:
    def change(rng: random.Random, head: Any, rows: Any) -> object:
        rng.choice(head["networks"])[at] = rng.choice(values)

    return change


def _drop_row(rng: random.Random, head: Any, rows: list[list[str]]) -> object:
    del rows[rng.randrange(1, len(rows))]
    return "seal"


def _edit(rng: random.Random, head: Any, rows: list[list[str]]) -> object:
    rng.choice(_layers(rows))[2] = f"{rng.random():.6f}"
    return "seal"


def _header_twice(rng: random.Random, head: Any, rows: Any) -> object:
    name = rng.choice(("reference", "calibration", "fingerprint"))
    value = dict(head[name])
    value[rng.choice(sorted(value))] = 1
    head[name + " "] = value  # written without the blank
    return name


_NO_TIME = ("-1", "0", "nan", "inf", "-inf", "", "x", "1e9", "-0.001", "1,5")

TABLE: tuple[tuple[str, Plant], ...] = (
    ("a time that was edited: it does not match the seal", _table(_edit, seal=False)),
    ("a row that was removed: it does not match the seal", _table(_drop_row, seal=False)),
    ("a time that is none", _table(_cell(2, *_NO_TIME[:9]))),
    ("a mean that is none", _table(_cell(4, *_NO_TIME[:9]))),
    ("a deviation that is none", _table(_cell(5, "-1", "nan", "inf", "", "x"))),
    ("no runs, or a number that is none", _table(_cell(3, "0", "-3", "", "x", "1.5"))),
    ("a layer that does not exist", _table(_cell(1, "conv", "mbconv_h8", "x", "", "conv_h32w32_i3_k4"))),
    ("a kind of row that is neither a layer nor a network", _table(_cell(0, "layr", "LAYER", "", "net"))),
    ("a layer twice with two times: which one counts?", _table(_repeated)),
    ("columns in another order: means would be read as times", _table(_columns)),
    ("a network without its row, or a row without its network",
     _table(lambda r, h, rows: h["networks"].pop(r.randrange(len(h["networks"]))) and None)),
    ("a network of another name than its row", _table(_network(0, "calibration:x", "", "a"))),
    ("a sum of layers that is no time", _table(_network(1, -1.0, math.nan, math.inf, 0.0, "x", None))),
    ("megabytes that cannot be", _table(_network(2, -1.0, math.nan, math.inf, "x", None))),
    ("multiply-adds that cannot be", _table(_network(3, -5, -10**9, "x", None))),
    ("a calibration that is not finite", _table(_head("calibration", "a", math.nan, math.inf, -math.inf, "x", None))),
    ("a factor of a kind that is not finite",
     _table(lambda r, h, rows: h["calibration"]["kinds"].update({r.choice(sorted(h["calibration"]["kinds"])): math.nan})
            or None)),
    ("a calibration without a kind that layers have",
     _table(lambda r, h, rows: h["calibration"]["kinds"].pop(r.choice(sorted(h["calibration"]["kinds"]))) and None)),
    ("a kind of layer that is not known", _table(lambda r, h, rows: h["calibration"]["kinds"].update(k99=0.0) or None)),
    ("a reference without a time", _table(_head("reference", "ms", 0, -3, math.nan, math.inf, "x", None))),
    ("another format", _table(_head("", "format", "mbv3-table/3", "mbv3-table/9", "table", 1, None))),
    ("another CPU: its times are not those of this machine", _table(_head("fingerprint", "cpu", "A", "B", ""))),
    ("another number of threads", _table(_head("fingerprint", "threads", 2, 4, 99))),
    ("a number of threads that cannot be", _table(_head("fingerprint", "threads", 0, -1, "1", 1.5, None))),
    ("a part of the fingerprint that is no text", _table(lambda r, h, rows: h["fingerprint"].update(
        {r.choice(("cpu", "runtime", "runtime_version", "system", "kernel")): r.choice(({}, 3, None, ["x"], 1.5))}))),
    ("a fingerprint without one of its parts",
     _table(lambda r, h, rows: h["fingerprint"].pop(r.choice(("cpu", "runtime", "threads", "vector"))) and None)),
    ("a part of the header that is no mapping",
     _table(lambda r, h, rows: h.update({r.choice(("about", "report", "reference", "fingerprint", "calibration")):
                                         r.choice(("x", 1, [1, 2], [[1, 2]]))}))),
    ("a part of the header twice: one of the two is lost", _table(_header_twice)),
    ("a width of the space that cannot be", _table(_head("about", "width", -1, 0, math.nan, math.inf, "x", None))),
    ("a resolution of the space that cannot be", _table(_head("about", "resolution", -1, 0, 1.5, "x", math.nan, None))),
    ("a row of too few or too many cells",
     _table(lambda r, h, rows: r.choice(_layers(rows)).append(r.choice(("1", ""))) or None)),
)  # fmt: skip


# ---- annotations


def _coco(change: Callable[[random.Random, dict[str, Any]], object], **files: bytes | None) -> Plant:
    def plant(rng: random.Random) -> Case:
        document = coco()
        says = change(rng, document)
        text = json.dumps(document).encode()
        changes: dict[str, Any] = {"data/annotations/instances_train.json": text, **files}
        return valid("annotations")[0].changed(changes, says=str(says or ""))

    return plant


def _one(rng: random.Random, d: dict[str, Any], part: str) -> dict[str, Any]:
    return rng.choice(d[part])  # type: ignore[no-any-return]


def _same_id(part: str) -> Callable[..., object]:
    def change(rng: random.Random, d: dict[str, Any]) -> object:
        one, other = rng.sample(d[part], 2)
        one["id"] = rng.choice((other["id"], float(other["id"]), str(other["id"])))
        return other["id"]

    return change


def _no_ids(rng: random.Random, d: dict[str, Any]) -> object:
    for image in rng.sample(d["images"], 2):
        image["id"] = rng.choice((None, [1], {}, math.nan))
    return "id"


def _box(*values: Any) -> Callable[..., object]:
    def change(rng: random.Random, d: dict[str, Any]) -> object:
        _one(rng, d, "annotations")["bbox"] = rng.choice(values)

    return change


def _other_size(rng: random.Random, d: dict[str, Any]) -> object:
    image = _one(rng, d, "images")
    image[rng.choice(("width", "height"))] = rng.choice((31, 64, 33, 640))
    return image["file_name"]


def _same_file(rng: random.Random, d: dict[str, Any]) -> object:
    one, other = rng.sample(d["images"], 2)
    one["file_name"] = rng.choice((other["file_name"], "./" + other["file_name"], "images/" + other["file_name"]))
    return other["file_name"]


def _lost_file(rng: random.Random, d: dict[str, Any]) -> object:
    image = _one(rng, d, "images")
    image["file_name"] = f"gone-{rng.randrange(99)}.png"
    return image["file_name"]


def _ref(part: str, name: str, *values: Any) -> Callable[..., object]:
    def change(rng: random.Random, d: dict[str, Any]) -> object:
        _one(rng, d, part)[name] = rng.choice(values)

    return change


def _text(change: Callable[[random.Random, bytes], bytes]) -> Plant:
    def plant(rng: random.Random) -> Case:
        text = change(rng, json.dumps(coco()).encode())
        return valid("annotations")[0].changed({"data/annotations/instances_train.json": text})

    return plant


def _xml(change: Callable[[random.Random, str], str | bytes]) -> Plant:
    """A change to the text of one VOC annotation."""

    def plant(rng: random.Random) -> Case:
        i = rng.randrange(6)
        x, y = rng.randrange(1, 10), rng.randrange(1, 10)
        text = change(rng, voc_xml(f"{i}.png", 32, [(COLOURS[i % 2], [x, y, x + 12, y + 12])]))
        raw = text.encode() if isinstance(text, str) else text
        return valid("annotations")[1].changed({f"data/Annotations/{i}.xml": raw}, says=f"{i}.")

    return plant


def _voc_files(change: Callable[[random.Random, Case, int], dict[str, Any]]) -> Plant:
    def plant(rng: random.Random) -> Case:
        case, i = valid("annotations")[1], rng.randrange(6)
        return case.changed(change(rng, case, i), says=str(i))

    return plant


def _replaced(tag: str, *values: str) -> Callable[[random.Random, str], str]:
    import re

    return lambda rng, t: re.sub(f"<{tag}>[^<]*</{tag}>", f"<{tag}>{rng.choice(values)}</{tag}>", t, count=1)


_NOISE = image_bytes(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3), "png")
_LARGE = image_bytes(np.arange(48 * 48 * 3, dtype=np.uint16).astype(np.uint8).reshape(48, 48, 3), "png")

ANNOTATIONS: tuple[tuple[str, Plant], ...] = (
    ("an image's id twice: boxes of two pictures land on one", _coco(_same_id("images"))),
    ("an annotation's id twice: files were joined without new numbers", _coco(_same_id("annotations"))),
    ("a class's number twice: boxes would change their class", _coco(_same_id("categories"))),
    ("images without a number: their boxes cannot be told apart", _coco(_no_ids)),
    ("a file twice: half of its boxes would be taken for background", _coco(_same_file)),
    ("an image that is not there", _coco(_lost_file)),
    ("a box of no image", _coco(_ref("annotations", "image_id", 999, -1, None, "x", [0]))),
    ("a box of no class", _coco(_ref("annotations", "category_id", 99, -1, None, "x", 0))),
    ("a box outside of its picture", _coco(_box([40, 40, 5, 5], [-9, -9, 5, 5], [0, 99, 3, 3], [32, 0, 4, 4]))),
    ("a box that reaches out of its picture", _coco(_box([25, 25, 20, 5], [-5, 0, 9, 9], [0, 28, 9, 9]))),
    ("a box without area", _coco(_box([5, 5, 0, 9], [5, 5, 9, 0], [5, 5, -4, 4], [5, 5, 4, -4]))),
    ("a box that is none", _coco(_box([1, 2, 3], [1, 2, 3, 4, 5], None, "1,2,3,4", [1, 2, "3", 4], [[1, 2], [3, 4]]))),
    ("a box of numbers that are none", _coco(_box([math.nan, 1, 5, 5], [1, 1, math.inf, 5], [1, -math.inf, 5, 5],
                                                  [1, 1, 10**400, 5]))),
    ("a picture of another size than its annotation says", _coco(_other_size)),
    ("classes without a name", _coco(_ref("categories", "name", "", " ", None, [], {}, math.nan))),
    ("no images, annotations or categories", _coco(lambda r, d: d.pop(r.choice(("images", "annotations", "categories")))
                                                   and None)),
    ("images or classes that are no list", _coco(
        lambda r, d: d.update({r.choice(("images", "categories")): r.choice((1, "x", {"a": 1}))}))),
    ("a picture that cannot be opened",
     _coco(lambda r, d: "3.png", **{"data/images/3.png": b"\x89PNG\r\n\x1a\n" + b"x" * 40})),
    ("a file that is cut off", _text(lambda r, t: t[: r.randrange(10, len(t) - 3)])),
    ("a file that is no JSON", _text(lambda r, t: r.choice((b"", b"[]", b"{}", b"nope", b"\xff\xfe\x00", b"null")))),
    ("an XML that is cut off", _xml(lambda r, t: t[: r.randrange(5, len(t) - 3)])),
    ("an XML of another kind", _xml(lambda r, t: t.replace("annotation>", r.choice(("html>", "svg>", "object>"))))),
    ("an object without a name", _xml(_replaced("name", "", " "))),
    ("an object without a box", _xml(lambda r, t: t.replace("bndbox>", "polygon>"))),
    ("an edge that is no number", _xml(_replaced("xmin", "", "nan", "x", "inf", "-inf"))),
    ("edges the wrong way round", _xml(_replaced("xmax", "0", "1", "-5"))),
    ("a box outside of its picture, in XML", _xml(_replaced("xmin", "33", "99", "5000"))),
    ("a picture of another size than the XML says", _xml(_replaced("width", "31", "64", "640"))),
    ("an XML without its picture", _voc_files(lambda r, c, i: {f"data/JPEGImages/{i}.png": None})),
    ("a picture without its XML", _voc_files(lambda r, c, i: {f"data/Annotations/{i}.xml": None})),
    ("two pictures that an XML may mean", _voc_files(lambda r, c, i: {
        f"data/JPEGImages/{i}.jpg": image_bytes(np.zeros((32, 32, 3), np.uint8), "jpg"),
        f"data/Annotations/{i}.xml": c.files[f"data/Annotations/{i}.xml"].replace(  # type: ignore[union-attr]
            f"{i}.png".encode(), f"{i}.bmp".encode())})),
    ("a picture that was exchanged for one of another size", _voc_files(lambda r, c, i: {
        f"data/JPEGImages/{i}.png": _LARGE})),
    ("a list that names what is not there", _voc_files(lambda r, c, i: {
        "data/ImageSets/Main/train.txt": "".join(f"{j}\n" for j in (0, 1, 2, 3, 4, 5, 90 + i)).encode()})),
    ("a list that names a picture twice", _voc_files(lambda r, c, i: {
        "data/ImageSets/Main/train.txt": "".join(f"{j}\n" for j in (0, 1, 2, 3, 4, 5, i)).encode()})),
    ("a picture in two parts: its score says nothing", _voc_files(lambda r, c, i: {
        "data/ImageSets/Main/train.txt": b"0\n1\n2\n3\n4\n5\n", "data/ImageSets/Main/val.txt": f"{i}\n".encode()})),
)  # fmt: skip
