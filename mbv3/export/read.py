"""Anybody's weights as ours: tensors of a file, by whom they were saved, and what must be known about them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from mbv3.errors import BadInput, plain
from mbv3.export.export import FRAMEWORKS
from mbv3.export.names import Names
from mbv3.export.target import row_text
from mbv3.export.unpickle import Inert, as_tensor, module_state, read_torch_file
from mbv3.nn import Statistics, state_shapes, unusable
from mbv3.spec import ArchSpec, Classify, load_spec, with_head
from mbv3.training import read_tensors

__all__ = ["File", "Weights", "initial_weights", "is_supernet", "load_file", "read_any_weights"]

CLASSIFIERS = ("torchvision", "timm", "mmpretrain")
OURS = "mbv3"
LIBRARY_NAMES = ("timm:", "torchvision:")
_DEEP = 8  # levels of a checkpoint that are looked through
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}  # torch puts them anywhere in a name
_AVERAGED = re.compile(r"(?<![a-z])(ema|swa|averaged?|avg)(?![a-z])")
_TENSORFLOW = re.compile(r"(?<![a-z0-9])tf_(mobilenet|efficientnet|mnasnet|mixnet)")
_MOST = 12
MOST_HEADER = 100_000_000  # bytes, as the library has it; more, and the file is another one that happens to begin so


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights under our names, whose names they had ("mbv3" for our own, "" for nobody's), and lines on what was done
    with them or is to be known. `spec`: the network that gives their outputs, which has TensorFlow's padding where they
    were trained under it. `labels`: names of their classes in order, where the file has them."""

    state: dict[str, Tensor]
    framework: str
    spec: ArchSpec
    notes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class File:
    """Every tensor of a file by its path in it, short texts likewise, and the classes that were not built."""

    tensors: dict[str, Tensor]
    texts: dict[str, str]
    strangers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Match:
    """The entries behind a prefix, read as a framework's."""

    framework: str
    prefix: str
    known: int
    names: Names | None

    @property
    def averaged(self) -> bool:
        return bool(_AVERAGED.search(self.prefix.lower()))


def initial_weights(path: Path, spec: ArchSpec) -> tuple[dict[str, Tensor], str]:
    """`read_any_weights`, the weights and whose names they had. Raises: BadInput."""
    found = read_any_weights(path, spec)
    return found.state, found.framework


def read_any_weights(path: Path, spec: ArchSpec) -> Weights:
    """Weights for `spec` out of a file of safetensors or of torch.save, whatever it is called: ours, or those of
    torchvision, timm, mmpretrain and mmsegmentation, under whatever key and prefix; averaged ones before others.

    Names that no table knows become the head's, which a new task replaces. Batch norms of another eps get the gain that
    gives the same outputs under this network's. Nothing in a file is executed.

    Raises:
        BadInput: the file cannot be read, holds no tensors, the shared weights of a supernet, or tensors that are not
            finite (all named).
    """
    file = load_file(path)
    if is_supernet(file.tensors):
        raise BadInput(f"{path}: holds the shared weights of a supernet, not those of one network; mbv3-search "
                       f"--space ofa-mbv3 --init FILE takes one out of them; here give {spec.name}'s")  # fmt: skip
    matches = sorted(_matches(file.tensors, spec), key=lambda m: (-m.known, not m.averaged, len(m.prefix)))
    if not matches:
        return Weights(_bare(file.tensors), "", spec)
    best = matches[0]
    group = {k.removeprefix(best.prefix): v for k, v in file.tensors.items() if k.startswith(best.prefix)}
    notes = list(_choice(path, best, matches))
    if best.names is None:
        state = group
    else:
        state = _renamed(group, best.names)
        if broken := unusable({k: v for k, v in group.items() if _ours(k, best.names)}):
            more = [f"and {len(broken) - _MOST} more"] if broken[_MOST:] else []
            text = "\n".join(f"  {line}" for line in [*broken[:_MOST], *more])
            raise BadInput(f"{path}: weights that no network can answer with; take an earlier checkpoint\n{text}")
    eps, tf = _trained_with(path, file, best, spec)
    if eps is not None and eps != spec.bn_eps:
        state = _at_eps(state, eps, spec.bn_eps)
        port = (
            "" if tf else " (a port from TensorFlow has other ones, and is known by tf_ in its file's or folder's name)"
        )
        notes.append(f"{path}: {best.framework}'s batch norms were trained with eps {eps:g}, this network has "
                     f"{spec.bn_eps:g}: gains are scaled so that outputs stay the same{port}")  # fmt: skip
    if tf and spec.padding == "both":
        spec = replace(spec, padding="tensorflow")
        notes.append(f"{path}: trained under TensorFlow's padding, which pads strided convolutions at the far side: "
                     "the network gets `padding: tensorflow`")  # fmt: skip
    by = _statistics(file)
    if best.names is None and by is not None and by != (spec.mean, spec.std) and spec.in_channels == 3:
        spec = replace(spec, mean=by[0], std=by[1])
        notes.append(f"{path}: trained on images of mean {_three(by[0])} and deviation {_three(by[1])}, which the "
                     "network then takes")  # fmt: skip
    if folded := _folded(state):
        notes.append(f"{path}: its {folded} batch norms were folded and have no statistics, so a training would "
                     "destroy the weights; import their file with images: mbv3 import FILE --data DIR")  # fmt: skip
    return Weights(state, best.framework, spec, tuple(notes), _labels(file))


