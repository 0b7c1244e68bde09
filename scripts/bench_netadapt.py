"""Joint cuts against the true accuracy of every width setting of one network (Channel-Bench-Macro).

    python scripts/bench_netadapt.py table --out results/netadapt-table.csv
    python scripts/bench_netadapt.py train --cifar DIR|TAR --weights full.safetensors [--device cuda]
    python scripts/bench_netadapt.py cells --cifar DIR|TAR --weights full.safetensors --part 0/8
    python scripts/bench_netadapt.py rivals --cifar DIR|TAR --weights full.safetensors
    python scripts/bench_netadapt.py rank --cifar DIR|TAR --weights full.safetensors --csv TRUTH.csv
    python scripts/bench_netadapt.py report --csv TRUTH.csv

`table` times every layer of the 4^7 networks on this CPU. `train` trains the full network on CIFAR-10. `cells` shrinks
it to 0.7, 0.5 and 0.35 of its ms, channels kept to quarters, and appends a line a cell to --cells, on a GPU where there
is one; `--part i/n` does every n-th cell, so that several processes share a device; a cell that --cells has is not made
again. `rivals` adds the choice of Torch-Pruning, where it is installed (`pip install torch-pruning`), its ratio
bisected to the same ms. `rank` orders 40 cuts of equal ms at one or two sites as a step of single cuts does, by what is
lost to the layers that read them; fine-tunes them, and orders them by the paired loss beside the uncut network, and by
the paper's change of accuracy; and compares these with their true accuracy (Kendall's tau), beside what one training
from scratch reaches and orders that need no weights, in results/netadapt-rank.json. With --plain the layers that read
what is cut do not make up for it first; --start, --sites and --share give other cuts than the judged ones. `report`
looks up the true accuracy of what is left, beside random settings of equal ms, uniform widths and the best (accuracies
denoised by a pairwise ridge), and writes results/netadapt.json.
TRUTH.csv is channel_bench_macro_mobilenet.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import platform
import subprocess
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import combinations, product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from json_lines import append, lines_of
from numpy.typing import NDArray
from scipy.stats import kendalltau
from torch import Tensor
from torch.nn import functional

from mbv3.data import ImageSet, load_class_folder, make_batch, split
from mbv3.events import result
from mbv3.latency import BuildPlan, LatencyTable, build_table, open_runtime
from mbv3.netadapt import (
    IMPORTANCES,
    Importance,
    Scored,
    Scores,
    Start,
    Tried,
    largest,
    maker_of,
    menus,
    paired,
    site_scores,
    solve,
)
from mbv3.nn import MEAN, STD, build, channel_sets, cut_state
from mbv3.spec import ArchSpec, Classify, Conv, MBConv, Site, all_sites, channels, cut_many, lower
from mbv3.stages import FineTune, Images, Joint, Memory, Read, Tuner, Worth, default_device, shrink
from mbv3.tables import Latency, reference_at
from mbv3.training import load_checkpoint, read_weights, save_checkpoint, save_weights

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
TABLE, CELLS, OUT = (RESULTS / f"netadapt{name}" for name in ("-table.csv", "-cells.jsonl", ".json"))
SHARES = (0.5, 0.35, 0.7)
HELD_OUT = (0.1, 5000, 0)  # of the training images: share, at most, seed
WINDOW = 0.97  # settings of equal ms: from this share of the limit to the limit
FULL = ArchSpec(
    name="channel-bench-macro",
    resolution=(32, 32),
    stem=Conv(k=3, out=128, nl="RE", s=2),
    rows=(
        MBConv(k=3, exp=768, out=128, nl="RE", skip="identity"),
        MBConv(k=3, exp=768, out=128, nl="RE", skip="identity"),
        MBConv(k=3, exp=768, out=256, nl="RE", s=2),
        MBConv(k=3, exp=1536, out=256, nl="RE", skip="identity"),
    ),
    tail=Conv(k=1, out=1024, nl="RE"),
    head=Classify(features=0, classes=10, dropout=0.0),
)
_AT = {("bottleneck", -1): 0, ("expansion", 0): 1, ("expansion", 1): 2, ("expansion", 2): 3, ("bottleneck", 2): 4,
       ("expansion", 3): 5, ("tail", 4): 6}  # fmt: skip
SITES: list[Site] = sorted(all_sites(FULL), key=lambda s: _AT[s.kind, s.first])  # in the order of the bench's digits
Setting = tuple[int, ...]  # quarters, 1 to 4, one a site
EVERY: list[Setting] = list(product((1, 2, 3, 4), repeat=len(SITES)))


def network(setting: Sequence[int]) -> ArchSpec:
    spec = cut_many(FULL, {s: channels(FULL, s) * q // 4 for s, q in zip(SITES, setting, strict=True)})
    assert spec is not None
    return spec


def quarters(spec: ArchSpec) -> str:
    return "".join(str(4 * channels(spec, s) // channels(FULL, s)) for s in SITES)


def grid(site: Site) -> list[int]:
    return [channels(FULL, site) * q // 4 for q in (1, 2, 3, 4)]


# ---- table ---------------------------------------------------------------------------------------------------


def make_table(args: argparse.Namespace) -> None:
    keys = dict.fromkeys(layer.key for s in EVERY for layer in lower(network(s)))
    rng = np.random.default_rng(0)
    drawn = [EVERY[i] for i in rng.permutation(len(EVERY))[:16]]
    plan = BuildPlan(
        keys=tuple(keys),
        calibration=tuple(("".join(map(str, s)), network(s)) for s in [(4,) * 7, (1,) * 7, (2,) * 7, *drawn]),
        reference=reference_at(1.0, (224, 224)),
        about={"space": "channel-bench-macro", "space_id": "0" * 8, "width": 1.0, "resolution": 32,
               "reference": "mobilenet_v3_large"},
    )  # fmt: skip
    table = result(build_table(open_runtime(args.runtime, 1), plan, args.out, minutes=args.minutes))
    print(len(table.layers), "layers;", table.latency_ms(FULL), "ms;", table.report)


# ---- images and the full network -----------------------------------------------------------------------------


def cifar(where: Path, cache: Path) -> tuple[ImageSet, ImageSet]:
    """(train, test), decoded once into .npy files under `cache`."""
    cache.mkdir(parents=True, exist_ok=True)
    sets = []
    for part in ("train", "test"):
        files = [cache / f"cifar-{part}-{what}.npy" for what in ("x", "y")]
        if not all(f.exists() for f in files):
            folder = where
            if where.is_file():
                folder = cache / "cifar10"
                if not folder.exists():
                    with tarfile.open(where) as tar:
                        tar.extractall(folder, filter="data")
            found = load_class_folder(folder / part, (32, 32), seed=0)
            np.save(files[0], np.asarray(found.images[np.arange(len(found))]))
            np.save(files[1], found.labels)
        x, y = (np.load(f) for f in files)
        sets.append(ImageSet(x, y, tuple(map(str, range(10))), ""))
    return sets[0], sets[1]


def shifted(x: Tensor, g: torch.Generator) -> Tensor:
    """Images (N, 3, 32, 32) padded by 4, cropped and flipped at random, on their own device."""
    n, _, h, w = x.shape
    padded = functional.pad(x, (4, 4, 4, 4), mode="reflect")
    dy, dx = (torch.randint(0, 9, (n, 1), generator=g, device=x.device) for _ in range(2))
    flip = torch.rand((n, 1), generator=g, device=x.device) < 0.5
    columns = torch.arange(w, device=x.device).expand(n, w)
    columns = torch.where(flip, w - 1 - columns, columns) + dx
    rows = torch.arange(h, device=x.device).expand(n, h) + dy
    at = torch.arange(n, device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[at, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def pixels(data: ImageSet, device: torch.device) -> Tensor:
    """Images (N, 3, 32, 32), 8 bit."""
    return torch.from_numpy(np.ascontiguousarray(np.asarray(data.images).transpose(0, 3, 1, 2))).to(device)


def sides(plan: Sequence[str], per_epoch: int) -> list[int]:
    """The side of the images in every step, of SIDE:EPOCHS."""
    parts = [part.split(":") for part in plan]
    return [int(side) for side, epochs in parts for _ in range(round(float(epochs) * per_epoch))]


def train(args: argparse.Namespace) -> None:
    """SGD with Nesterov momentum, a warm-up and a line to zero; small images first, where --plan says so. A step's
    batch and augmentation depend on its number alone, so that a run goes on where it stopped. The images that cuts are
    judged on are not learned from."""
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) * 255 for v in (MEAN, STD))
    every, test = cifar(args.cifar, args.cache)
    data, _ = split(every, *HELD_OUT)
    x, y, xt, yt = (t for d in (data, test) for t in (pixels(d, device), torch.from_numpy(d.labels).to(device)))
    net = build(FULL, 0).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    weights = [p for p in net.parameters() if p.dim() > 1]
    rest = [p for p in net.parameters() if p.dim() <= 1]
    groups = [{"params": weights, "weight_decay": 5e-4}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=args.lr, momentum=0.9, nesterov=True)
    per_epoch = len(x) // args.batch
    plan = sides(args.plan, per_epoch)
    checkpoint = args.weights.with_suffix(".checkpoint")
    found, done = load_checkpoint(checkpoint), 0
    if found is not None:
        net.load_state_dict(found[0]["net"])
        for i, p in enumerate((*weights, *rest)):
            optimizer.state[p]["momentum_buffer"] = found[0]["momentum"][str(i)].to(device)
        done = int(found[1]["step"])
    net.train()
    began = time.process_time()
    for step in range(done, len(plan)):
        g = torch.Generator(device).manual_seed(step // per_epoch)
        order = torch.randperm(len(x), generator=g, device=device)
        index = order[step % per_epoch * args.batch :][: args.batch]
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min((step + 1) / (0.1 * len(plan)), (len(plan) - step) / (0.9 * len(plan)))
        images = shifted(x[index], torch.Generator(device).manual_seed(step))
        images = (functional.interpolate(images.float(), (plan[step],) * 2, mode="area") - mean) / std
        with torch.autocast(device.type, torch.bfloat16):
            out = net(images.contiguous(memory_format=torch.channels_last))
        loss = functional.cross_entropy(out.float(), y[index], label_smoothing=0.1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if (step + 1) % 100 == 0:
            momentum = {str(i): optimizer.state[p]["momentum_buffer"] for i, p in enumerate((*weights, *rest))}
            save_checkpoint(checkpoint, {"net": net.state_dict(), "momentum": momentum}, {"step": step + 1})
            spent = time.process_time() - began
            print(f"step {step + 1} of {len(plan)}, loss {loss.item():.3f}, {spent:.0f} CPU s", flush=True)
    net.eval()
    right = 0
    with torch.inference_mode():
        for i in range(0, len(xt), 1000):
            right += int((net((xt[i : i + 1000].float() - mean) / std).argmax(1) == yt[i : i + 1000]).sum())
    save_weights(args.weights, {k: v.cpu() for k, v in net.state_dict().items()})
    print(f"{100 * right / len(xt):.2f} % of {len(xt)} test images; plan {' '.join(args.plan)}, {len(plan)} steps")


# ---- cells ---------------------------------------------------------------------------------------------------


def every_cell(args: argparse.Namespace) -> list[dict[str, Any]]:
    return [
        {"share": share, "importance": importance, "worth": worth, "rounds": rounds, "seed": seed}
        for seed in range(args.seeds)
        for rounds in args.rounds
        for worth in args.worths
        for importance in args.importances
        for share in SHARES
    ]


def make_cells(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    part, of = map(int, args.part.split("/"))
    done = [line["cell"] for line in lines_of(args.cells)]
    data, _ = cifar(args.cifar, args.cache)
    images = Images(*split(data, *HELD_OUT), (32, 32))
    latency = Latency(LatencyTable.load(args.table))
    full_ms, state = latency([FULL])[0], read_weights(args.weights)

    @cache
    def scores_of(seed: int, importance: Importance) -> Scores:
        return Tuner(images, seed).channels(FULL, state, importance)

    @cache
    def shares_of(seed: int, importance: Importance) -> dict[Site, NDArray[np.float64]]:
        return Tuner(images, seed).explained(FULL, state, scores_of(seed, importance))

    for cell in every_cell(args)[part::of]:
        if cell in done:
            continue
        began = time.monotonic()
        limit = cell["share"] * full_ms
        if cell["rounds"] == 0:  # no fine-tuning: the scores of the full network decide
            tuner = Tuner(images, cell["seed"])
            scores = scores_of(cell["seed"], cell["importance"])
            by_shares = cell["worth"] == "explained"
            every = shares_of(cell["seed"], cell["importance"]) if by_shares else site_scores(FULL, scores)
            table = menus(FULL, every, allowed=grid)
            if cell["worth"] == "losses":
                table = tuner.losses(FULL, state, scores, table)
            spec, accuracy = solve(FULL, table, latency, limit).spec, None
        else:
            by = Joint(importance=cell["importance"], worth=cell["worth"], rounds=cell["rounds"], allowed=grid)
            found = result(
                shrink(
                    FULL, latency, images, limit, weights=state, steps=args.steps, seed=cell["seed"], keep=Memory(),
                    engine=by,
                )
            )  # fmt: skip
            spec, accuracy = replace(found.spec, provenance=()), found.accuracy
        line = {
            "cell": cell, "steps": args.steps if cell["rounds"] else 0, "widths": quarters(spec),
            "ms": round(latency([spec])[0], 5), "held_out": accuracy, "s": round(time.monotonic() - began, 1),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor(),
        }  # fmt: skip
        append(args.cells, line)


# ---- Torch-Pruning -------------------------------------------------------------------------------------------


class Plain(torch.nn.Module):
    """The network with nothing but module calls, as Torch-Pruning traces them."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.net = build(FULL, 0)
        self.net.load_state_dict(state)

    def forward(self, x: Tensor) -> Tensor:
        x = self.net.stem(x)
        for row in self.net.rows:
            x = row(x)
        assert self.net.tail is not None
        answer: Tensor = self.net.head.get_submodule("classifier")(self.net.tail(x).mean((2, 3)))
        return answer

    def quarters(self) -> Setting:
        """The widths left, to the nearest quarter."""
        sets = channel_sets(FULL)
        left = [self.net.get_submodule(maker_of(sets, FULL, s)).out_channels for s in SITES]
        return tuple(min(4, max(1, round(4 * int(n) / channels(FULL, s)))) for n, s in zip(left, SITES, strict=True))


