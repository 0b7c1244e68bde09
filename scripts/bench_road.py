"""A user's photos and public weights to a network within a target: the road beside what others would do.

python scripts/bench_road.py table   --net mobilenet_v3_small --out table.csv          # on the CPU of the target
python scripts/bench_road.py run     --net mobilenet_v3_small --data DIR --init FILE --table table.csv --jobs 16
python scripts/bench_road.py teacher --net mobilenet_v3_small --data DIR --init FILE --table table.csv --jobs 16
python scripts/bench_road.py measure --net mobilenet_v3_small                          # the networks found, on this CPU
python scripts/bench_road.py figures

DIR/{train,test}/<class>/*; decoded pixels are kept beside these folders. `table` measures the layers of a network at
the sizes that a search would look at, so that `run` needs no target at hand and uses a GPU where there is one. A target
is a share of the start's predicted ms at --px. A cell is a network, a share, a seed and a method:

  road       `mbv3-search --init` as far as its comparison at equal steps: it gives the lines `ours` (the cut network
             that won), `lower` (the start at the largest resolution within the target), `l1` (uniform slimming by
             filters' L1 norm) and `delivered` (the one that the images held out chose)
  channels       the road with one candidate, cut at --px: no resolution is chosen
  tp-l2, tp-taylor   Torch-Pruning's magnitude and Taylor pruners at --px, their ratio bisected to the same ms
  by-hand    the lower resolution from the public weights, without a teacher, for as many steps in all

All but the last start from the same fine-tuned start, have it as teacher and learn for the same steps. Lines are
appended to --out when a cell ends, and what is found there is not run again. `--cell I/N` runs every N-th cell from the
I-th on, for several machines. `teacher` trains one cut network with several weights and temperatures of the teacher.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from bench_finetune import device_name, part
from json_lines import append, lines_of, short_commit
from numpy.typing import NDArray
from torch import Tensor, nn

from mbv3.data import ImageSet, normalise, split_labels
from mbv3.events import result
from mbv3.export import read_any_weights
from mbv3.latency import Device, LatencyTable, open_runtime
from mbv3.nn import Network, build
from mbv3.progress import drain
from mbv3.spec import ArchSpec, Classify, count, dump_spec, load_spec, parse_spec, with_head
from mbv3.stages import (
    DISTILL,
    TEMPERATURE,
    Effort,
    Images,
    Memory,
    Sizes,
    Tuned,
    choose_sizes,
    cut_by_l1,
    on_device,
    road,
    sized,
    sized_table,
    slimmed,
    taught_by,
    tune,
    usual_steps,
)
from mbv3.tables import Latency, reference_of
from mbv3.training import Answers, ClassAnswers, adopt, class_answers, usual_epochs

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results" / "road.jsonl"
METHODS = ("road", "channels", "tp-l2", "tp-taylor", "by-hand")
TEACHERS = ((0.0, 1.0), (0.5, 1.0), (0.5, 2.0), (0.7, 2.0), (0.9, 2.0), (0.7, 4.0), (0.9, 4.0))  # (weight, temperature)
SHARES = (0.75, 0.5, 0.35)
SHOWN = ("net", "share", "seed", "method", "top1", "held_out", "resolution", "distill", "temperature", "seconds")
T = TypeVar("T")


@dataclass
class Folder(Memory):
    """A `Keep` whose binary files lie in a folder."""

    path: Path = field(default_factory=Path)

    def file(self, name: str) -> Path | None:
        self.path.mkdir(parents=True, exist_ok=True)
        return self.path / name


@dataclass(frozen=True, slots=True)
class Cell:
    net: str
    share: float
    seed: int
    method: str

    @property
    def name(self) -> str:
        return f"{self.net}-{self.share:g}-{self.seed}-{self.method}"


# ---- what every cell has -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Given:
    """The images, the network at --px, and the latency of its device."""

    o: argparse.Namespace
    seed: int
    spec: ArchSpec
    images: Images
    report: ImageSet
    latency: Latency

    @classmethod
    def of(cls, o: argparse.Namespace, net: str, seed: int) -> Given:
        data = Path(o.data)
        whole = part(data / "train", o.px, False, o.per_class)
        report = part(data / "test", o.px, False, 0, whole.classes)
        rest, held = split_labels(whole.labels, len(whole.classes), 0.1, 5000, seed)
        images = Images(whole.take(rest), whole.take(held), (o.px, o.px))
        return cls(o, seed, network(o, net, len(whole.classes)), images, report, Latency(LatencyTable.load(o.table)))

    @property
    def usual(self) -> int:
        return usual_steps(self.images)

    def steps(self, epochs: float) -> int:
        return round(epochs * self.usual / self.o.usual_epochs)

    @property
    def effort(self) -> Effort:
        cut, first, alike = (self.steps(e) for e in (self.o.cut_epochs, self.o.first_epochs, self.o.epochs))
        return Effort(start=self.steps(self.o.start_epochs), cut=cut, first=first, alike=alike, last=0)

    def public(self, spec: ArchSpec) -> dict[str, Tensor]:
        net = build(spec, self.seed)
        adopt(net, read_any_weights(Path(self.o.init), spec).state, self.o.init)
        return dict(net.state_dict())

    def target(self, share: float) -> float:
        return share * self.latency([self.spec])[0]

    def sizes(self, share: float) -> Sizes:
        return choose_sizes(self.spec, self.target(share), self.o.px, self.latency)

    def start(self, net: str) -> Tuned:
        """The fine-tuned start, kept in the work folder."""
        keep = Folder(path=self.o.work / f"{net}-{self.seed}-start")
        state = self.public(self.spec)
        return result(
            tune("start", self.spec, state, self.images, self.effort.start, new_head=True, seed=self.seed,
                        keep=keep)
        )  # fmt: skip

    def rounds(self, cuts: int) -> list[int]:
        """Steps that a network of the comparison learns, training by training."""
        steps, found = self.effort.first, []
        while cuts > 1:
            found.append(steps)
            steps, cuts = 2 * steps, cuts // 2
        found = [*found, self.effort.alike]
        return [found[0] + self.effort.cut, *found[1:]]


def network(o: argparse.Namespace, net: str, classes: int) -> ArchSpec:
    """The network at --px with a head for the classes."""
    spec = sized(load_spec(net), o.px)
    return with_head(spec, spec.head, classes)


# ---- cells ---------------------------------------------------------------------------------------------------------


def prepared(o: argparse.Namespace, net: str, seed: int) -> str:
    given = Given.of(o, net, seed)
    began = time.monotonic()
    top1 = given.start(net).chosen_on.score
    return f"start of {net}, seed {seed}: {top1:.1f} % held out, {time.monotonic() - began:.0f} s"


def run_cell(o: argparse.Namespace, cell: Cell) -> list[dict[str, Any]]:
    """Train a cell; its lines."""
    given = Given.of(o, cell.net, cell.seed)
    began = time.monotonic()
    rows = _road(given, cell) if cell.method in ("road", "channels") else _alone(given, cell)
    common = {
        "net": cell.net, "share": cell.share, "seed": cell.seed, "target_ms": round(given.target(cell.share), 5),
        "px": o.px, "images": len(given.images.train), "test_images": len(given.report),
        "start_epochs": o.start_epochs, "cut_epochs": o.cut_epochs, "first_epochs": o.first_epochs, "epochs": o.epochs,
        "distill": DISTILL, "temperature": TEMPERATURE, "seconds": round(time.monotonic() - began, 1),
        "cell": cell.method, "init": Path(o.init).name, "table": Path(o.table).name, "device": device_name(),
        "torch": torch.__version__, "commit": o.commit,
    }  # fmt: skip
    return [{**row, **common} for row in rows]


def _line(method: str, spec: ArchSpec, ms: float, report: Answers, chosen: Answers) -> dict[str, Any]:
    assert isinstance(report, ClassAnswers)
    counts = count(spec)
    return {
        "method": method, "top1": round(report.score, 3), "held_out": round(chosen.score, 3), "ms": round(ms, 5),
        "resolution": spec.resolution[0], "params": counts.params, "madds": counts.madds,
        "right": base64.b64encode(np.packbits(report.right)).decode(), "spec": dump_spec(spec),
    }  # fmt: skip


def _road(given: Given, cell: Cell) -> list[dict[str, Any]]:
    folder = given.o.work / cell.name
    start = given.o.work / f"{cell.net}-{cell.seed}-start" / "road-start.safetensors"
    shutil.rmtree(folder, ignore_errors=True)  # of a cell that was interrupted: rows are kept in memory only
    folder.mkdir(parents=True)
    shutil.copy(start, folder)
    sizes, effort = given.sizes(cell.share), given.effort
    if cell.method == "channels":  # for as many steps in all
        steps = sum(given.rounds(len(sizes.cut))) - effort.cut
        sizes, effort = Sizes(sizes.start, (), (given.spec,)), replace(effort, alike=steps)
    went = result(
        road(
            sizes, given.public(given.spec), given.latency, given.images, given.report,
            given.target(cell.share), effort=effort, seed=cell.seed, keep=Folder(path=folder),
        )
    )  # fmt: skip
    names = {"cut": "ours", "lower": "lower", "l1": "l1"}
    rows = [
        _line(names[x.contender.kind], x.tuned.spec, x.contender.ms, x.reported, x.tuned.chosen_on) for x in went.alike
    ]
    shutil.rmtree(folder)
    if cell.method == "channels":
        return [{**row, "method": "channels"} for row in rows if row["method"] == "ours"]
    return [*rows, {**rows[0], "method": "delivered", "was": rows[0]["method"]}]


def _alone(given: Given, cell: Cell) -> list[dict[str, Any]]:
    """The line of one method; none where no resolution of the uncut network is within the target."""
    sizes, target = given.sizes(cell.share), given.target(cell.share)
    rounds = given.rounds(len(sizes.cut))
    if cell.method == "by-hand":
        within = [s for s in sizes.lower if given.latency([s])[0] <= target]
        if not within:
            return []
        spec = within[0]
        state, teacher, cut = given.public(spec), None, False
        steps = [given.effort.start + sum(rounds)]
    else:
        start = given.start(cell.net)
        spec, state = torch_pruned(given, start, target, cell.method)
        teacher, cut, steps = taught_by(start.spec, start.state, given.images.train), True, rounds
    for n in steps:
        tuned = result(
            tune("cell", spec, state, given.images, n, teacher=teacher, new_head=not cut, cut=cut,
                        seed=cell.seed)
        )  # fmt: skip
        state = tuned.state
    return [_line(cell.method, spec, given.latency([spec])[0], _reported(tuned, given.report), tuned.chosen_on)]


def _reported(tuned: Tuned, report: ImageSet) -> Answers:
    return class_answers(on_device(tuned.spec, tuned.state), report, tuned.spec.resolution)


def teacher_cell(o: argparse.Namespace, net: str, seed: int, weight: float, temperature: float) -> dict[str, Any]:
    """A uniform slimming to half of the start's ms, fine-tuned under a teacher of this weight and temperature."""
    given = Given.of(o, net, seed)
    start = given.start(net)
    spec = slimmed(start.spec, given.latency, given.target(0.5))
    assert spec is not None
    logits = taught_by(start.spec, start.state, given.images.train) if weight else None
    tuned = result(
        tune("cell", spec, cut_by_l1(start.state, start.spec, spec), given.images, given.effort.alike,
                    teacher=logits, cut=True, distill=weight, temperature=temperature, seed=seed)
    )  # fmt: skip
    return {
        **_line("teacher", spec, given.latency([spec])[0], _reported(tuned, given.report), tuned.chosen_on),
        "net": net, "share": 0.5, "seed": seed, "distill": weight, "temperature": temperature, "epochs": o.epochs,
        "images": len(given.images.train), "test_images": len(given.report), "device": device_name(),
        "torch": torch.__version__, "commit": o.commit,
    }  # fmt: skip