def _three(values: Sequence[float]) -> str:
    return ", ".join(f"{v:.6g}" for v in values)


def _statistics(file: File) -> Statistics | None:
    """Mean and deviation that our weights were trained with; None where the file does not say them."""
    try:
        about = json.loads(file.texts["mbv3"])
        (r, g, b), (dr, dg, db) = ([float(v) for v in about[key]] for key in ("mean", "std"))
        return ((r, g, b), (dr, dg, db)) if min(dr, dg, db) > 0 else None
    except (KeyError, ValueError, TypeError):
        return None


def _folded(state: Mapping[str, Tensor]) -> int:
    """How many batch norms only add a bias, where more than half do."""
    norms = [name.removesuffix(".running_var") for name in state if name.endswith(".running_var")]
    idle = [
        n for n in norms
        if bool((state[f"{n}.running_var"] == 1).all()) and f"{n}.running_mean" in state
        and not state[f"{n}.running_mean"].any() and f"{n}.bias" in state and bool(state[f"{n}.bias"].any())
    ]  # fmt: skip
    return len(idle) if 2 * len(idle) > len(norms) else 0


# ---- files ---------------------------------------------------------------------------------------------------


def load_file(path: Path) -> File:
    """Safetensors, or what torch.save wrote; nothing in it is executed. Raises: BadInput."""
    if path.is_dir():
        inside = [p.name for p in sorted(path.iterdir()) if p.suffix in (".safetensors", ".bin", ".pth", ".pt")]
        raise BadInput(f"{path}: is a folder; name the file in it" + (f": {', '.join(inside[:3])}" if inside else ""))
    try:
        with path.open("rb") as f:
            head = f.read(64)
    except FileNotFoundError:
        if path.name.startswith(LIBRARY_NAMES):
            raise BadInput(f"{path.name}: names a network of a library; fetch it first: mbv3 import {path.name} --out "
                           "DIR, then give DIR/weights.safetensors") from None  # fmt: skip
        raise BadInput(f"{path}: no such weights file") from None
    except OSError as e:
        raise BadInput(f"{path}: cannot be read ({e.strerror})") from None
    if not head:
        raise BadInput(f"{path}: is empty; copy or download it again")
    if path.suffix.lower() in (".onnx", ".tflite") or head[4:8] == b"TFL3":
        raise BadInput(f"{path}: is a network in operators; make weights of it first: mbv3 import {path} --out DIR")
    if path.suffix.lower() in _OTHERS:
        raise BadInput(f"{path}: is no checkpoint of torch, of which weights are read (safetensors, or torch.save's "
                       "files); save the network's state_dict()")  # fmt: skip
    for start, what in _NOT_WEIGHTS.items():
        if head.lstrip().lower().startswith(start):
            raise BadInput(f"{path}: {what}")
    if head[8:9] == b"{" and _header(head) < MOST_HEADER:
        return _safetensors(path)
    content, strangers = read_torch_file(path)
    tensors, texts = dict[str, Tensor](), dict[str, str]()
    for name, value in _leaves(content, "", 0):
        if isinstance(value, Tensor):
            tensors[_unwrapped(name)] = value
        else:
            texts[name] = value
    if not tensors:
        asks = f"; it asks for {', '.join(plain(s) for s in strangers[:3])}, which is not run" if strangers else ""
        if asks:
            raise BadInput(f"{path}: holds more than tensors, and none that can be read{asks}; save state_dict() "
                           "alone, or convert it to safetensors where you trust it")  # fmt: skip
        raise BadInput(f"{path}: holds no state dict (names with tensors)")
    return File(tensors, texts, tuple(strangers))