def make_rivals(args: argparse.Namespace) -> None:
    """Torch-Pruning's choice of widths, global over layers, its ratio bisected to the limit."""
    import torch_pruning as tp

    data, _ = cifar(args.cifar, args.cache)
    latency, state = Latency(LatencyTable.load(args.table)), read_weights(args.weights)
    pick = np.random.default_rng(0).permutation(len(data))[:256]  # what its backward pass holds grows with it
    x, y = make_batch(data, pick, 32)
    full_ms = latency([FULL])[0]

    whole = Plain(state).eval()
    functional.cross_entropy(whole(x), y).backward()  # type: ignore[no-untyped-call]

    def pruned(importance: str, ratio: float) -> Setting:
        net = Plain(state).eval()
        for mine, known in zip(net.parameters(), whole.parameters(), strict=True):
            mine.grad = known.grad
        criterion = {
            "tp-l2": tp.importance.GroupMagnitudeImportance(p=2),
            "tp-taylor": tp.importance.GroupTaylorImportance(),
        }
        tp.pruner.BasePruner(
            net, x[:1], importance=criterion[importance], global_pruning=True, pruning_ratio=ratio,
            max_pruning_ratio=0.75, ignored_layers=[net.net.head.get_submodule("classifier")],
        ).step()  # fmt: skip
        return net.quarters()

    for share in SHARES:
        for importance in ("tp-l2", "tp-taylor"):
            low, high = 0.0, 0.75
            found = (1,) * len(SITES)
            for _ in range(8):
                ratio = (low + high) / 2
                setting = pruned(importance, ratio)
                if latency([network(setting)])[0] <= share * full_ms:
                    found, high = setting, ratio
                else:
                    low = ratio
            spec = network(found)
            cell = {"share": share, "importance": importance, "worth": "scores", "rounds": 0, "seed": 0}
            line = {"cell": cell, "steps": 0, "widths": quarters(spec), "ms": round(latency([spec])[0], 5),
                    "held_out": None, "version": tp.__version__}  # fmt: skip
            append(args.cells, line)