# ---- Torch-Pruning -------------------------------------------------------------------------------------------------


class _Plain(nn.Module):
    """A classifier of ours as modules that Torch-Pruning can trace: its head calls its layers."""

    def __init__(self, net: Network) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        for row in (self.net.stem, *self.net.rows, *([self.net.tail] if self.net.tail is not None else [])):
            x = row(x)
        x = x.mean((2, 3))
        for op in self.net.head.ops:  # type: ignore[union-attr]
            x = nn.functional.hardswish(x) if op.kind == "act" else self.net.head.module(op.name)(x)  # type: ignore
        return x


def torch_pruned(given: Given, start: Tuned, target_ms: float, method: str) -> tuple[ArchSpec, dict[str, Tensor]]:
    """The start pruned by Torch-Pruning (Fang 2023, arXiv:2301.12900) to at most `target_ms`: its ratio bisected."""
    low, high, best = 0.0, 0.95, None
    for _ in range(8):
        ratio = (low + high) / 2
        spec, state = _pruned_at(given, start, ratio, method)
        if given.latency([spec])[0] <= target_ms:
            high, best = ratio, (spec, state)
        else:
            low = ratio
    assert best is not None, f"{method} does not reach {target_ms:g} ms"
    return best


def _pruned_at(given: Given, start: Tuned, ratio: float, method: str) -> tuple[ArchSpec, dict[str, Tensor]]:
    import torch_pruning as tp

    net = build(start.spec, 0)
    net.load_state_dict(start.state)
    plain = _Plain(net).eval()
    x = torch.zeros(1, 3, *start.spec.resolution)
    importance = tp.importance.TaylorImportance() if method == "tp-taylor" else tp.importance.MagnitudeImportance(p=2)
    linear = [m for m in net.head.modules() if isinstance(m, nn.Linear)]
    pruner = tp.pruner.MagnitudePruner(
        plain, x, importance=importance, pruning_ratio=ratio, ignored_layers=linear[-1:], round_to=8
    )
    if method == "tp-taylor":
        data = given.images.train
        index = np.random.default_rng(given.seed).permutation(len(data))[:256]
        for rows in np.array_split(np.sort(index), 4):
            pixels, labels = data.batch(rows, start.spec.resolution, "none", np.random.default_rng(0))
            out = plain(normalise(pixels, start.spec.resolution))
            nn.functional.cross_entropy(out, labels).backward()
    pruner.step()
    state = {k: v.detach().clone() for k, v in net.state_dict().items()}
    for i in range(len(start.spec.rows)):
        kernel = state.get(f"rows.{i}.expand.conv.weight")
        if kernel is not None:
            exp, squeeze = len(kernel), len(state.get(f"rows.{i}.se.reduce.weight", ()))
            wanted = max(exp, squeeze)  # a spec's squeeze has no more channels than the expansion
            wanted += 8 * (wanted == kernel.shape[1])  # an expansion as wide as its input is a row without one there
            _wider_by_nothing(state, f"rows.{i}.", wanted - exp)
    return _spec_of(start.spec, state), state


