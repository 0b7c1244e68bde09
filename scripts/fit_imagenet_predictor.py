"""Fit mbv3/search/imagenet_top1.csv on Accel-NASBench's ImageNet trainings.

    python scripts/fit_imagenet_predictor.py PATH/accel_nasbench_imagenet.csv

Four fifths of the file fit, one fifth is held out; the shipped coefficients are those of the four fifths, so that the
held-out figure is that of what is shipped. Writes the coefficients and results/imagenet_predictor.json.
"""

from __future__ import annotations

import csv
import itertools
import json
import sys
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau, spearmanr

from mbv3.search.predictor import SPACE, ImagenetPredictor, fit_ridge, one_hot_pairs
from mbv3.space import load_space

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    source = Path(sys.argv[1])
    space = load_space(SPACE)
    rows = list(csv.DictReader(source.open(encoding="utf-8")))
    genomes = np.array([space.encode({n: int(r[n]) for n in space.names}) for r in rows])
    top1 = np.array([float(r["val_top1"]) for r in rows])
    order = np.random.default_rng(0).permutation(len(rows))
    held, rest = order[: len(rows) // 5], order[len(rows) // 5 :]
    x = one_hot_pairs(space.sizes, genomes)

    fold = np.random.default_rng(1).permutation(len(rest)) % 5
    errors = {}
    for alpha in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0):
        e = []
        for f in range(5):
            train, test = rest[fold != f], rest[fold == f]
            b, w = fit_ridge(x[train], top1[train], alpha)
            e.append(float(np.mean((b + x[test] @ w - top1[test]) ** 2)))
        errors[alpha] = float(np.mean(e))
    alpha = min(errors, key=lambda a: errors[a])
    intercept, w = fit_ridge(x[rest], top1[rest], alpha)
    predictor = ImagenetPredictor(space.sizes, intercept, np.round(w, 5))
    p = predictor(genomes[held])
    baseline = float(kendalltau([float(rows[i]["macs_M"]) for i in held], top1[held]).statistic)
    result = {
        "command": f"python scripts/fit_imagenet_predictor.py {source.name}",
        "source": "Accel-NASBench ImageNet trainings (afzalxo/Accel-NASBench, Apache-2.0), val_top1",
        "n_fit": len(rest), "n_held_out": len(held), "alpha": alpha,
        "kendall_tau": round(float(kendalltau(p, top1[held]).statistic), 4),
        "spearman": round(float(spearmanr(p, top1[held]).statistic), 4),
        "rmse_points": round(float(np.sqrt(np.mean((p - top1[held]) ** 2))), 3),
        "kendall_tau_of_macs_alone": round(baseline, 4),
    }  # fmt: skip
    names = [f"{g.name}={v}" for g in space.genes for v in g.labels()]
    for a, b in itertools.combinations(space.genes, 2):
        names += [f"{a.name}={u} {b.name}={v}" for u in a.labels() for v in b.labels()]
    lines = [
        "# ImageNet top-1 in percent: intercept + single choices + pairs of choices (ridge regression).",
        "# Fitted by scripts/fit_imagenet_predictor.py on Accel-NASBench's ImageNet trainings",
        "# (afzalxo/Accel-NASBench, Apache-2.0), val_top1 under its short schedule.",
        "feature,points",
        f"intercept,{intercept:.6f}",
        *(f"{n},{v:.5f}" for n, v in zip(names, w, strict=True)),
    ]
    (ROOT / "mbv3/search/imagenet_top1.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (ROOT / "results").mkdir(exist_ok=True)
    (ROOT / "results/imagenet_predictor.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