# ---- a step's ranking ----------------------------------------------------------------------------------------


def equal_cuts(latency: Latency, start: Setting, count: int, sites: int, share: float | None) -> list[Setting]:
    """Settings under `start` at one to `sites` sites that take nearly equal ms: the `count` nearest to their common
    median within a window that holds as many, or to a `share` of the start's ms."""
    few = [
        s
        for s in EVERY
        if all(q <= most for q, most in zip(s, start, strict=True))
        and 1 <= sum(q < most for q, most in zip(s, start, strict=True)) <= sites
    ]
    ms = np.array(latency([network(s) for s in few]))
    order = np.argsort(ms)
    if share is not None:
        order = order[np.argsort(np.abs(ms[order] - share * latency([network(start)])[0]), kind="stable")[:count]]
        return [few[i] for i in sorted(order)]
    starts = np.arange(len(few) - count + 1)
    best = int(np.argmin([ms[order[i + count - 1]] / ms[order[i]] for i in starts]))
    return [few[i] for i in sorted(order[best : best + count])]


def narrowed(images: Images, state: dict[str, Tensor], setting: Setting, steps: int) -> dict[str, Tensor]:
    """Weights of a narrower network, cut from the full one and fine-tuned."""
    if setting == EVERY[-1]:
        return state
    tuner, spec = Tuner(images, 0), network(setting)
    cut = cut_state(state, FULL, spec, tuner.channels(FULL, state, "taylor"))
    return result(tuner.tune(spec, tuner.recalibrated(spec, cut), tuner.recipe(spec, steps), Memory()))