_OTHERS = {".pb", ".keras", ".npz", ".msgpack", ".engine", ".mnn", ".mlmodel", ".yaml", ".json"}
_NOT_WEIGHTS = {
    b"version https://git-lfs": "is a pointer of Git LFS, not the weights; run: git lfs pull",
    b"<!doctype": "is a web page, not weights: the download went wrong",
    b"<html": "is a web page, not weights: the download went wrong",
    b"\x89hdf": "is an HDF5 file, as Keras writes it; weights of torch are read (safetensors, .pth)",
    b"\x1f\x8b": "is packed by gzip; unpack it first",
}


def _safetensors(path: Path) -> File:
    if (needs := _needs(path)) > (has := path.stat().st_size):
        raise BadInput(f"{path}: is cut short: it has {has:,} of {needs:,} bytes; copy or download it again")
    try:
        tensors, texts = read_tensors(path)
        return File({_unwrapped(k): v for k, v in tensors.items()}, texts)
    except (SafetensorError, OSError, ValueError) as e:
        raise BadInput(f"{path}: not a safetensors file ({e})") from None


def _header(head: bytes) -> int:
    """Bytes of the header of a safetensors file, which its first eight say."""
    return int.from_bytes(head[:8], "little")


def _needs(path: Path) -> int:
    """The bytes that a safetensors file should have by its header, 0 where that cannot be read."""
    with path.open("rb") as f:
        length = _header(f.read(8))
        text = f.read(length)
    if len(text) < length:
        return 8 + length
    try:
        parts = [v["data_offsets"][1] for k, v in json.loads(text).items() if k != "__metadata__"]
        return 8 + length + max(map(int, parts), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return 0


def _unwrapped(name: str) -> str:
    """A path in a file as dotted components, without the wrappers of torch's compiler and FSDP. Our own checkpoints
    write a part, a slash and a name."""
    return ".".join(p for p in name.replace("/", ".").split(".") if p not in _WRAPPERS)


def _leaves(value: Any, at: str, depth: int) -> Iterator[tuple[str, Tensor | str]]:
    """(dotted path, tensor or short text) of everything in nested mappings, objects and modules."""
    tensor = as_tensor(value)
    if tensor is not None:
        yield at, tensor
    elif isinstance(value, str):
        yield at, value[:200]
    elif depth > _DEEP:
        return
    elif isinstance(value, Inert):
        module = module_state(value)
        inside: Any = module if module else value.state
        if isinstance(inside, Mapping):
            yield from _leaves(inside, at, depth + 1)
    elif isinstance(value, (Mapping, list, tuple)):
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            if isinstance(key, (str, int)):
                yield from _leaves(inner, f"{at}.{key}" if at else str(key), depth + 1)


def is_supernet(tensors: Mapping[str, Tensor]) -> bool:
    """Whether names are those of OFA's supernets, whose kernels have matrices (Cai 2020, arXiv:1908.09791)."""
    return any(name.endswith(("7to5_matrix", "5to3_matrix")) for name in tensors)


def _bare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of nobody's names without the prefix that all of them share."""
    names = [k.split(".") for k in tensors]
    n = 0
    while all(len(k) > n + 1 and k[n] == names[0][n] for k in names):
        n += 1
    return {".".join(k.split(".")[n:]): v for k, v in tensors.items()}


# ---- whose names ---------------------------------------------------------------------------------------------


@lru_cache(4)
def _forms(spec: ArchSpec) -> list[tuple[str, Names | None, frozenset[str]]]:
    """(framework, table, its modules) of everybody who may have named a network like `spec`; ours without a table."""
    own = frozenset(k.rpartition(".")[0] for k in state_shapes(spec))
    forms: list[tuple[str, Names]] = []
    forms += [(name, f.names(spec)) for name, f in FRAMEWORKS.items() if not any(f.faults(spec))]
    # a classifier's weights begin a segmentation network or a detector, too; a features layer moves timm's names
    plain_heads = [spec]
    if not isinstance(spec.head, Classify):
        plain_heads = [with_head(spec, Classify(features=n, classes=2)) for n in (8, 0)]
    forms += [(name, FRAMEWORKS[name].names(p)) for name in CLASSIFIERS for p in plain_heads]
    return [(OURS, None, own), *((name, t, frozenset(theirs for _, theirs in t.modules)) for name, t in forms)]


def _matches(tensors: Mapping[str, Tensor], spec: ArchSpec) -> Iterator[_Match]:
    """Prefixes of the file's names behind which most of a table's names lie."""
    modules = [tuple(name.split(".")[:-1]) for name in tensors]
    for framework, names, theirs in _forms(spec):
        known: Counter[str] = Counter()
        met: dict[str, set[str]] = {}
        for parts in modules:
            for i in range(min(len(parts), _DEEP)):
                rest = ".".join(parts[i:])
                if rest in theirs:
                    prefix = ".".join([*parts[:i], ""]) if i else ""
                    known[prefix] += 1
                    met.setdefault(prefix, set()).add(rest)
        for prefix, n in known.items():
            group = sum(name.startswith(prefix) for name in tensors)
            if n > group / 2 or len(met[prefix]) > len(theirs) / 2:
                yield _Match(framework, prefix, n, names)


def _choice(path: Path, best: _Match, matches: Sequence[_Match]) -> Iterator[str]:
    """A line where the file holds several sets of weights of this network."""
    others = [m.prefix for m in matches if m.known > 0.9 * best.known and m.framework == best.framework]
    others = [p for p in dict.fromkeys(others) if p != best.prefix]
    if others:
        kind = "averaged weights (EMA)" if best.averaged else "weights"
        yield (f"{path}: the {kind} of {best.prefix.rstrip('.') or 'the file itself'} are taken, not those of "
               f"{', '.join(p.rstrip('.') or 'the file itself' for p in others[:3])}")  # fmt: skip


def _ours(name: str, names: Names) -> bool:
    module = name.rpartition(".")[0]
    return any(theirs == module for _, theirs in names.modules)


def _renamed(group: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    """`group` under our names where `names` has them."""
    ours = {theirs: module for module, theirs in names.modules}
    renamed: dict[str, Tensor] = {}
    for name, value in group.items():
        module, _, leaf = name.rpartition(".")
        if module not in ours:
            renamed[f"head.({name})"] = value  # of a head that is not ours
            continue
        renamed[f"{ours[module]}.{leaf}"] = value.flatten(1) if module in names.as_conv and leaf == "weight" else value
    return renamed


# ---- what they were trained with -----------------------------------------------------------------------------


@cache
def _published() -> tuple[tuple[str, ...], ...]:
    """Rows of the networks that timm has weights of."""
    widths = {
        "mobilenet_v3_large": (1, 0.75), "mobilenet_v3_small": (1, 0.75, 0.5),
        "mobilenet_v2": (1, 0.35, 0.5, 0.75, 1.4), "mnasnet_b1": (1, 0.5, 0.75, 1.4), "mnasnet_a1": (1, 0.5, 0.75, 1.4),
    }  # fmt: skip
    return tuple(_rows(load_spec(f"{name}@{w:g}")) for name, ws in widths.items() for w in ws)


def _rows(spec: ArchSpec) -> tuple[str, ...]:
    return tuple(row_text(replace(row, dilation=1), cin) for _, row, cin in spec.convs())


def _trained_with(path: Path, file: File, best: _Match, spec: ArchSpec) -> tuple[float | None, bool]:
    """(eps of the backbone's batch norms, None where it is this network's, TensorFlow's padding at stride 2)."""
    try:  # written by our own export, which knows
        about = json.loads(file.texts["mbv3"])
        return float(about["bn_eps"]), about.get("padding") == "tensorflow"
    except (KeyError, ValueError, TypeError):
        pass
    # a hub's file is called model.safetensors, and its folder has the network's name
    texts = [*path.absolute().parts[-4:], *file.texts.values(), _architecture(path)]
    if best.framework == "timm":
        tf = any(_TENSORFLOW.search(text.lower()) for text in texts)
        if _rows(spec) not in _published():  # made by our export, whose files have this network's eps
            return None, tf
        return (1e-3 if tf else 1e-5), tf
    system = any("decode_head." in name for name in file.tensors) or any(
        k.endswith("mmseg_version") for k in file.texts
    )
    v3 = any(".se.conv1." in name for name in file.tensors)
    return None, best.framework in ("mmseg", "mmpretrain") and system and v3


def _labels(file: File) -> tuple[str, ...]:
    """Class names that our training writes beside the weights."""
    try:
        names = json.loads(json.loads(file.texts["mbv3"])["classes"])
        return tuple(map(str, names)) if isinstance(names, list) else ()
    except (KeyError, ValueError, TypeError):
        return ()


def _architecture(path: Path) -> str:
    """What a config.json beside the weights, as the Hugging Face hub has it, calls the network."""
    try:
        about = json.loads((path.parent / "config.json").read_text("utf-8"))
        return str(about["architecture"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _at_eps(state: Mapping[str, Tensor], trained: float, here: float) -> dict[str, Tensor]:
    """Backbone gains g * sqrt((var + here) / (var + trained)): the outputs of eps `trained` under eps `here`."""
    out = dict(state)
    for name, var in state.items():
        if name.endswith(".running_var") and not name.startswith(("head.", "aux.")):
            gain = name.removesuffix("running_var") + "weight"
            if gain in state:
                ratio = torch.sqrt((var.double() + here) / (var.double() + trained))
                out[gain] = (state[gain].double() * ratio).to(torch.float32)
    return out
