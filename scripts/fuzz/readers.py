"""The readers of every kind of input, called as the commands call them, and a little of what follows them."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.base import valid
from mbv3.data import masks, store
from mbv3.errors import Mbv3Error
from mbv3.events import Note
from mbv3.latency import LatencyTable
from mbv3.runs.init_options import inherited
from mbv3.space import load_space
from mbv3.spec import ArchSpec, count, dump_spec, load_spec, lower, parse_spec, with_head
from mbv3.tables import Latency, read_table
from mbv3.tasks import TASKS, Source, shaped

__all__ = ["Answer", "at_once", "read"]


@dataclass(frozen=True)
class Answer:
    """What a reader made of an input: "accepted", "warned", "refused" or "traceback", and what it said."""

    outcome: str
    said: str = ""


class _AtOnce(Executor):
    """Does at once, in this thread, what it is given."""

    def __init__(self, *_: object) -> None:
        """Whatever the number of threads."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as e:
            done.set_exception(e)
        return done


def at_once() -> None:
    """Decode without threads from now on: six small pictures take less time than threads that wait for each other."""
    for room in (store, masks):
        room.ThreadPoolExecutor = _AtOnce  # type: ignore[attr-defined]


class Nonsense(Exception):
    """An input was accepted, and what follows from it cannot be."""


def _spec(folder: Path) -> list[str]:
    spec = load_spec(str(folder / "input.yaml"))
    if count(spec).params < 0 or not lower(spec):
        raise Nonsense("counts of a network")
    if dump_spec(parse_spec(dump_spec(spec))) != dump_spec(spec):
        raise Nonsense("a network that is another one once it is written and read")
    return []


def _space(folder: Path) -> list[str]:
    space = load_space(folder / "input.yaml")
    for genome in space.sample(np.random.default_rng(0), 2):
        spec = space.deployed(tuple(int(g) for g in genome))
        if dump_spec(parse_spec(dump_spec(spec))) != dump_spec(spec):
            raise Nonsense("a network of a space that is another one once it is written and read")
    return []


@cache
def _known() -> ArchSpec:
    """A network that the small table has all layers of, as it was made."""
    content = valid("checkpoint")[0].files["network.yaml"]
    assert isinstance(content, bytes)
    return parse_spec(content.decode())


def _table(folder: Path) -> list[str]:
    table, caveat = read_table(str(folder / "input.csv"), "onnxruntime", 1, False)
    [ms] = Latency(table)([_known()])
    if not math.isfinite(ms):
        raise Nonsense(f"a prediction of {ms} ms")
    if LatencyTable.loads(table.dumps()).dumps() != table.dumps():
        raise Nonsense("a table that is another one once it is written and read")
    return [caveat] if caveat else []


def _on_images(task: str, side: int) -> Callable[[Path], list[str]]:
    def load(folder: Path) -> list[str]:
        own = folder / "network.yaml"
        spec = load_spec(str(own)) if own.exists() else load_spec("mobilenet_v3_small@0.35")
        spec = shaped(replace(spec, resolution=(side, side)), TASKS[task])
        source = Source(path=folder / "data", store=folder / "store")
        said, data = _drained(TASKS[task].load(spec, source))
        pixels, _ = data.train.batch(np.arange(min(4, len(data.train))), (side, side), "none", np.random.default_rng(0))
        if pixels.shape[1:] != (side, side, 3) and task != "classify":
            raise Nonsense(f"pixels of shape {pixels.shape}")
        return said

    return load


def _drained(work: Generator[Any, None, Any]) -> tuple[list[str], Any]:
    """The warnings of a stage, and its result."""
    said = []
    while True:
        try:
            event = next(work)
        except StopIteration as e:
            return said, e.value
        if isinstance(event, Note) and event.warning:
            said.append(event.text)


@cache
def _small(text: str) -> ArchSpec:
    return parse_spec(text)


def _checkpoint(folder: Path) -> list[str]:
    spec = _small((folder / "network.yaml").read_text("utf-8"))
    path = next(p for p in sorted(folder.iterdir()) if p.name.startswith("input"))
    found = inherited(str(path), spec, lambda s: with_head(s, s.head, spec.head.classes), 0)
    if not all(bool(v.isfinite().all()) for v in found.state.values()):
        raise Nonsense("weights that are not finite")
    return [*found.notes[1:], *(n for n in found.notes[:1] if "; new: " in n)]


_READERS: dict[str, Callable[[Path], list[str]]] = {
    "spec": _spec, "space": _space, "table": _table, "annotations": _on_images("detect", 64),
    "images": _on_images("classify", 32), "masks": _on_images("segment", 64), "checkpoint": _checkpoint,
}  # fmt: skip


def read(kind: str, folder: Path) -> Answer:
    """Read the input of `kind` below `folder` as the commands do."""
    try:
        said = _READERS[kind](folder)
    except Mbv3Error as e:
        return Answer("refused", str(e))
    except Exception:
        import traceback

        return Answer("traceback", traceback.format_exc())
    return Answer("warned" if said else "accepted", "\n".join(said))