def make_rank(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    data, _ = cifar(args.cifar, args.cache)
    images = Images(*split(data, *HELD_OUT), (32, 32))
    latency = Latency(LatencyTable.load(args.table))
    done = lines_of(args.ranks)
    about = {"start": args.start, "sites": args.sites, "share": args.share, "seed": args.seed}
    if not args.lost_only:
        about |= {"steps": args.steps, "mended": not args.plain}
    setting = tuple(map(int, args.start))
    spec, state = network(setting), narrowed(images, read_weights(args.weights), setting, args.start_steps)
    start_ms = latency([spec])[0]
    tune, read = FineTune(images, args.steps, args.seed), Read(images)
    begin = Start(0, spec, state, Scored(start_ms, math.nan, math.nan))
    before = next((x["before"] for x in done if x["about"] == about and "before" in x), None)
    control: Tried | None = None
    for cut in equal_cuts(latency, setting, args.count, args.sites, args.share):
        name = "".join(map(str, cut))
        if any(x["about"] == about and x["widths"] == name for x in done):
            continue
        smaller = network(cut)
        ms = latency([smaller])[0]
        line = {"about": about, "widths": name, "ms_share": round(ms / start_ms, 4), "saved_ms": start_ms - ms,
                "lost": read.lost(begin, smaller)}  # fmt: skip
        if not args.lost_only:
            if control is None:
                control = tune(spec, state, 1, args.steps)
                before = before or tune(spec, state, 1, 0).accuracy
            tried = tune(smaller, (largest if args.plain else read.mended)(begin, smaller), 1, args.steps)
            found = paired(tried, control, start_ms - ms)
            line |= {"per_ms": found.per_ms, "error": found.error, "accuracy": tried.accuracy, "before": before,
                     "control": control.accuracy, "n": len(tried.losses)}  # fmt: skip
        append(args.ranks, line)
    show_rank(args)


@dataclass(frozen=True)
class Truth:
    """What Channel-Bench-Macro knows of every setting, in the order of EVERY."""

    accuracy: NDArray[np.float64]  # (settings, trainings)
    parameters: NDArray[np.float64]
    work: NDArray[np.float64]  # multiply-adds

    @property
    def smooth(self) -> NDArray[np.float64]:
        """Denoised."""
        return pairwise(np.array(EVERY), self.accuracy.mean(1))

    @staticmethod
    def load(file: Path) -> Truth:
        with file.open() as f:
            rows = {row["widths"]: row for row in csv.DictReader(f)}
        mine = [rows["".join(map(str, s))] for s in EVERY]
        columns = {c: np.array([float(r[c]) for r in mine]) for c in ("acc1", "acc2", "acc3", "params", "flops")}
        accuracy = np.stack([columns[c] for c in ("acc1", "acc2", "acc3")], 1)
        return Truth(accuracy, columns["params"], columns["flops"])


def tau(score: Sequence[float] | NDArray[np.float64], true: NDArray[np.float64]) -> float:
    return round(float(kendalltau(score, true).statistic), 3)


def ceiling(truth: Truth, index: NDArray[np.int64]) -> dict[str, Any]:
    """Tau that one training from scratch of each setting reaches, against the accuracy denoised without that training;
    its standard error, and the same for the mean of three trainings, by trainings drawn around the denoised ones."""
    noise = float((truth.accuracy.var(1, ddof=1).mean()) ** 0.5)
    smooth = truth.smooth[index]
    runs = range(truth.accuracy.shape[1])
    alone = [
        tau(truth.accuracy[index, i], pairwise(np.array(EVERY), np.delete(truth.accuracy, i, 1).mean(1))[index])
        for i in runs
    ]
    rng = np.random.default_rng(0)
    drawn = {n: [tau(smooth + rng.normal(0, noise / n**0.5, len(index)), smooth) for _ in range(1000)] for n in (1, 3)}
    return {
        "one_training": alone, "one_training_mean": round(float(np.mean(alone)), 3), "training_sd": round(noise, 3),
        "drawn_one": round(float(np.mean(drawn[1])), 3), "drawn_one_se": round(float(np.std(drawn[1])), 3),
        "drawn_three": round(float(np.mean(drawn[3])), 3), "drawn_three_se": round(float(np.std(drawn[3])), 3),
        "truth_sd": round(float(smooth.std()), 3), "truth_span": round(float(np.ptp(smooth)), 3),
    }  # fmt: skip


def trivial(truth: Truth, settings: Sequence[Setting], start: Setting) -> dict[str, list[float]]:
    """Rankings that need no weights; higher is better."""
    index = [EVERY.index(s) for s in settings]
    kept = np.array(settings) / np.array(start)
    cut = kept < 1
    return {
        "parameters kept": list(truth.parameters[index]),
        "multiply-adds kept": list(truth.work[index]),
        "late sites first": [float(np.flatnonzero(c).mean()) for c in cut],
        "least share kept of a site": list(kept.min(1)),
        "sum of log shares": list(np.log(kept).sum(1)),
    }


def show_rank(args: argparse.Namespace) -> None:
    """Kendall's tau of the order by what is lost, by the loss with the control arm and by the paper's change of
    accuracy, with the true accuracies; beside it what a training from scratch of each cut reaches, and rankings that
    need no weights."""
    truth = Truth.load(args.csv)
    smooth = truth.smooth
    lines = [json.loads(line) for line in args.ranks.read_text().splitlines()]
    found = []
    for about in {json.dumps(x["about"]): x["about"] for x in lines}.values():
        mine = [x for x in lines if x["about"] == about]
        settings = [tuple(map(int, x["widths"])) for x in mine]
        start = tuple(map(int, about["start"]))
        index = np.array([EVERY.index(s) for s in settings])
        saved = np.array([x["saved_ms"] for x in mine])
        true = (smooth[index] - smooth[EVERY.index(start)]) / saved
        scores = {"by what is lost": [-x["lost"] / x["saved_ms"] for x in mine]}
        if all("per_ms" in x for x in mine):
            scores["by the loss, with the control arm"] = [-x["per_ms"] for x in mine]
            scores["by the change of accuracy, without"] = [(x["accuracy"] - x["before"]) / x["saved_ms"] for x in mine]
        entry = {
            "about": about, "cuts": len(mine), "ceiling": ceiling(truth, index),
            "tau": {name: tau(score, true) for name, score in scores.items()},
            "trivial": {name: tau(score, true) for name, score in trivial(truth, settings, start).items()},
        }  # fmt: skip
        found.append(entry)
        print(json.dumps(entry, indent=1))
    args.ranks.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")


# ---- report --------------------------------------------------------------------------------------------------


def pairwise(settings: NDArray[np.int64], accuracy: NDArray[np.float64], ridge: float = 3.0) -> NDArray[np.float64]:
    """Accuracies denoised: a ridge on one-hot digits and pairs of digits."""
    hot = np.eye(4)[settings - 1]  # (n, sites, 4)
    parts = [hot[:, i] for i in range(settings.shape[1])]
    parts += [(hot[:, i, :, None] * hot[:, j, None, :]).reshape(len(hot), -1)
              for i, j in combinations(range(settings.shape[1]), 2)]  # fmt: skip
    x = np.concatenate(parts, 1)
    centre = accuracy.mean()
    solved = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ (accuracy - centre))
    fitted: NDArray[np.float64] = x @ solved + centre
    return fitted