def _wider_by_nothing(state: dict[str, Tensor], row: str, by: int) -> None:
    """The expansion of a row gets `by` channels of zeros. What the network answers stays the same."""
    for name in [k for k in state if k.startswith(row) and state[k].ndim]:
        part = name.removeprefix(row)
        dim = 1 if part in ("project.conv.weight", "se.reduce.weight") else 0
        if by and (dim or part.startswith(("expand.", "depthwise.", "se.expand."))):
            shape = list(state[name].shape)
            shape[dim] = by
            fill = 1.0 if part.endswith("running_var") else 0.0
            state[name] = torch.cat([state[name], torch.full(shape, fill)], dim)


def _spec_of(spec: ArchSpec, state: Mapping[str, Tensor]) -> ArchSpec:
    """The spec of a pruned network, from the shapes of its weights."""

    def width(name: str) -> int:
        return int(state[name].shape[0])

    rows, cin = [], width("stem.conv.weight")
    stem = replace(spec.stem, out=cin)
    for i, row in enumerate(spec.rows):
        at = f"rows.{i}"
        values: dict[str, Any] = {"out": width(f"{at}.project.conv.weight")}
        if hasattr(row, "exp"):
            values["exp"] = width(f"{at}.depthwise.conv.weight")
        if f"{at}.se.reduce.weight" in state:
            values["se"] = width(f"{at}.se.reduce.weight")
        rows.append(replace(row, **values))
    tail = None if spec.tail is None else replace(spec.tail, out=width("tail.conv.weight"))
    head = spec.head
    if isinstance(head, Classify) and head.features:
        head = replace(head, features=width("head.features.weight"))
    return replace(spec, stem=stem, rows=tuple(rows), tail=tail, head=head)


