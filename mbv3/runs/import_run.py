"""`mbv3 import`: another framework's network as a spec and float weights."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbv3.data import decode_all, find_images, normalise
from mbv3.errors import BadInput, Mbv3Error, plain
from mbv3.events import Event, Note
from mbv3.export import (
    LIBRARIES,
    Recognised,
    block_strings,
    loaded,
    recognise,
    spec_of_strings,
    unfolded,
)
from mbv3.files import vacant, write_folder
from mbv3.nn import Statistics, unusable
from mbv3.progress import drain
from mbv3.runs.declare import takes
from mbv3.runs.import_options import ImportOptions
from mbv3.runs.import_sources import Original, file_source, library_source, resolution
from mbv3.spec import MEAN, STD, ArchSpec, Classify, count, dump_spec
from mbv3.training import weights_bytes

__all__ = ["Checked", "ImportResult", "import_events", "import_from"]

NETWORK, WEIGHTS = "network.yaml", "weights.safetensors"
STATISTICS, COMPARED, DRAWN, BATCH = 128, 16, 8, 16  # images
MOST_BYTES = 300_000_000  # of pixels
CLOSE = 1e-4  # of the largest answer, for a file of floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """The network's answers beside the original's. `on`: which images; `n` of them; `difference`: the largest of two
    answers, `largest`: the largest answer; `agree`: images of the same best class; `by`: what ran the original."""

    on: str
    n: int
    difference: float
    largest: float
    agree: int
    by: str
    exact: bool  # whether the two must be alike: no integers, no rounding

    @property
    def relative(self) -> float:
        return self.difference / max(self.largest, 1e-12)

    def line(self) -> str:
        return (f"{self.n} {self.on}, run by {self.by}: answers differ by at most {self.difference:.2g}, which is "
                f"{self.relative:.1e} of the largest; the same class on {self.agree} of {self.n}")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportResult:
    """What was read and written. `folded`: batch norms that the source had no statistics of; `unfolded_on`: images that
    gave them some; `checked`: None where there are no weights."""

    source: str
    spec: ArchSpec
    folder: Path
    files: tuple[Path, ...]
    params: int
    madds: int
    folded: int
    unfolded_on: int
    integer: bool
    labels: tuple[str, ...]
    checked: Checked | None
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        c = self.checked
        return {
            "source": self.source, "network": self.spec.name, "files": [str(f) for f in self.files],
            "resolution": list(self.spec.resolution), "mean": list(self.spec.mean), "std": list(self.spec.std),
            "padding": self.spec.padding, "params": self.params, "madds": self.madds, "classes": self.spec.head.classes,
            "labels": bool(self.labels), "integer": self.integer, "folded": self.folded,
            "unfolded_on": self.unfolded_on, "notes": list(self.notes),
            "checked": None if c is None else {
                "on": c.on, "n": c.n, "difference": c.difference, "largest": c.largest, "relative": c.relative,
                "agree": c.agree, "by": c.by,
            },
        }  # fmt: skip


@takes(ImportOptions)
def import_from(source: str | Path, *, out: Path | str | None = None, **options: Any) -> ImportResult:
    """Read another framework's classifier and write `out`/network.yaml and `out`/weights.safetensors.

    `source`: a .tflite or .onnx file, `timm:NAME`, `torchvision:NAME`, or `timm:` and block strings. `out`: a new or
    empty folder (default: the network's name).

    Raises:
        BadInput: the source or the images cannot be read, or a spec cannot express the network; nothing is written.
        Mbv3Error: a file of floats is answered otherwise by what was read of it; nothing is written.
    """
    return drain(import_events(source, out=out, **options))


@takes(ImportOptions)
def import_events(
    source: str | Path, *, out: Path | str | None = None, **options: Any
) -> Generator[Event, None, ImportResult]:
    """`import_from` for those who show its notes themselves: yields events, returns the result."""
    o = ImportOptions.of(options)
    text = str(source)
    name = _name(text)
    folder = Path(out or name)
    vacant(folder)
    if text.partition(":")[0] == "timm" and (strings := block_strings(text.partition(":")[2])):
        if o.data is not None or o.spec_only:
            raise BadInput("--data, --spec-only: belong to networks with weights; timm's block strings have none")
        spec = spec_of_strings(strings, name, stem=o.stem or 0, features=o.features)
        mean, std = o.statistics or (spec.mean, spec.std)
        spec = replace(spec, resolution=resolution(o) or spec.resolution, mean=mean, std=std)
        return (yield from _written(text, _sourced(spec, text, ""), folder, None, None, 0, None, (), ()))
    if o.stem is not None or o.features is not None:
        raise BadInput("--stem, --features: belong to timm's block strings; a network has its own")
    original = library_source(text, o) if text.partition(":")[0] in LIBRARIES else file_source(Path(source), o)
    read = recognise(original.found, name, text)
    by = _statistics(read, original.by)
    spec = read.spec if read.spec.in_channels != 3 else replace(read.spec, mean=by[0], std=by[1])
    spec = _sourced(spec, text, hashlib.sha256(original.content).hexdigest() if original.content else "")
    read = replace(read, spec=spec)
    if o.spec_only:
        return (yield from _written(text, spec, folder, None, read, 0, None, original.labels, original.notes))
    if broken := unusable(read.state):
        raise BadInput(f"{text}: weights that no network can answer with: {'; '.join(broken[:5])}"
                       + (f" and {len(broken) - 5} more" if broken[5:] else ""))  # fmt: skip
    pixels, notes = _images(o, spec)
    state, seen = read.state, 0
    if read.folded and o.data is not None:
        batches = _batches(pixels, spec)
        state, seen = unfolded(spec, state, read.folded, batches), len(pixels)
    elif read.folded:
        notes += (f"{len(read.folded)} batch norms are folded into the weights of this file, so their statistics are "
                  "lost and they only add their bias. Answers are right, but the first step of a training would "
                  "destroy them: give images with --data DIR, a few dozen of what you will train on",)  # fmt: skip
    checked = _checked(original, read, spec, state, pixels[:COMPARED], o.data)
    if checked.exact and not checked.relative <= CLOSE:
        raise Mbv3Error(f"{text}: what was read of it answers otherwise, so nothing is written: {checked.line()}")
    labels = original.labels if len(original.labels) == _classes(spec) else ()
    return (yield from _written(text, spec, folder, state, read, seen, checked, labels, (*original.notes, *notes)))


def _classes(spec: ArchSpec) -> int:
    assert isinstance(spec.head, Classify)
    return spec.head.classes


def _name(source: str) -> str:
    """A network's name out of where it comes from."""
    library, colon, rest = source.partition(":")
    if colon and library in LIBRARIES:
        found = rest if not block_strings(rest) else "timm_strings"
    else:
        found = Path(source).stem
    return re.sub(r"[^\w.@+-]", "_", found)[:100] or "network"


def _sourced(spec: ArchSpec, source: str, sha256: str) -> ArchSpec:
    named = Path(source).name if sha256 else source  # a folder of one machine says nothing elsewhere
    notes = [("imported from", plain(named, 900)), *([("sha256", sha256)] if sha256 else [])]
    return replace(spec, provenance=tuple(notes))


def _statistics(read: Recognised, by: Statistics) -> Statistics:
    """Of RGB from 0 to 1, what the first convolution takes: the input's, and the scale and shift that follow inside."""
    if read.spec.in_channels != 3:
        return MEAN, STD
    scale, shift = (np.asarray(v, np.float64) for v in read.before)
    mean, std = (np.asarray(v, np.float64) for v in by)
    inner, spread = mean - shift * std / scale, std / scale
    return tuple(map(float, inner.round(7))), tuple(map(float, spread.round(9)))  # type: ignore[return-value]


# ---- images --------------------------------------------------------------------------------------------------


def _images(o: ImportOptions, spec: ArchSpec) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """(N, H, W, 3) pixels of the user's images, the same ones every time; drawn ones without a folder."""
    rng = np.random.default_rng(0)
    h, w = spec.resolution
    if o.data is None:
        coarse = rng.integers(0, 256, (DRAWN, 7, 7, 3), dtype=np.uint8)
        rows, columns = np.arange(h) * 7 // h, np.arange(w) * 7 // w
        noise = rng.integers(-40, 41, (DRAWN, h, w, 3))
        return np.clip(coarse[:, rows][:, :, columns] + noise, 0, 255).astype(np.uint8), ()
    if spec.in_channels != 3:
        raise BadInput(f"--data {o.data}: images have 3 channels, and this network takes {spec.in_channels}")
    files = find_images(Path(o.data))
    most = min(STATISTICS, max(MOST_BYTES // (3 * h * w), COMPARED))
    chosen = [files[i] for i in rng.permutation(len(files))[:most]]
    decoded = decode_all(chosen, spec.resolution, o.data, "middle")
    every = np.arange(len(chosen))
    few = (f"{o.data}: {len(chosen)} images give the statistics of batch norms; 64 or more are better",)
    return decoded.pixels[every], (*decoded.notes, *(few if len(chosen) < 32 else ()))


def _batches(pixels: NDArray[np.uint8], spec: ArchSpec) -> Iterator[Tensor]:
    for start in range(0, len(pixels), BATCH):
        yield normalise(pixels[start : start + BATCH], spec.resolution, by=(spec.mean, spec.std))


def _checked(
    original: Original, read: Recognised, spec: ArchSpec, state: dict[str, Tensor], pixels: NDArray[np.uint8],
    data: str | None,
) -> Checked:  # fmt: skip
    """Both networks on the same pixels, each with its own numbers of them."""
    if spec.in_channels == 3:
        theirs = [normalise(p[None], spec.resolution, by=original.by).contiguous().numpy() for p in pixels]
        ours = [normalise(p[None], spec.resolution, by=(spec.mean, spec.std)) for p in pixels]
    else:
        rng = np.random.default_rng(0)
        shape = (1, spec.in_channels, *spec.resolution)
        theirs = [rng.standard_normal(shape, dtype=np.float32) for _ in range(DRAWN)]
        scale, shift = (v.reshape(1, -1, 1, 1) for v in read.before)
        ours = [torch.from_numpy(x * scale + shift) for x in theirs]
    net = loaded(spec, state)
    with torch.inference_mode():
        logits = torch.cat([net(x) for x in ours]).float()
    mine = (logits.softmax(1) if read.softmax else logits).numpy()
    want = original.answers(theirs)
    return Checked(
        on=f"images of {data}" if data else "drawn images", n=len(ours), difference=float(np.abs(mine - want).max()),
        largest=float(np.abs(want).max()), agree=int((mine.argmax(1) == want.argmax(1)).sum()), by=original.run,
        exact=not original.found.integer,
    )  # fmt: skip


def _written(
    source: str, spec: ArchSpec, folder: Path, state: dict[str, Tensor] | None, read: Recognised | None, seen: int,
    checked: Checked | None, labels: tuple[str, ...], notes: tuple[str, ...],
) -> Generator[Event, None, ImportResult]:  # fmt: skip
    files = {NETWORK: dump_spec(spec).encode()}
    if state is not None:
        about = {"classes": json.dumps(labels)} if labels else {}
        whole = loaded(spec, state).state_dict()
        files[WEIGHTS] = weights_bytes(
            whole, (spec.mean, spec.std), network=spec.name, padding=spec.padding, bn_eps=str(spec.bn_eps), **about
        )
    write_folder(folder, files)
    counts = count(spec)
    result = ImportResult(
        source=source, spec=spec, folder=folder, files=tuple(folder / f for f in files), params=counts.params,
        madds=counts.madds, folded=len(read.folded) if read is not None else 0, unfolded_on=seen,
        integer=read is not None and read.found.integer, labels=labels, checked=checked, notes=notes,
    )  # fmt: skip
    for note in notes:
        yield Note("import", note, warning=True)
    return result
