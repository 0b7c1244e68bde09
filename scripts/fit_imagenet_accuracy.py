"""Fit mbv3/accuracy/imagenet_top1.json on all public ImageNet evidence, and measure what it is worth.

    python scripts/fit_imagenet_accuracy.py DATA [--splits 3] [--workers 1] [--families-only]

DATA holds accel_nasbench_imagenet.csv, ofa_mbv3_subnets_imagenet.csv and imagenet_mobile_top1.csv. A quarter of the
first two is held out in each split; the shipped coefficients are those of split 0, so that its held-out figures are
those of what is shipped. Errors come from fits without one family of published networks at a time. Writes the
coefficients and results/imagenet_accuracy.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from imagenet_evidence import accel_nasbench, ofa, published
from imagenet_fit import NOISE, Evidence, Options, fit
from imagenet_pairs import fit_pairs, pair_errors
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr

from mbv3.accuracy.imagenet import in_core, sizes
from mbv3.accuracy.model import FILE, Model, Region

ROOT = Path(__file__).resolve().parents[1]
HELD = ("accel_nasbench", "ofa_dynast", "ofa_gatech")
ABOUT = (
    "fitted by scripts/fit_imagenet_accuracy.py on Accel-NASBench's ImageNet trainings (afzalxo/Accel-NASBench, "
    "Apache-2.0), subnets of Once-for-All (IntelLabs/DyNAS-T, Apache-2.0; gatech-sysml/once-for-all, MIT) and "
    "published mobile networks (tensorflow/models, tensorflow/tpu, PaddleClas, timm, gluon-cv, imgclsmob, torchvision, "
    "d-li14)"
)
Rows = NDArray[np.int64]


def rmse(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return round(float(np.sqrt(np.mean((a - b) ** 2))), 3)


def tau(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return round(float(kendalltau(a, b).statistic), 4)


def split(data: Evidence, seed: int) -> tuple[Rows, dict[str, Rows]]:
    """(rows that fit, held-out rows by source): a quarter of each large source; published rows all fit."""
    rng = np.random.default_rng(seed)
    fits, held = [np.flatnonzero(data.source == "published")], {}
    for source in HELD:
        rows = rng.permutation(np.flatnonzero(data.source == source))
        held[source], rest = rows[: len(rows) // 4], rows[len(rows) // 4 :]
        fits.append(rest)
    return np.concatenate(fits), held


def held_out(data: Evidence, model: Model, held: dict[str, Rows]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for source, rows in held.items():
        p = data.predict(model, rows)
        out[source] = {"n": len(rows), "kendall_tau": tau(p, data.top1[rows]), "rmse": rmse(p, data.top1[rows])}
    both = np.concatenate([held["ofa_dynast"], held["ofa_gatech"]])
    p = data.predict(model, both)
    out["ofa_together"] = {"n": len(both), "kendall_tau": tau(p, data.top1[both]), "rmse": rmse(p, data.top1[both])}
    return out


def ordered(p: NDArray[np.float64], y: NDArray[np.float64], recipe: NDArray[np.str_]) -> tuple[int, float]:
    """(pairs of one recipe more than a point apart, share of them in the right order)."""
    right = [
        (p[a] - p[b]) * (y[a] - y[b]) > 0
        for name in np.unique(recipe)
        for a, b in combinations(np.flatnonzero(recipe == name), 2)
        if abs(y[a] - y[b]) > 1
    ]
    return len(right), round(float(np.mean(right)), 4)


_shared: list[Evidence] = []  # what forked workers read


def _one(job: tuple[Rows, Options, str, Region | None]) -> tuple[Model, float]:
    started = time.time()
    return fit(_shared[0], *job), time.time() - started


def fits(jobs: Sequence[tuple[Rows, Options, str, Region | None]], workers: int) -> Iterator[tuple[Model, float]]:
    """(model, seconds) of every job, in order."""
    if workers == 1:
        yield from map(_one, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
        yield from pool.map(_one, jobs)


def leave_families_out(
    data: Evidence, o: Options, workers: int
) -> tuple[dict[str, Any], tuple[float, float], tuple[float, float]]:
    """Predictions of every published network by a model that never saw its family: figures, errors of two kinds, and
    the variance of a difference."""
    public = np.flatnonzero(data.source == "published")
    family = np.array([r.family.removesuffix("_minimalistic") for r in data.rows])
    rng = np.random.default_rng(0)
    large = [rng.permutation(np.flatnonzero(data.source == s))[:n] for s, n in zip(HELD, (800, 200, 200), strict=True)]
    base = np.concatenate([public, *large])
    guess, known = np.zeros(len(data.rows)), np.zeros(len(data.rows), dtype=bool)
    by_family, models = {}, {}
    names = np.unique(family[public])
    jobs = [(base[family[base] != name], o, "", None) for name in names]
    for name, (model, seconds) in zip(names, fits(jobs, workers), strict=True):
        models[str(name)] = model
        out = public[family[public] == name]
        guess[out], known[out] = data.predict(model, out), [r in model.recipes for r in data.recipe[out]]
        by_family[str(name)] = {"n": len(out), "rmse_before_offsets": rmse(guess[out], data.top1[out])}
        print(name, by_family[str(name)], f"{seconds:.0f} s", file=sys.stderr, flush=True)
    logit = np.log(guess[public] / (100 - guess[public]))
    true = np.log(data.top1[public] / (100 - data.top1[public]))
    level, each = logit.copy(), logit.copy()
    for name in np.unique(family[public]):
        for recipe in np.unique(data.recipe[public]):
            j = np.flatnonzero((family[public] == name) & (data.recipe[public] == recipe))
            each[j] += (true - logit)[j].mean() if len(j) else 0
            j = j[~known[public][j]]
            level[j] += (true - logit)[j].mean() if len(j) else 0
    y = data.top1[public]
    width = np.array([data.rows[i].width for i in public])
    core = (width >= 0.5) & (data.pixels[public] >= 128)
    many = np.array([np.sum(data.recipe[public] == r) > 1 for r in data.recipe[public]])
    figures: dict[str, Any] = {"families": by_family}
    for kind, z in (("recipe_offset_where_unknown", level), ("family_offset", each), ("no_offset", logit)):
        p = 100 / (1 + np.exp(-z))
        figures[kind] = {
            tag: {"n": int(c.sum()), "rmse": rmse(p[c], y[c]), "spearman": round(float(spearmanr(p[c], y[c])[0]), 4)}
            for tag, c in (("w_from_0.5_r_from_128", core), ("all", core | True))
        }
        pairs, share = ordered(p, y, data.recipe[public])
        figures[kind]["pairs_of_one_recipe_over_a_point"] = {"n": pairs, "right": share}
        pairs, share = ordered(p[core], y[core], data.recipe[public][core])
        figures[kind]["pairs_of_one_recipe_over_a_point_w_from_0.5_r_from_128"] = {"n": pairs, "right": share}
    p = 100 / (1 + np.exp(-level))
    sure = known[public] | many  # a recipe's only network says nothing once it has its offset
    at = [sizes(data.rows[i].layers[:-1], data.pixels[i]) for i in public]
    near = np.array([in_core(s) for s in at])
    errors = (rmse(p[near & sure], y[near & sure]), rmse(p[~near & sure], y[~near & sure]))
    figures["error_of_an_estimate"] = {"core": errors[0], "elsewhere": errors[1]}
    difference, figures["pairs_of_one_recipe"] = fit_pairs(*pair_errors(data, family, models))
    return figures, errors, difference


def region(data: Evidence) -> Region:
    """The sizes of all evidence, as mbv3.accuracy measures a spec's."""
    at = [sizes(r.layers[:-1], float(r.resolution)) for r in data.rows]
    return Region.around({name: np.array([s[name] for s in at]) for name in at[0]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=Options.hidden)
    parser.add_argument("--ramp", type=float, default=Options.ramp)
    parser.add_argument("--steps", type=int, nargs=2, default=(Options.first, Options.then))
    parser.add_argument("--family-steps", type=int, nargs=2, default=(500, 500))
    parser.add_argument("--families-only", action="store_true", help="keep the coefficients; their errors only")
    args = parser.parse_args()
    rows, left = published(args.data / "imagenet_mobile_top1.csv")
    rows += accel_nasbench(args.data / "accel_nasbench_imagenet.csv")
    data = Evidence(rows + ofa(args.data / "ofa_mbv3_subnets_imagenet.csv"))
    o = Options(hidden=args.hidden, ramp=args.ramp, first=args.steps[0], then=args.steps[1])
    where = region(data)
    result: dict[str, Any] = {
        "command": "python scripts/fit_imagenet_accuracy.py DATA " + " ".join(sys.argv[2:]),
        "options": asdict(o), "noise_points": NOISE,
        "n": {s: int((data.source == s).sum()) for s in np.unique(data.source)},
        "published_left_out": {"n": len(left), "why": "integer weights, TensorFlow's weights again, other blocks"},
        "splits": {},
    }  # fmt: skip
    target, file = ROOT / "results/imagenet_accuracy.json", ROOT / "mbv3/accuracy" / FILE
    few = replace(o, first=args.family_steps[0], then=args.family_steps[1])
    if args.families_only:
        _shared.append(data)
        figures, errors, difference = leave_families_out(data, few, args.workers)
        kept = {**json.loads(target.read_text("utf-8")), "families_left_out": figures}
        model = Model.from_json(file.read_text("utf-8"))
        file.write_text(replace(model, errors=errors, difference=difference).to_json(), encoding="utf-8")
        target.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        return
    shipped: Model | None = None
    _shared.append(data)
    splits = [split(data, seed) for seed in range(args.splits)]
    jobs = [(rows, replace(o, seed=seed), ABOUT, where) for seed, (rows, _) in enumerate(splits)]
    for seed, (model, seconds) in enumerate(fits(jobs, args.workers)):
        rows_fit, held = splits[seed]
        shipped = shipped or model
        public = np.flatnonzero(data.source == "published")
        figures = {"n_fit": len(rows_fit), **held_out(data, model, held)}
        figures["published_in_the_fit"] = {
            "n": len(public),
            "rmse": rmse(data.predict(model, public), data.top1[public]),
        }
        result["splits"][str(seed)] = figures
        print(seed, json.dumps(figures), f"{seconds:.0f} s", file=sys.stderr, flush=True)
        if seed == 0:
            file.write_text(model.to_json(), encoding="utf-8")
    assert shipped is not None
    result["families_left_out"], errors, difference = leave_families_out(data, few, args.workers)
    file.write_text(replace(shipped, errors=errors, difference=difference).to_json(), encoding="utf-8")
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