def make_report(args: argparse.Namespace) -> None:
    with args.csv.open() as f:
        truth = {row["widths"]: float(row["mean"]) for row in csv.DictReader(f)}
    names = ["".join(map(str, s)) for s in EVERY]
    settings = np.array(EVERY)
    raw = np.array([truth[n] for n in names])
    smooth = pairwise(settings, raw)
    latency = Latency(LatencyTable.load(args.table))
    ms = np.array(latency([network(s) for s in EVERY]))
    lines = lines_of(args.cells)
    at = {n: i for i, n in enumerate(names)}
    report: list[dict[str, Any]] = []
    for share in sorted(SHARES, reverse=True):
        limit = share * ms.max()
        equal = (ms <= limit) & (ms >= WINDOW * limit)
        spread = settings.max(1) - settings.min(1)
        alike = equal & (spread <= 1)
        random, best = smooth[equal].mean(), smooth[equal].max()

        def gain(accuracy: float, random: float = random, best: float = best) -> float:
            return round((accuracy - random) / (best - random), 3)

        entry: dict[str, Any] = {
            "share": share, "limit_ms": round(limit, 4), "settings": int(equal.sum()), "random": round(random, 3),
            "random_sd": round(smooth[equal].std(), 3), "best": round(best, 3),
            "best_widths": names[int(np.argmax(np.where(equal, smooth, -np.inf)))],
            "uniform": round(smooth[alike].mean(), 3), "uniform_n": int(alike.sum()),
            "uniform_gain": gain(smooth[alike].mean()), "cells": [],
        }  # fmt: skip
        for line in lines:
            if line["cell"]["share"] == share:
                i = at[line["widths"]]
                entry["cells"].append(
                    {**line["cell"], "widths": line["widths"], "ms_share": round(ms[i] / limit, 4),
                     "accuracy": round(smooth[i], 3), "measured": raw[i], "gain": gain(smooth[i])}
                )  # fmt: skip
        report.append(entry)
        print({k: v for k, v in entry.items() if k != "cells"})
        for c in entry["cells"]:
            print("  ", c)
    slower = sum(ms[at[line["widths"]]] > ms.max() for line in lines)
    print(f"{slower} of {len(lines)} cells take longer than the uncut network")
    git = partial(subprocess.run, capture_output=True, text=True, cwd=ROOT)
    about = {"commit": git(["git", "rev-parse", "HEAD"]).stdout.strip(), "table": latency.table.fingerprint.as_dict()}
    args.out.write_text(json.dumps({"about": about, "targets": report}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    p = verbs.add_parser("table")
    p.add_argument("--out", type=Path, default=TABLE)
    p.add_argument("--runtime", default="onnxruntime")
    p.add_argument("--minutes", type=float, default=3.0)
    p.set_defaults(run=make_table)
    for name, run in (("train", train), ("cells", make_cells), ("rivals", make_rivals)):
        p = verbs.add_parser(name)
        p.add_argument("--cifar", type=Path, required=True, help="folder with train/ and test/, or a tar of it")
        p.add_argument("--cache", type=Path, default=Path("cifar-cache"))
        p.add_argument("--weights", type=Path, required=True)
        p.add_argument(
            "--device", default=default_device().type, help="of `train`; the rest takes the GPU that is there"
        )
        p.set_defaults(run=run)
        if name == "train":
            p.add_argument("--plan", nargs="+", default=["32:60"], help="SIDE:EPOCHS in turn, as 16:4 24:1 32:0.5")
            p.add_argument("--threads", type=int, default=1)
            p.add_argument("--batch", type=int, default=128)
            p.add_argument("--lr", type=float, default=0.1)
            continue
        p.add_argument("--table", type=Path, default=TABLE)
        p.add_argument("--cells", type=Path, default=CELLS)
        if name == "cells":
            p.add_argument("--part", default="0/1")
            p.add_argument("--steps", type=int, default=1200)
            p.add_argument("--seeds", type=int, default=3)
            p.add_argument("--rounds", type=int, nargs="+", default=[2, 1, 0])
            p.add_argument("--importances", nargs="+", default=["taylor"], choices=IMPORTANCES)
            p.add_argument("--worths", nargs="+", default=["explained"], choices=get_args(Worth))
            p.add_argument("--threads", type=int, default=1)
    p = verbs.add_parser("rank")
    p.add_argument("--cifar", type=Path, required=True, help="folder with train/ and test/, or a tar of it")
    p.add_argument("--cache", type=Path, default=Path("cifar-cache"))
    p.add_argument("--weights", type=Path, required=True)
    p.add_argument("--csv", type=Path, required=True)
    p.add_argument("--table", type=Path, default=TABLE)
    p.add_argument("--ranks", type=Path, default=RESULTS / "netadapt-rank.jsonl")
    p.add_argument("--count", type=int, default=40)
    p.add_argument("--steps", type=int, default=4)
    p.add_argument("--plain", action="store_true", help="layers do not make up for the channels that go")
    p.add_argument("--lost-only", action="store_true", help="no fine-tuning of the cuts")
    p.add_argument("--start", default="4" * len(SITES), help="quarters of the widths that are cut from")
    p.add_argument("--start-steps", type=int, default=200, help="of fine-tuning a narrower start")
    p.add_argument("--sites", type=int, default=2, help="at most, of a cut")
    p.add_argument("--share", type=float, help="of the start's ms, by default where most cuts are alike")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, default=1)
    p.set_defaults(run=make_rank)
    p = verbs.add_parser("report")
    p.add_argument("--csv", type=Path, required=True)
    p.add_argument("--table", type=Path, default=TABLE)
    p.add_argument("--cells", type=Path, default=CELLS)
    p.add_argument("--out", type=Path, default=OUT)
    p.set_defaults(run=make_report)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