# ---- tables and times ----------------------------------------------------------------------------------------------


def make_table(o: argparse.Namespace) -> None:
    """Layers of --net at every size that a target may lead to, measured on this CPU."""
    runtime = open_runtime("onnxruntime", 1)
    [net] = o.net
    spec = network(o, net, o.classes)
    sides = [side for side in range(32, o.px + 33, 8) if side < o.px or (side > o.px and side % 16 == 0)]
    union = Sizes(spec, (), tuple(sized(spec, side) for side in sides))
    drain(sized_table(union, runtime, Path(o.out), o.minutes))


def measure(o: argparse.Namespace) -> None:
    """Every network of --out, whole, on this CPU, into FILE-ms.json: {spec: ms}."""
    place = o.out.with_name(o.out.stem + "-ms.json")
    known: dict[str, float] = json.loads(place.read_text("utf-8")) if place.exists() else {}
    texts = [x["spec"] for x in lines_of(o.out) if x["method"] != "teacher" and x["net"] in o.net]
    new = [t for t in dict.fromkeys(texts) if t not in known]
    device = Device(open_runtime("onnxruntime", 1), reference_of(LatencyTable.load(o.table)))
    measured = device.networks([parse_spec(t, "line") for t in new], parts=4)
    known |= dict(zip(new, (round(t, 5) for t in measured.ms), strict=True))
    place.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


