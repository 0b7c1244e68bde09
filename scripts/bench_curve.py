"""Another target from a run that was cut to one, beside a run of its own: results/curve.jsonl.

python scripts/bench_curve.py run --data DIR --init FILE [--net mobilenet_v3_small] [--classes 20] [--side 64]
                                  [--steps 150] [--start-steps 150] [--first 0.35] [--shares 0.5 0.3] [--seeds 0 1 2]
python scripts/bench_curve.py report [--out results/curve.jsonl]

DIR: `train` and `test` of class folders, of which the first CLASSES in the order of their names count. FILE: ImageNet
weights. The network is fine-tuned with a new head for START-STEPS, cut by joint cuts to FIRST of its ms on a Pixel 1
(estimated from published times; nothing is timed) and fine-tuned for STEPS. Then for each share it is cut to that ms by
a run of its own, and by one that goes on from the first. Accuracy is on the test images, `cpu_s` are seconds of this
process, `mb` what the first run keeps. A row that is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from json_lines import append, lines_of, short_commit

from mbv3.data import ImageSet, decode_all, find_class_folder, split
from mbv3.events import result
from mbv3.export import read_any_weights
from mbv3.spec import ArchSpec, Classify, load_spec, with_head
from mbv3.stages import Adapted, Images, Memory, on_device, passed_in, shrink, taken_up
from mbv3.tables import Latency, read_table
from mbv3.training import ClassAnswers, class_answers

ROOT = Path(__file__).resolve().parents[1]
DEVICE = "pixel-1"


@dataclass
class Folder(Memory):
    """What a stage keeps, with files in a folder."""

    root: Path = field(default_factory=Path)

    def file(self, name: str) -> Path:
        return self.root / name


def images_of(folder: Path, names: Sequence[str], side: int) -> ImageSet:
    """The images of some classes, decoded at `side`."""
    classes, files = find_class_folder(folder)
    mine = [(path, names.index(classes[label])) for path, label in files if classes[label] in names]
    decoded = decode_all([path for path, _ in mine], (side, side), folder)
    return ImageSet(decoded.pixels, np.array([label for _, label in mine], np.int64), tuple(names), decoded.sha256)


@dataclass(frozen=True)
class Bench:
    """What every run of a seed shares."""

    spec: ArchSpec
    state: dict[str, torch.Tensor]
    images: Images
    report: ImageSet
    ms: float
    steps: int
    start_steps: int
    seed: int

    def cut(self, share: float, keep: Folder, first: Folder | None = None) -> tuple[Adapted, float]:
        """(the network within `share` of the ms, CPU seconds); from `first` where it is given."""
        target = share * self.ms
        keep.value("start_steps", lambda: self.start_steps)
        began = time.process_time()
        taken = None
        if first is not None:
            taken = taken_up(passed_in(first.root), target, first.rows("netadapt.csv"), first.rows("cuts.csv"))
        made = result(
            shrink(self.spec, latency(), self.images, target, weights=self.state, steps=self.steps, seed=self.seed,
                   keep=keep, taken=taken)
        )  # fmt: skip
        return made, time.process_time() - began

    def answered(self, made: Adapted) -> ClassAnswers:
        assert made.state is not None
        return class_answers(on_device(made.spec, made.state), self.report, self.images.size)


def latency() -> Latency:
    return Latency(read_table(DEVICE, "onnxruntime", 1, False)[0])


def prepared(o: argparse.Namespace, seed: int) -> Bench:
    names = sorted(p.name for p in (o.data / "train").iterdir() if p.is_dir())[: o.classes]
    spec = replace(load_spec(o.net), resolution=(o.side, o.side))
    weights = read_any_weights(o.init, spec)
    assert isinstance(spec.head, Classify)
    spec = with_head(weights.spec, replace(spec.head, classes=len(names)))
    train, held = split(images_of(o.data / "train", names, o.side), 0.1, 1000, seed)
    images = Images(train, held, (o.side, o.side))
    report = images_of(o.data / "test", names, o.side)
    return Bench(spec, weights.state, images, report, latency()([spec])[0], o.steps, o.start_steps, seed)


def run(o: argparse.Namespace) -> None:
    commit = short_commit()
    about = {
        "net": o.net, "data": o.data.name, "classes": o.classes, "side": o.side, "steps": o.steps,
        "start_steps": o.start_steps, "first": o.first,
    }  # fmt: skip
    done = lines_of(o.out)
    for seed in o.seeds:
        mine = [r for r in done if r["seed"] == seed and all(r[k] == v for k, v in about.items())]
        if len(mine) == 1 + 2 * len(o.shares):
            continue
        bench = prepared(o, seed)

        def keep(way: str, share: float, made: Adapted, cpu_s: float, bench: Bench = bench, **more: Any) -> None:
            seen = bench.answered(made)
            row = {
                **about, "seed": bench.seed, "way": way, "share": share, "top1": round(seen.score, 3),
                "of_ms": round(made.predicted_ms / bench.ms, 4), "error": round(seen.error, 3),
                "n": len(bench.report), "cpu_s": round(cpu_s, 1), **more,
                "learned_from": len(bench.images.train), "device": f"{platform.machine()}, {DEVICE}'s times",
                "torch": torch.__version__, "commit": commit,
            }  # fmt: skip
            append(o.out, row)

        with tempfile.TemporaryDirectory() as place:
            first = Folder(root=Path(place) / "first")
            made, cpu_s = bench.cut(o.first, first)
            networks = passed_in(first.root)
            sizes = [p.file.stat().st_size / 1e6 for p in networks]
            have = {(r["way"], r["share"]) for r in mine}
            if ("first", o.first) not in have:
                curve = [[round(p.scored.latency_ms / bench.ms, 3), round(p.scored.accuracy, 1)] for p in networks]
                keep("first", o.first, made, cpu_s, mb=[round(s, 2) for s in sizes], curve=curve)
            for share in o.shares:
                for way, source in (("from the first", first), ("its own", None)):
                    if (way, share) not in have:
                        made, cpu_s = bench.cut(share, Folder(root=Path(place) / f"{way} {share}"), source)
                        keep(way, share, made, cpu_s)


def report(out: Path) -> str:
    """Means over seeds, with the standard error of the difference of the two ways."""
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    lines = ["| share of its ms | way | seeds | top-1, % | of its ms | CPU s |", "|---" * 6 + "|"]
    for share in sorted({r["share"] for r in rows if r["way"] != "first"}, reverse=True):
        found: dict[str, dict[int, float]] = {}
        for way in ("its own", "from the first"):
            some = [r for r in rows if (r["way"], r["share"]) == (way, share)]
            found[way] = {r["seed"]: r["top1"] for r in some}
            mean = {k: np.mean([r[k] for r in some]) for k in ("top1", "of_ms", "cpu_s")}
            lines.append(f"| {share:g} | {way} | {len(some)} | {mean['top1']:.1f} | {mean['of_ms']:.3f} | "
                         f"{mean['cpu_s']:.0f} |")  # fmt: skip
        gaps = [found["from the first"][s] - v for s, v in found["its own"].items() if s in found["from the first"]]
        error = f" ± {np.std(gaps, ddof=1) / len(gaps) ** 0.5:.1f}" if len(gaps) > 1 else ""
        lines.append(f"| {share:g} | from the first less its own | {len(gaps)} | {np.mean(gaps):+.1f}{error} | | |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("run", "report"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--init", type=Path)
    parser.add_argument("--net", default="mobilenet_v3_small")
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--start-steps", type=int, default=150)
    parser.add_argument("--first", type=float, default=0.35)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "curve.jsonl")
    o = parser.parse_args()
    if o.verb == "report":
        return print(report(o.out))
    if o.data is None or o.init is None:
        parser.error("--data and --init are needed")
    torch.set_num_threads(1)
    run(o)


if __name__ == "__main__":
    main()
