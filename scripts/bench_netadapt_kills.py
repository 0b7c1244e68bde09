"""`kill -9` at moments of NetAdapt on images: whether a resumed run ends with the network and weights of a whole one.

    python scripts/bench_netadapt_kills.py

For each engine a small network with trained weights is shrunk on drawn images by a table once undisturbed. Then, for
every moment, a process of its own does the same, is killed there, and a second one goes on from what the first left.
Moments are spread over the time that a whole run takes. Lines go to --out.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import Process, get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from json_lines import append, lines_of

from mbv3.data import ImageSet, split
from mbv3.events import result
from mbv3.nn import build
from mbv3.spec import ArchSpec, Classify, Conv, MBConv, dump_spec
from mbv3.stages import Images, Joint, Memory, Single, shrink
from mbv3.tables import Latency, read_table
from mbv3.training import read_weights, save_weights

OUT = Path(__file__).resolve().parents[1] / "results" / "netadapt-kills.jsonl"
SIDE, CLASSES = 32, 4
START = ArchSpec(
    name="start",
    resolution=(SIDE, SIDE),
    stem=Conv(k=3, out=16, nl="HS", s=2),
    rows=(
        MBConv(k=3, exp=64, out=24, s=2),
        MBConv(k=3, exp=96, out=24, se=24, nl="HS", skip="identity"),
        MBConv(k=5, exp=96, out=40, nl="HS", s=2),
    ),
    tail=Conv(k=1, out=96, nl="HS"),
    head=Classify(features=64, classes=CLASSES),
)
ENGINES: dict[str, dict[str, Any]] = {
    "joint": {"engine": Joint(rounds=3), "steps": 12},
    "single": {"engine": Single(delta=0.08), "steps": 2},
}


@dataclass
class Folder(Memory):
    """A `Keep` on the disk, so that it outlives its process: what a run directory is."""

    root: Path = field(default_factory=Path)

    def __post_init__(self) -> None:
        kept = self.root / "values.json"
        if kept.exists():
            self.values.update(json.loads(kept.read_text()))
        for table in self.root.glob("*.rows"):
            self.tables[table.stem] = json.loads(table.read_text())

    def _put(self, name: str, text: str) -> None:
        part = self.root / f".{name}"
        part.write_text(text)
        part.replace(self.root / name)

    def value(self, name: str, decide: Any) -> Any:
        found = super().value(name, decide)
        self._put("values.json", json.dumps(self.values))
        return found

    def file(self, name: str) -> Path:
        return self.root / name

    def write_rows(self, name: str, columns: Sequence[str], rows: Any) -> None:
        super().write_rows(name, columns, rows)
        self._put(f"{name}.rows", json.dumps(self.tables[name]))

    def append_rows(self, name: str, columns: Sequence[str], rows: Any) -> None:
        super().append_rows(name, columns, rows)
        self._put(f"{name}.rows", json.dumps(self.tables[name]))


def images() -> Images:
    """Stripes of four directions under noise."""
    rng = np.random.default_rng(0)
    y = np.arange(160) % CLASSES
    grid = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)))
    way = np.stack([np.cos(y * np.pi / CLASSES), np.sin(y * np.pi / CLASSES)], 1)
    waves = np.sin(np.einsum("nc,chw->nhw", way, grid) + rng.uniform(0, 6.3, (160, 1, 1)))
    x = 128 + 60 * waves[..., None] + rng.normal(0, 30, (160, SIDE, SIDE, 3))
    data = ImageSet(x.clip(0, 255).astype(np.uint8), y, tuple(map(str, range(CLASSES))), "")
    return Images(*split(data, 0.3, 48, 0), (SIDE, SIDE))


def work(engine: str, folder: Path) -> None:
    """One run in `folder`, which may hold what a killed one left."""
    torch.set_num_threads(1)
    latency = Latency(read_table("pixel-1", "onnxruntime", 1, True)[0], None)
    target = 0.6 * latency([START])[0]
    found = result(
        shrink(START, latency, images(), target, weights=build(START, 0).state_dict(), keep=Folder(root=folder),
               **ENGINES[engine])
    )  # fmt: skip
    assert found.state is not None
    save_weights(folder / "found.safetensors", found.state)
    (folder / "found.yaml").write_text(dump_spec(found.spec))


def begun(engine: str, folder: Path) -> Process:
    process = get_context("fork").Process(target=work, args=(engine, folder))
    process.start()
    return process  # type: ignore[return-value]


def same(a: Path, b: Path) -> bool:
    if (a / "found.yaml").read_text() != (b / "found.yaml").read_text():
        return False
    one, other = (read_weights(p / "found.safetensors") for p in (a, b))
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--out", type=Path, default=OUT)
    o = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        for engine in o.engines:
            whole = Path(base) / f"{engine}-whole"
            whole.mkdir()
            began = time.monotonic()
            begun(engine, whole).join()
            took = time.monotonic() - began
            alike = 0
            have = lines_of(o.out)
            known = {x["moment"]: x["same"] for x in have if x["engine"] == engine and x["of"] == o.moments}
            for i in range(o.moments):
                if i + 1 in known:
                    alike += known[i + 1]
                    continue
                share = (i + 0.5) / o.moments
                while True:  # an idler machine ends before the kill: sooner, then
                    folder = Path(base) / f"{engine}-{i}-{share:.4f}"
                    folder.mkdir()
                    process = begun(engine, folder)
                    time.sleep(share * took)
                    assert process.pid is not None
                    os.kill(process.pid, signal.SIGKILL)
                    process.join()
                    if process.exitcode == -signal.SIGKILL and not (folder / "found.yaml").exists():
                        break
                    share *= 0.8
                left = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
                again = begun(engine, folder)
                again.join()
                equal = again.exitcode == 0 and same(folder, whole)
                alike += equal
                line = {"engine": engine, "moment": i + 1, "of": o.moments, "share": round(share, 4), "left": left,
                        "same": equal}  # fmt: skip
                append(o.out, line, quiet=True)
            print(
                f"{engine}: {alike} of {o.moments} end with the same network and weights, {took:.1f} s whole",
                flush=True,
            )


if __name__ == "__main__":
    main()
