"""How shared weights rank spaces whose every network was trained: NAS-Bench-Macro (Su 2021, arXiv:2103.11922), and with
--bench channel Channel-Bench-Macro, width settings of one network.

    python scripts/bench_supernet.py run --cifar DIR --csv TRUTH.csv --work DIR --minutes 20 --ingredients fair3
    python scripts/bench_supernet.py known --csv TRUTH.csv

    python scripts/bench_supernet.py search --cifar DIR --csv TRUTH.csv --work DIR --minutes 20 --ingredients product
    python scripts/bench_supernet.py noise --csv TRUTH.csv

DIR/{train,test}/<class>/*: CIFAR-10. TRUTH.csv: nas_bench_macro_cifar10.csv, or
channel_bench_macro_mobilenet.csv. `run` trains shared weights on 45,000
training images at 32 px for so many minutes of this process's own time, on one thread where OMP_NUM_THREADS is 1, by
the product's own training. At a quarter, a half and the end of the minutes it scores networks by their cross-entropy on
images that were held out of the training images: 500 drawn of the space, and 300 drawn of those whose multiply-adds are
within 5 % of the median (there is no table of a device: the benchmark gives multiply-adds). Kendall's tau with the true
accuracy, its interval by 1,000 bootstraps over networks, with batch norms of the scored images and with those that the
training left, beside multiply-adds, parameters and the number of layers, are appended to --out. What is interrupted
goes on from its last twentieth. `known` gives what ranks without any training. `--device cuda` takes a GPU; then the
minutes are those of the clock.

`search` takes the weights of a finished `run`, scores every network of NAS-Bench-Macro on 64 held-out images, and
searches by these scores as the product does, with 60 scores, at three targets in ms on a Pixel 1 (predicted; a fifth,
a half and four fifths of the networks are within). The true accuracy of what 10 seeds return is written beside that of
the best network within the target, of 60 random ones by the same scores, of what the ImageNet model takes, and of the
network with most multiply-adds.

`noise` simulates 300 searches whose 240 scores are top-1 on 1,000 images, and writes how far what is chosen is behind
the best network, and its score above the truth: by the best score, and by scoring the best again on other images as the
product does (results/supernet-noise.json). The same for 60 searches (evolution) on a complete space, whose true
accuracies have such noise. Top-1 stands for the cross-entropy that the product asks.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from json_lines import append, short_commit
from numpy.typing import NDArray
from scipy.stats import kendalltau, norm
from torch import Tensor

from mbv3.data import ImageSet, load_class_folder, make_batch, split
from mbv3.events import Event, Note, result
from mbv3.nn import build
from mbv3.space import Genome, SearchSpace, load_space
from mbv3.spec import ArchSpec, Classify, Conv, MBConv, Skip
from mbv3.stages import FINALISTS, answered_best, imagenet_judge, search, smoothed, space_latency
from mbv3.supernet import (
    ManyAnswers,
    Norms,
    Paths,
    Supernet,
    many_answers,
    shared_fit,
    shared_paths,
    steps_within,
    train_shared,
)
from mbv3.tables import Latency, read_table
from mbv3.training import ClassAnswers, Epoch, Fit, load_checkpoint

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results" / "supernet.jsonl"
NOISE = ROOT / "results" / "supernet-noise.json"
KNOWN_BY, FRESH = 1000, 4000  # images of a score, and others that score the best again, as in the product
DRAWN, NEAR, WITHIN = 500, 300, 0.05
HELD, SCORED = 5000, 512  # images held out; those that score
EVERY = 64  # images that score every network for searches
TARGETS, TRIALS, SEEDS = (20, 50, 80), 60, 10  # of a search: percentiles of all ms, scores, and times that it is done
DEVICE = "pixel-1"
PARTS = 20  # of a training, after each of which it can go on

# what a training takes beside the plain single path by SGD: fields of Paths, of the supernet and of Fit
_PRODUCT, _PATHS = shared_fit(HELD, (32, 32)), shared_paths(96)
INGREDIENTS: dict[str, dict[str, Any]] = {
    "product": {  # as `mbv3-search --accuracy supernet` trains
        "paths": {f: getattr(_PATHS, f) for f in ("count", "fair", "small", "small_part")},
        "fit": {f: getattr(_PRODUCT, f) for f in ("batch", "optimizer", "lr", "weight_decay", "augment")},
    },
    "single": {"paths": {"count": 1}},
    "paths3": {"paths": {"count": 3}},
    "fair3": {"paths": {"count": 3, "fair": True}},
    "fair6": {"paths": {"count": 6, "fair": True}},
    "near": {"paths": {"near": 0.5}},  # half of the paths are within 5 % of the median multiply-adds
    "sliced": {"apart": False},
    "small": {"paths": {"small": 0.625, "small_part": 0.8}},
    "adamw": {"fit": {"optimizer": "adamw", "lr": 2e-3, "weight_decay": 0.02}},
    "lr.05": {"fit": {"lr": 0.05}},
    "lr.2": {"fit": {"lr": 0.2}},
    "plain-labels": {"fit": {"label_smoothing": 0.0}},
    "batch192": {"fit": {"batch": 192, "lr": 0.2}},
}


class Settings:
    """The width settings of Channel-Bench-Macro, as far as shared weights ask a space; its genes are quarters."""

    name, sizes = "channel-bench-macro", (4,) * 7

    def sample(self, rng: np.random.Generator, n: int) -> NDArray[np.int64]:
        return rng.integers(0, 4, size=(n, 7))

    def spec(self, genome: Genome) -> ArchSpec:
        quarters = [g + 1 for g in genome]
        a, b, tail = (full * quarters[i] // 4 for i, full in ((0, 128), (4, 256), (6, 1024)))
        e = [full * quarters[i] // 4 for i, full in ((1, 768), (2, 768), (3, 768), (5, 1536))]
        shapes: tuple[tuple[int, int, int, Skip], ...] = (
            (e[0], a, 1, "identity"), (e[1], a, 1, "identity"), (e[2], b, 2, "none"), (e[3], b, 1, "identity"),
        )  # fmt: skip
        return ArchSpec(
            name="widths", resolution=(32, 32), stem=Conv(k=3, out=a, nl="RE", s=2),
            rows=tuple(MBConv(k=3, exp=exp, out=out, se=0, nl="RE", s=s, skip=skip) for exp, out, s, skip in shapes),
            tail=Conv(k=1, out=tail, nl="RE"), head=Classify(features=0, nl="RE", dropout=0.0, classes=10),
        )  # fmt: skip


class SettingsNet(Supernet):
    """The largest of the settings, whose first channels are the others."""

    def __init__(self, seed: int) -> None:
        torch.nn.Module.__init__(self)
        self.space, self.apart = Settings(), False  # type: ignore[assignment]
        self.largest = self.space.spec((3,) * 7)
        self.net = build(self.largest, seed)

    def rows_of(self, genome: Genome) -> list[int]:
        return [0, 1, 2, 3]


def space_of(bench: str) -> SearchSpace | Settings:
    return load_space("nas-bench-macro") if bench == "macro" else Settings()


@dataclass(frozen=True)
class Truth:
    """Every network of a benchmark."""

    space: SearchSpace | Settings
    genomes: NDArray[np.int64]
    accuracy: NDArray[np.float64]
    madds: NDArray[np.float64]
    params: NDArray[np.float64]

    @classmethod
    def read(cls, bench: str, path: Path) -> Truth:
        with path.open(encoding="utf-8") as f:
            rows = list(csv.DictReader(f))
        macro = bench == "macro"
        names = ("mean_acc" if macro else "mean", "flops", "params")
        numbers = (np.array([float(r[name]) for r in rows]) for name in names)
        genomes = np.array([[int(c) for c in r["arch" if macro else "widths"]] for r in rows])
        return cls(space_of(bench), genomes - (not macro), *numbers)

    def take(self, index: NDArray[np.int64]) -> Truth:
        return Truth(self.space, self.genomes[index], self.accuracy[index], self.madds[index], self.params[index])

    def __len__(self) -> int:
        return len(self.accuracy)

    def of(self) -> list[Genome]:
        return [tuple(int(v) for v in g) for g in self.genomes]

    def known(self) -> dict[str, NDArray[np.float64]]:
        """What tells networks apart without any training."""
        known = {"madds": self.madds, "params": self.params}
        if isinstance(self.space, SearchSpace):
            known["layers"] = (self.genomes > 0).sum(1).astype(np.float64)  # identity is choice 0
            known["imagenet"] = imagenet_judge(self.space).accuracies(self.genomes)
        return known


def parts_of(truth: Truth) -> dict[str, Truth]:
    """The networks that are ranked: the same ones always."""
    rng = np.random.default_rng(0)
    return {
        "drawn": truth.take(rng.choice(len(truth), DRAWN, replace=False)),
        "near": truth.take(rng.choice(close(truth), NEAR, replace=False)),
    }


def close(truth: Truth) -> NDArray[np.int64]:
    """Numbers of the networks near one cost."""
    return np.flatnonzero(np.abs(truth.madds / np.median(truth.madds) - 1) <= WITHIN)


def tau(score: NDArray[np.float64], truth: NDArray[np.float64], times: int = 1000) -> dict[str, float]:
    """Kendall's tau, and its interval of 95 % by a bootstrap over networks."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(times):
        i = rng.integers(len(truth), size=len(truth))
        drawn.append(kendalltau(score[i], truth[i]).statistic)
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    values = kendalltau(score, truth).statistic, low, high
    return dict(zip(("tau", "low", "high"), (round(float(v), 4) for v in values), strict=True))