# ---- lines and tables ----------------------------------------------------------------------------------------------


def answered(line: Mapping[str, Any]) -> NDArray[np.bool_]:
    bits = np.unpackbits(np.frombuffer(base64.b64decode(line["right"]), np.uint8))
    return bits[: line["test_images"]].astype(bool)


def mean_of(values: Sequence[float]) -> str:
    error = f" +- {np.std(values, ddof=1) / len(values) ** 0.5:.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{error}"


def figures(lines: list[dict[str, Any]]) -> Iterator[str]:
    """A table a network and share: top-1 on the test images, and by how much `ours` is above, seed by seed."""
    every = [x for x in lines if x["method"] != "teacher"]
    for net, images, share in sorted({(x["net"], x["images"], x["share"]) for x in every}, reverse=True):
        mine = [x for x in every if (x["net"], x["images"], x["share"]) == (net, images, share)]
        by: dict[str, dict[int, dict[str, Any]]] = {}
        for x in mine:
            by.setdefault(x["method"], {})[x["seed"]] = x
        first = mine[0]
        yield f"{net}, {share:g} of its ms at {first['px']} px ({first['images']} images, {first['epochs']:g} epochs)"
        yield f"  {'method':<10} {'top-1, %':>14}  {'ours above it':>14}  px of each seed, share of the target, n"
        for method, found in sorted(by.items(), key=lambda p: -np.mean([x["top1"] for x in p[1].values()])):
            tops = [x["top1"] for x in found.values()]
            ours = by.get("ours", {})
            apart = [ours[s]["top1"] - x["top1"] for s, x in found.items() if s in ours and method != "ours"]
            px = " ".join(str(x["resolution"]) for x in found.values())
            ms = np.mean([x["ms"] / x["target_ms"] for x in found.values()])
            above = mean_of(apart) if apart else "-"
            yield f"  {method:<10} {mean_of(tops):>14}  {above:>14}  {px}, {ms:.3f}, n = {len(tops)}"
    taught = [x for x in lines if x["method"] == "teacher"]
    for net in sorted({x["net"] for x in taught}):
        yield f"{net}: weight and temperature of the teacher, uniform slimming to half of the ms"
        pairs = sorted({(x["distill"], x["temperature"]) for x in taught if x["net"] == net})
        for pair in pairs:
            tops = [x["top1"] for x in taught if x["net"] == net and (x["distill"], x["temperature"]) == pair]
            held = [x["held_out"] for x in taught if x["net"] == net and (x["distill"], x["temperature"]) == pair]
            yield f"  {pair[0]:g}, {pair[1]:g}: {mean_of(tops)} %, held out {mean_of(held)} % (n = {len(tops)})"


# ---- the command line ----------------------------------------------------------------------------------------------


