"""Tensors out of a file of torch.save without running what it asks for.

A pickle is a program: it names functions and calls them. Here every name is answered by an inert stand-in, except for
the few that build tensors and plain containers, which are written below. So tensors are found beside anything.
"""

from __future__ import annotations

import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from mbv3.errors import BadInput, plain

__all__ = ["Inert", "as_tensor", "module_state", "read_torch_file"]

_MAGIC = 0x1950A86A20F9469CFC6C  # of files before torch 1.6
_STORAGES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
_DTYPES = {
    name: getattr(torch, name)
    for name in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
}
# what an old, a cut or a foreign file can make a reader raise
_BROKEN = (
    pickle.UnpicklingError, EOFError, OSError, ValueError, TypeError, KeyError, IndexError, AttributeError,
    RuntimeError, MemoryError, OverflowError, RecursionError, ImportError, zipfile.BadZipFile, struct.error,
    NotImplementedError,
)  # fmt: skip


_ZIP = b"PK\x03\x04"  # how torch's files begin since version 1.6


class Inert:
    """Stands where the file has an object of a class that is not built: it keeps what it is given and does nothing."""

    origin = "?"

    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        made = super().__new__(cls)  # a pickle may not call __init__
        made.args, made.state = args, None
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Whatever it is called with."""

    def __call__(self, *args: Any, **kwargs: Any) -> Inert:
        return Inert(*args)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        if not isinstance(self.state, dict):
            self.state = {}
        self.state[key] = value

    def append(self, value: Any) -> None:
        """A list's items are of no use."""

    def extend(self, values: Any) -> None:
        """Likewise."""

    def add(self, value: Any) -> None:
        """A set's, too."""


class _Storage:
    """Bytes of one storage under a type; filled at once, or at the end of an old file."""

    __slots__ = ("bytes", "dtype")

    def __init__(self, content: torch.UntypedStorage, dtype: torch.dtype) -> None:
        self.bytes, self.dtype = content, dtype


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """torch._utils._rebuild_tensor_v2. Raises: ValueError where the storage does not hold it."""
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor without a storage")
    numbers = [offset, *size, *stride]
    if not all(type(n) is int and n >= 0 for n in numbers) or len(size) != len(stride):
        raise ValueError("a tensor of no size")
    if math.prod(size):
        last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        if last >= len(storage.bytes) // storage.dtype.itemsize:
            raise ValueError("a tensor that is larger than its storage")
    empty = torch.empty(0, dtype=storage.dtype)
    return empty.set_(storage.bytes, offset, tuple(size), tuple(stride))


def _parameter(data: Any, *_: Any) -> Any:
    """torch._utils._rebuild_parameter and what wraps a tensor alike."""
    return data


def _from_type(function: Any, kind: Any, args: Any, state: Any) -> Any:
    """torch._tensor._rebuild_from_type_v2: a subclass of Tensor as the tensor that it is."""
    return _tensor(*args) if function is _tensor else Inert()


def _mapping(*given: Any) -> dict[Any, Any]:
    """collections.defaultdict, Counter and the like, without what they would call."""
    return dict(next((g for g in given if isinstance(g, dict)), {}))


def _latin(text: Any, encoding: Any = "latin1") -> bytes:
    """codecs.encode, by which old pickles write bytes."""
    return text.encode("latin1") if isinstance(text, str) else b""


_KNOWN: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): _mapping,
    ("collections", "Counter"): _mapping,
    ("torch", "Size"): tuple,
    ("_codecs", "encode"): _latin,
    **{("torch", name): _DTYPES[name] for name in _DTYPES},
    **{(module, "set"): set for module in ("builtins", "__builtin__")},
    **{(module, "frozenset"): frozenset for module in ("builtins", "__builtin__")},
}


