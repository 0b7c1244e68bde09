"""The error of a difference of two predictions, from pairs of published networks that were trained alike."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from imagenet_fit import AVERAGE, Evidence
from numpy.typing import NDArray
from scipy.optimize import minimize

from mbv3.accuracy.imagenet import in_core, sizes
from mbv3.accuracy.model import Model

BINS = 6


def pair_errors(
    data: Evidence, family: NDArray[np.str_], models: Mapping[str, Model]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """(error of the difference in points, Model.unlike, of one family) of every pair of one recipe in which at least
    one network is of a family that its model has not seen. `models`: by the family that each was fitted without."""
    public = np.flatnonzero(data.source == "published")
    core = [i for i in public if in_core(sizes(data.rows[i].layers[:-1], data.pixels[i]))]
    error, unlike, same = [], [], []
    for name, model in models.items():
        off = dict(zip(core, data.top1[core] - data.predict(model, np.array(core)), strict=True))
        for i in core:
            for j in core:
                alike = family[j] == name
                if family[i] != name or data.recipe[i] != data.recipe[j] or i == j or (alike and j < i):
                    continue
                recipe = data.recipe[i] if data.recipe[i] in model.recipes else AVERAGE
                error.append(off[i] - off[j])
                unlike.append(model.unlike(data.sums[[i, j]], data.pixels[[i, j]], recipe))
                same.append(alike)
    return np.array(error), np.array(unlike), np.array(same)


def fit_pairs(
    error: NDArray[np.float64], unlike: NDArray[np.float64], same: NDArray[np.bool_]
) -> tuple[tuple[float, float], dict[str, Any]]:
    """(variance of alike networks, more of it for each point of unlike) of largest likelihood; figures."""

    def loss(logs: NDArray[np.float64]) -> float:
        variance = np.exp(logs[0]) + np.exp(logs[1]) * unlike
        return float(np.mean(np.log(variance) + error**2 / variance))

    best = minimize(loss, np.log([0.3, 0.1]), method="Nelder-Mead", options={"maxiter": 2000})
    least, more = (float(f"{v:.4g}") for v in np.exp(best.x))
    edges = np.quantile(unlike, np.linspace(0, 1, BINS + 1))
    bins = []
    for low, high in pairwise(edges):
        at = (unlike >= low) & (unlike <= high)
        said = np.sqrt(np.mean(least + more * unlike[at]))
        rmse = float(np.sqrt(np.mean(error[at] ** 2)))
        bins.append(
            {
                "unlike": [round(float(low), 2), round(float(high), 2)], "n": int(at.sum()),
                "rmse": round(rmse, 3), "said": round(float(said), 3),
            }
        )  # fmt: skip
    return (least, more), {
        "n": len(error), "of_one_family": int(same.sum()), "variance": [least, more],
        "rmse": round(float(np.sqrt(np.mean(error**2))), 3), "bins": bins,
        "within_one_error": round(float(np.mean(error**2 <= least + more * unlike)), 3),
    }  # fmt: skip