def cells_of(o: argparse.Namespace) -> list[Cell]:
    """The cells that are asked for and are not in --out, the longest first."""
    done = {
        (x["net"], x["share"], x["seed"], x.get("cell")) for x in lines_of(o.out) if x.get("images") == o.images
    }  # fmt: skip
    able = [m for m in o.methods if not m.startswith("tp-") or find_spec("torch_pruning") is not None]
    if able != list(o.methods):
        print("torch_pruning cannot be imported: its methods are left out", file=sys.stderr)
    every = [Cell(n, s, seed, m) for m in able for seed in o.seeds for n in o.net for s in o.shares]
    first, step = (int(v) for v in o.cell.split("/"))
    return [c for c in every if (c.net, c.share, c.seed, c.method) not in done][first::step]


def one_thread(threads: int) -> None:
    torch.set_num_threads(threads)


def each(o: argparse.Namespace, function: Callable[..., T], work: Sequence[tuple[Any, ...]]) -> Iterable[T]:
    """Results of `function(o, *item)` as they come, --jobs at a time."""
    if o.jobs == 1:
        torch.set_num_threads(o.threads)
        yield from (function(o, *item) for item in work)
        return
    with ProcessPoolExecutor(o.jobs, get_context("spawn"), one_thread, (o.threads,)) as pool:
        for future in as_completed([pool.submit(function, o, *item) for item in work]):
            yield future.result()


def keep(o: argparse.Namespace, rows: Iterable[Mapping[str, Any]]) -> None:
    for row in rows:
        append(o.out, row, quiet=True)
        print({k: row.get(k) for k in SHOWN}, flush=True)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=("table", "run", "teacher", "measure", "figures"))
    p.add_argument("--net", nargs="+", default=["mobilenet_v3_small"])
    p.add_argument("--data")
    p.add_argument("--init")
    p.add_argument("--table", type=Path)
    p.add_argument("--work", type=Path, default=Path("road-work"), help="folder of the fine-tuned starts")
    p.add_argument("--px", type=int, default=128)
    p.add_argument("--per-class", type=int, default=0)
    p.add_argument("--classes", type=int, default=101, help="of the head, for `table`")
    p.add_argument("--minutes", type=float, default=2.0, help="for `table`")
    p.add_argument("--shares", type=float, nargs="+", default=list(SHARES))
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    p.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    p.add_argument("--start-epochs", type=float, default=6.0)
    p.add_argument("--cut-epochs", type=float, default=2.0, help="while a candidate is cut")
    p.add_argument("--first-epochs", type=float, default=0.7, help="of the first round that drops candidates")
    p.add_argument("--epochs", type=float, default=8.0, help="of each network of the comparison")
    p.add_argument("--cell", default="0/1", metavar="I/N")
    p.add_argument("--commit", help="where this is no clone")
    p.add_argument("--jobs", type=int, default=1)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--out", type=Path, default=OUT)
    o = p.parse_args()
    if o.what == "figures":
        print("\n".join(figures(lines_of(o.out))))
        return
    if o.what == "table":
        make_table(o)
        return
    if o.what == "measure":
        measure(o)
        return
    os.environ.setdefault("OMP_NUM_THREADS", str(o.threads))
    o.commit = o.commit or short_commit()
    whole = part(Path(o.data) / "train", o.px, False, o.per_class)  # decoded once, before many ask for it
    part(Path(o.data) / "test", o.px, False, 0, whole.classes)
    rest, _ = split_labels(whole.labels, len(whole.classes), 0.1, 5000, 0)
    o.images, o.usual_epochs = len(rest), usual_epochs(len(rest))
    if o.what == "teacher":
        done = {
            (x["net"], x["seed"], x["distill"], x["temperature"]) for x in lines_of(o.out) if x["method"] == "teacher"
        }
        work = [(n, s, w, t) for w, t in TEACHERS for n in o.net for s in o.seeds if (n, s, w, t) not in done]
        starts = sorted({(n, s) for n, s, _, _ in work})
    else:
        cells = cells_of(o)
        starts = sorted({(c.net, c.seed) for c in cells})
    for text in each(o, prepared, starts):
        print(text, flush=True)
    if o.what == "teacher":
        for row in each(o, teacher_cell, work):
            keep(o, [row])
        return
    for rows in each(o, run_cell, [(c,) for c in cells]):
        keep(o, rows)


if __name__ == "__main__":
    main()