class _Reader(pickle.Unpickler):
    """`storage(key, dtype, numel)` gives the bytes that a persistent id names."""

    def __init__(self, file: IO[bytes], storage: Callable[[str, torch.dtype, int], torch.UntypedStorage]) -> None:
        super().__init__(file, encoding="latin1")
        self._storage = storage
        self.strangers: dict[str, None] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):  # tensors by the pickle module alone
            return lambda content: _read(BytesIO(content), len(content))[0]
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _STORAGES[name]
        self.strangers[f"{module}.{name}"] = None
        return type("Inert", (Inert,), {"origin": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Any:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise pickle.UnpicklingError("a reference that is no storage")
        dtype, key, numel = pid[1], str(pid[2]), pid[4]
        if not isinstance(dtype, torch.dtype) or type(numel) is not int or numel < 0:
            raise pickle.UnpicklingError("a storage of no type that can be read")
        return _Storage(self._storage(key, dtype, numel), dtype)


def _untyped(content: bytes) -> torch.UntypedStorage:
    if not content:
        return torch.empty(0, dtype=torch.uint8).untyped_storage()
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).untyped_storage()


def _zipped(file: IO[bytes]) -> tuple[Any, list[str]]:
    """Files since torch 1.6, TorchScript archives among them."""
    with zipfile.ZipFile(file) as z:
        names = {info.filename: info for info in z.infolist()}
        pickled = min((n for n in names if n.rpartition("/")[2] == "data.pkl"), key=len, default=None)
        if pickled is None:
            raise ValueError("a zip without data.pkl")
        root = pickled.removesuffix("data.pkl")
        if f"{root}byteorder" in names and z.read(f"{root}byteorder") != b"little":
            raise ValueError("written on a big-endian machine")
        made: dict[str, torch.UntypedStorage] = {}

        def storage(key: str, dtype: torch.dtype, numel: int) -> torch.UntypedStorage:
            if key not in made:
                info = names[f"{root}data/{key}"]
                if info.file_size < numel * dtype.itemsize:
                    raise ValueError(f"storage {key} is cut off")
                made[key] = _untyped(z.read(info))
            return made[key]

        reader = _Reader(BytesIO(z.read(pickled)), storage)
        return reader.load(), list(reader.strangers)


def _old(file: IO[bytes], length: int) -> tuple[Any, list[str]]:
    """Files before torch 1.6: pickles one after the other, then the storages."""
    made: dict[str, tuple[torch.UntypedStorage, torch.dtype]] = {}

    def storage(key: str, dtype: torch.dtype, numel: int) -> torch.UntypedStorage:
        if key not in made:
            if numel * dtype.itemsize > length:
                raise ValueError(f"storage {key} is larger than the file")
            made[key] = torch.empty(numel * dtype.itemsize, dtype=torch.uint8).untyped_storage(), dtype
        return made[key][0]

    first = _Reader(file, storage)
    content = first.load()
    if content != _MAGIC:  # pickle.dump
        return content, list(first.strangers)
    for _ in range(2):  # protocol and system
        _Reader(file, storage).load()
    reader = _Reader(file, storage)
    content = reader.load()
    for key in _Reader(file, storage).load():
        [numel] = struct.unpack("<q", file.read(8))
        content_bytes, dtype = made[str(key)]
        raw = file.read(numel * dtype.itemsize)
        if len(raw) != len(content_bytes):
            raise ValueError(f"storage {key} is cut off")
        if raw:
            into = torch.empty(0, dtype=torch.uint8).set_(content_bytes)
            into.copy_(torch.frombuffer(bytearray(raw), dtype=torch.uint8))
    return content, list(reader.strangers)


def _is_zip(file: IO[bytes] | Path) -> bool:
    """Whether its list of parts is there; `is_zipfile` raises on one that is changed."""
    try:
        return zipfile.is_zipfile(file)
    except zipfile.BadZipFile:
        return False


def _read(file: IO[bytes], length: int) -> tuple[Any, list[str]]:
    zipped = _is_zip(file)
    file.seek(0)
    return _zipped(file) if zipped else _old(file, length)


def read_torch_file(path: Path) -> tuple[Any, list[str]]:
    """What a file of torch.save holds: tensors, containers, numbers and text as they are, `Inert` for the rest, and the
    names of the classes that were not built.

    Raises:
        BadInput: no such file, or not one of torch.save; it is cut off, or its tensors are of a kind that is not read.
    """
    try:
        with path.open("rb") as file:
            return _read(file, path.stat().st_size)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such weights file") from None
    except _BROKEN as e:
        with path.open("rb") as file:
            zipped = file.read(4) == _ZIP
        if zipped and not _is_zip(path):
            raise BadInput(f"{path}: is cut short: the list of its parts, which stands at its end, is not in its "
                           f"{path.stat().st_size:,} bytes; copy or download it again") from None  # fmt: skip
        why = plain((str(e).strip() or type(e).__name__).splitlines()[0], 120)
        raise BadInput(f"{path}: holds more than tensors, or is none of torch's files ({why}); save the network's "
                       "state_dict() again, or convert it to safetensors where you trust it") from None  # fmt: skip


def as_tensor(value: Any) -> Tensor | None:
    """A tensor, or a numpy array whose bytes the file holds; None of anything else."""
    if isinstance(value, Tensor):
        return value
    if (
        not isinstance(value, Inert)
        or not value.origin.startswith("numpy")
        or not value.origin.endswith("_reconstruct")
    ):
        return None
    try:
        _, shape, kind, fortran, content = value.state
        letters = {"f4": torch.float32, "f8": torch.float64, "f2": torch.float16, "i8": torch.int64, "i4": torch.int32}
        if fortran or not isinstance(content, bytes) or kind.state[1] == ">":
            return None
        return torch.frombuffer(bytearray(content), dtype=letters[kind.args[0]]).reshape(shape)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError):
        return None


def module_state(content: Any) -> dict[str, Tensor] | None:
    """The state dict of a whole module that was saved, by the attributes that torch keeps its tensors in; of a
    TorchScript archive, by its fields. None for what is no module."""
    if not isinstance(content, Inert) or not isinstance(content.state, Mapping):
        return None
    found: dict[str, Tensor] = {}
    inside = content.state
    whole = any(isinstance(inside.get(k), Mapping) for k in ("_modules", "_parameters"))
    groups = [inside.get(k) or {} for k in ("_parameters", "_buffers", "_modules")] if whole else [inside]
    for group in groups:
        if not isinstance(group, Mapping):
            continue
        for name, value in group.items():
            if isinstance(value, Tensor):
                found[str(name)] = value
            elif (deeper := module_state(value)) is not None:
                found |= {f"{name}.{k}": v for k, v in deeper.items()}
    return found