def images_of(cifar: Path, work: Path) -> ImageSet:
    """The training images of CIFAR-10, decoded once."""
    kept = work / "cifar10-train.npz"
    if not kept.exists():
        data = load_class_folder(cifar / "train", 32)
        np.savez(kept, images=np.asarray(data.images), labels=data.labels, classes=data.classes, sha256=data.sha256)
    with np.load(kept) as f:
        return ImageSet(f["images"], f["labels"], tuple(map(str, f["classes"])), str(f["sha256"]))


def batches_of(data: ImageSet, n: int) -> list[tuple[Tensor, Tensor]]:
    """The same held-out images every time, in batches of at most 256."""
    order = np.random.default_rng(0).permutation(len(data))[:n]
    return [make_batch(data, order[i : i + 256], 32) for i in range(0, n, 256)]


class Run:
    """One training of shared weights, its points and their scores."""

    def __init__(self, o: argparse.Namespace) -> None:
        every = Truth.read(o.bench, o.csv)
        self.o, self.truth, self.space = o, parts_of(every), every.space
        self.names = o.ingredients.split("+")
        chosen = [INGREDIENTS[name] for name in self.names]
        self.folder = o.work / f"{'' if o.bench == 'macro' else o.bench + '-'}{o.ingredients}-{o.minutes:g}-{o.seed}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.train, self.held = split(images_of(o.cifar, o.work), 1.0, HELD, 0)
        apart = all(c.get("apart", True) for c in chosen)
        shared = Supernet(self.space, o.seed, apart=apart) if o.bench == "macro" else SettingsNet(o.seed)  # type: ignore[arg-type]
        self.net = shared.to(o.device)
        merged = {k: v for c in chosen for k, v in c.get("fit", {}).items()}
        settings: dict[str, Any] = {"batch": 96, "lr": 0.1, "weight_decay": 5e-5, "augment": "shift", **merged}
        self.recipe = Fit(steps=1, size=(32, 32), seed=o.seed, **settings)
        pool = every.genomes[close(every)]
        self.paths = Paths(pool=pool, **{k: v for c in chosen for k, v in c.get("paths", {}).items()})
        self.clock = time.process_time if o.device == "cpu" else time.monotonic
        self.state = self.folder / "state.json"
        self.plan: dict[str, Any] = json.loads(self.state.read_text()) if self.state.exists() else self._planned()

    def _planned(self) -> dict[str, Any]:
        """Steps that take the minutes, by trial."""
        steps = steps_within(60 * self.o.minutes, self.net, self.train, self.recipe, self.paths, clock=self.clock)
        return {"steps": max(PARTS, round(steps)), "spent_s": 0.0, "lines": []}

    def _keep(self) -> None:
        self.state.write_text(json.dumps(self.plan))

    def __call__(self) -> Iterator[Event]:
        steps = self.plan["steps"]
        recipe = replace(self.recipe, steps=steps, epoch_steps=max(1, steps // PARTS))
        self._keep()
        self.began = self.clock()
        yield from train_shared(
            self.net, self.train, recipe, self.paths, checkpoint=self.folder / "supernet.safetensors",
            at_epoch=self._point, every_s=1e9,
        )  # fmt: skip

    def _point(self, e: Epoch) -> Iterator[Event]:
        self.plan["spent_s"] += self.clock() - self.began
        done = e.step / self.plan["steps"]
        part = round(done * PARTS)
        known = {line["done"] for line in self.plan["lines"]}
        if (part in (PARTS // 4, PARTS // 2) and part / PARTS not in known) or e.step == self.plan["steps"]:
            self.score(round(part / PARTS, 2), e.step == self.plan["steps"])
        self._keep()
        yield Note("training", f"{100 * done:.0f} %: {self.plan['spent_s'] / 60:.1f} min, loss {e.loss:.3f}")
        self.began = self.clock()

    def score(self, done: float, last: bool) -> None:
        """The line of one point."""
        began = self.clock()
        line: dict[str, Any] = {
            "bench": self.space.name, "ingredients": self.o.ingredients, "minutes": self.o.minutes, "done": done,
            "spent_min": round(self.plan["spent_s"] / 60, 2), "steps": round(done * self.plan["steps"]),
            "batch": self.recipe.batch, "seed": self.o.seed,
        }  # fmt: skip
        line |= self._taus("batch", 1 if last and not self.o.quick else 3)
        if last:
            line |= {f"{k}_without_recalibration": v for k, v in self._taus("running", 3).items()}
        line |= {"score_min": round((self.clock() - began) / 60, 2), **device_of(self.o.device)}
        self.plan["lines"].append(line)
        self.write(line)

    def write(self, line: dict[str, Any]) -> None:
        append(self.o.out, line)

    def _taus(self, norms: Norms, part: int) -> dict[str, Any]:
        """Tau by all networks on all images, or by a third of the networks on a quarter of the images."""
        few = {name: t if part == 1 else t.take(np.arange(len(t) // part)) for name, t in self.truth.items()}
        n = SCORED if part == 1 else SCORED // 4
        found = many_answers(self.net, [g for t in few.values() for g in t.of()], batches_of(self.held, n), norms)
        np.savez(self.folder / f"answers-{norms}.npz", loss=found.loss, right=found.right)
        return taus_of(few, found, norms == "batch")


Draw = Callable[[NDArray[np.float64], int], NDArray[np.bool_]]


def answered(rng: np.random.Generator, corr: float) -> Draw:
    """Whether networks of these true top-1 (n,) are right on so many images: (n, images). `corr`: of whether two
    networks are right on an image, as a normal variable behind it."""

    def draw(truth: NDArray[np.float64], images: int) -> NDArray[np.bool_]:
        hard, own = rng.normal(size=images), rng.normal(size=(len(truth), images))
        return np.asarray(np.sqrt(corr) * hard + np.sqrt(1 - corr) * own < norm.ppf(truth / 100)[:, None])

    return draw


def chosen(truth: NDArray[np.float64], order: NDArray[np.int64], draw: Draw) -> tuple[int, float]:
    """Of networks in the `order` of what the search knows the one that is taken, and its score."""
    best = order[:FINALISTS]
    right = draw(truth[best], FRESH)

    def answer(i: int, index: NDArray[np.int64]) -> ClassAnswers:
        return ClassAnswers((~right[i, index]).astype(np.float64), right[i, index])

    i, given = result(answered_best(len(best), FRESH, answer))
    return int(best[i]), given[i].score


def means(rows: list[tuple[float, float]]) -> dict[str, dict[str, float]]:
    """Of (regret, optimism), in turn of the best score and of the one that is taken."""
    both = np.array(rows).reshape(-1, 2, 2).mean(0).round(3).tolist()
    return {
        name: {"regret": r, "optimism": o} for name, (r, o) in zip(("best score", "scored again"), both, strict=True)
    }


def noise(corr: float = 0.5, deviation: float = 1.0, searches: int = 300) -> dict[str, Any]:
    """Regret and optimism in points of top-1 of both rules, where nothing is known of a network but its own score.
    `deviation`: of the true top-1 of 240 networks, around 60 %."""
    rng = np.random.default_rng(1)
    draw, rows = answered(rng, corr), []
    for _ in range(searches):
        truth = rng.normal(60, deviation, 240)
        scores = 100 * draw(truth, KNOWN_BY).mean(1)
        i, said = chosen(truth, np.argsort(-scores), draw)
        best = int(np.argmax(scores))
        rows += [(truth.max() - truth[best], scores[best] - truth[best]), (truth.max() - truth[i], said - truth[i])]
    return {"searches": searches, "corr": corr, "deviation": deviation, "points": means(rows)}


def noise_on(bench: str, csv: Path, corr: float = 0.5, searches: int = 20) -> dict[str, Any]:
    """The same where a search draws the networks: those of a complete space, their true accuracies shifted to 60 %,
    within three limits of ms. The scores are smoothed first, as a run does."""
    every = Truth.read(bench, csv)
    space, genomes = every.space, every.of()
    assert isinstance(space, SearchSpace)
    cost = space_latency(space, Latency(read_table(DEVICE, "onnxruntime", 1, False)[0]))
    ms, number = cost.many(every.genomes), {g: i for i, g in enumerate(genomes)}
    truth = np.clip(every.accuracy - every.accuracy.mean() + 60, 1, 99)
    rng, rows = np.random.default_rng(1), []
    draw = answered(rng, corr)
    for target in np.percentile(ms, TARGETS):
        top = truth[ms <= target].max()
        for seed in range(searches):
            scores = 100 * draw(truth, KNOWN_BY).mean(1)
            judge = Known(dict(zip(genomes, scores.tolist(), strict=True)))
            trials = result(search(space, judge, cost, target, sampler="evolution", trials=240, seed=seed))
            index = np.array([number[t.genome] for t in trials])
            even = smoothed(every.genomes[index], space.sizes, scores[index])
            i, said = chosen(truth[index], np.argsort(-even), draw)
            best, mine = index[np.argmax(scores[index])], index[i]
            rows += [(top - truth[best], scores[best] - truth[best]), (top - truth[mine], said - truth[mine])]
    return {"bench": bench, "searches": searches * len(TARGETS), "corr": corr, "points": means(rows)}


def taus_of(few: dict[str, Truth], found: ManyAnswers, known: bool) -> dict[str, Any]:
    """Tau on every set of networks, by their loss, by top-1, by a ridge through the losses of all, and by half of each
    and of what is known without training."""
    loss, right = -found.loss.mean(1), found.right.mean(1)
    genomes = np.concatenate([t.genomes for t in few.values()])
    ridge = smoothed(genomes, next(iter(few.values())).space.sizes, loss)
    out: dict[str, Any] = {"images": found.loss.shape[1], "top1": round(100 * float(right.mean()), 2)}
    first = 0
    for name, t in few.items():
        at = slice(first, first := first + len(t))
        out |= {name: {"n": len(t), **tau(loss[at], t.accuracy)}, f"{name}_by_top1": tau(right[at], t.accuracy)}
        out[f"{name}_by_ridge"] = tau(ridge[at], t.accuracy)
        if known:
            without = t.known()
            out[f"{name}_known"] = {k: tau(v, t.accuracy, 1)["tau"] for k, v in without.items()}
            both = {k: standard(ridge[at]) + standard(v) for k, v in without.items()}
            out[f"{name}_ridge_and"] = {k: tau(v, t.accuracy, 1)["tau"] for k, v in both.items()}
    return out


def standard(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((values - values.mean()) / values.std())


def again(o: argparse.Namespace) -> None:
    """The last line of a finished training once more, from the answers that it kept."""
    run = Run(o)
    line = run.plan["lines"][-1]
    for norms in ("running", "batch"):
        with np.load(run.folder / f"answers-{norms}.npz") as f:
            found = ManyAnswers(f["loss"], f["right"])
        whole = len(found.loss) == DRAWN + NEAR
        few = {name: t if whole else t.take(np.arange(len(t) // 3)) for name, t in run.truth.items()}
        end = "" if norms == "batch" else "_without_recalibration"
        line |= {f"{k}{end}": v for k, v in taus_of(few, found, norms == "batch").items()}
    run.write(line)


@dataclass(frozen=True)
class Known:
    """A judge that has scored every network already."""

    scores: dict[Genome, float]
    kind: str = "supernet"
    note: str = ""
    accuracies: None = None

    def accuracy(self, genome: Genome) -> float:
        return self.scores[genome]

    def weights(self, genome: Genome) -> None:
        return None


def searched(o: argparse.Namespace) -> None:
    """The true accuracy of what a search returns with the shared weights of a finished run, and of what it could."""
    run, every = Run(o), Truth.read(o.bench, o.csv)
    space, genomes = every.space, every.of()
    assert isinstance(space, SearchSpace) and run.plan["lines"][-1]["done"] == 1
    found = load_checkpoint(run.folder / "supernet.safetensors")
    assert found is not None
    run.net.load_state_dict(found[0]["net"])
    kept, began = run.folder / "every.npz", run.clock()
    if not kept.exists():
        loss = many_answers(run.net, genomes, batches_of(run.held, EVERY), "batch").loss.mean(1)
        np.savez(kept, loss=loss, minutes=(run.clock() - began) / 60)
    with np.load(kept) as f:
        score, minutes = 100 * np.exp(-f["loss"].astype(np.float64)), float(f["minutes"])
    judge = Known(dict(zip(genomes, score.tolist(), strict=True)))
    cost = space_latency(space, Latency(read_table(DEVICE, "onnxruntime", 1, False)[0]))
    ms, imagenet = cost.many(every.genomes), imagenet_judge(space).accuracies(every.genomes)
    number = {g: i for i, g in enumerate(genomes)}
    rows = []
    for target in np.percentile(ms, TARGETS):
        within = np.flatnonzero(ms <= target)
        mine, drawn = [], []
        for seed in range(SEEDS):
            rng = np.random.default_rng((seed, 3))
            trials = result(search(space, judge, cost, target, trials=TRIALS, seed=seed))
            mine.append(taken(np.array([number[t.genome] for t in trials]), every, score))
            drawn.append(taken(rng.choice(within, TRIALS, replace=False), every, score))
        least = every.accuracy[within[np.argmax(every.madds[within])]]
        rows.append({
            "target_ms": round(float(target), 3), "within": len(within), "best": round(every.accuracy[within].max(), 2),
            "found": told(mine), "random": told(drawn),
            "imagenet_model": round(every.accuracy[within[np.argmax(imagenet[within])]], 2),
            "most_madds": round(least, 2), "mean": round(every.accuracy[within].mean(), 2),
        })  # fmt: skip
    run.write({
        "bench": space.name, "what": "search", "ingredients": o.ingredients, "minutes": o.minutes,
        "spent_min": round(run.plan["spent_s"] / 60, 2), "seed": o.seed, "images": EVERY, "trials": TRIALS,
        "searches": SEEDS, "ms_of": DEVICE, "tau": tau(score, every.accuracy, 200), "targets": rows,
        "score_min": round(minutes, 2), **device_of(o.device),
    })  # fmt: skip


def taken(index: NDArray[np.int64], every: Truth, score: NDArray[np.float64]) -> float:
    """The true accuracy of the network of `index` with the best smoothed score."""
    even = smoothed(every.genomes[index], every.space.sizes, score[index])
    return float(every.accuracy[index[np.argmax(even)]])


def told(accuracies: list[float]) -> dict[str, float]:
    values = np.array(accuracies)
    return {"mean": round(values.mean(), 2), "sd": round(values.std(ddof=1), 2), "worst": round(values.min(), 2)}


def device_of(device: str) -> dict[str, Any]:
    """Where and from what a line is."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    name = torch.cuda.get_device_name() if device != "cpu" else f"{cpu[1] if cpu else platform.machine()}, one thread"
    return {"device": name, "threads": torch.get_num_threads(), "commit": short_commit()}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("verb", choices=("run", "again", "search", "known", "noise"))
    p.add_argument("--cifar", type=Path)
    p.add_argument("--csv", type=Path)
    p.add_argument("--work", type=Path)
    p.add_argument("--bench", choices=("macro", "channel"), default="macro")
    p.add_argument("--minutes", type=float, default=20.0)
    p.add_argument("--ingredients", default="single", help="joined by +: " + ", ".join(INGREDIENTS))
    p.add_argument("--seed", type=int, default=0)
    p.add_argument(
        "--quick", action="store_true", help="a third of the networks on a quarter of the images at the end, too"
    )
    p.add_argument("--device", default="cpu")
    p.add_argument("--out", type=Path, default=OUT)
    o = p.parse_args()
    if o.verb == "known":
        for part, t in parts_of(Truth.read(o.bench, o.csv)).items():
            print(part, len(t), {k: tau(v, t.accuracy) for k, v in t.known().items()})
        return
    if o.verb == "noise":
        found = [noise(), noise(0.0), noise(0.7, 0.5), noise_on(o.bench, o.csv)]
        NOISE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(found))
        return
    if o.verb == "search":
        searched(o)
        return
    if o.verb == "again":
        again(o)
        return
    for event in Run(o)():
        if isinstance(event, Note):
            print(event.text, flush=True)


if __name__ == "__main__":
    main()
