"""A table for another device or setting, from a few whole networks measured there (HELP, Lee 2021, uses ten too).

Devices differ in kinds of work rather than in kinds of layers: int8 takes a quarter of the time of float convolutions,
but more than the time of float depthwise ones. So each kind of work has a factor. The calibration of the table, which
says how layers behave in a network, is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3.errors import BadInput
from mbv3.latency.build import network_time
from mbv3.latency.costmodel import WORK, WORK_OF
from mbv3.latency.fingerprint import Fingerprint
from mbv3.latency.metrics import fidelity
from mbv3.latency.table import LatencyTable, Timed
from mbv3.spec import ArchSpec, LayerKey, lower

__all__ = ["FIT", "most_informative", "transfer", "work_ms"]

FIT, LEAST = 10, 8
# How strongly the factors are pulled to a common one: the error of a network (a few percent) over the spread of the
# factors. 0.02 was better than 0.01 and 0.05, for int8 and for LiteRT (ten networks, 2 % of noise).
HELD = 0.02
LEAST_FACTOR = 0.02  # relative to that of the median network


def work_ms(table: LatencyTable, specs: Sequence[ArchSpec]) -> NDArray[np.float64]:
    """(networks, kinds of WORK + 1): the predicted ms of each network, split by kind of work; the last is the rest."""
    known: dict[LayerKey, NDArray[np.float64]] = {}
    rows = []
    for spec in specs:
        keys = [x.key for x in lower(spec)]
        for key in keys:
            if key not in known:
                hot = table.hot_ms(key, estimate=True)
                known[key] = table.calibration.factor(key) * hot * table.cost_model.shares(key)
        by_kind = np.sum([known[key] for key in keys], axis=0)
        rows.append([*by_kind, table.latency_ms(spec, estimate=True) - by_kind.sum()])
    return np.array(rows)


def most_informative(x: NDArray[np.float64], n: int = FIT) -> list[int]:
    """The `n` rows of `work_ms` whose times determine the factors of its columns best: a greedy D-optimal design
    (Fedorov 1972) with the regularisation of `_factors`."""
    share = np.column_stack([x / x.sum(axis=1, keepdims=True), np.zeros(len(x))])
    information = _ridge(x.shape[1]).T @ _ridge(x.shape[1]) + 1e-9 * np.eye(x.shape[1] + 1)
    chosen: list[int] = []
    for _ in range(min(n, len(x))):
        gain = np.einsum("ij,jk,ik->i", share, np.linalg.inv(information), share)
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
        information = information + np.outer(share[chosen[-1]], share[chosen[-1]])
    return chosen


def _ridge(n: int) -> NDArray[np.float64]:
    """Rows of a least-squares problem that pull `n` factors to a common one, which is the last unknown."""
    return HELD * np.column_stack([np.eye(n), -np.ones(n)])


def _factors(x: NDArray[np.float64], t: NDArray[np.float64]) -> NDArray[np.float64]:
    """The factor of each column of `work_ms` that fits the times `t`: least squares of relative errors, with the
    factors pulled to a common, free one (ridge regression, Hoerl 1970). The last column may be negative and grows by no
    more than the median network, or a small network would get a negative time."""
    from scipy.optimize import lsq_linear  # half a second to import

    n = x.shape[1]
    unit = float(np.median(t / x.sum(axis=1)))
    rows = np.column_stack([x * unit / t[:, None], np.zeros(len(t))])
    most = [*[np.inf] * (n - 1), 1.0, np.inf]
    found = lsq_linear(np.vstack([rows, _ridge(n)]), [*np.ones(len(t)), *np.zeros(n)], (LEAST_FACTOR, most)).x
    factors: NDArray[np.float64] = unit * found[:-1]
    return factors


def transfer(
    table: LatencyTable,
    networks: Sequence[tuple[str, ArchSpec, float]],
    fingerprint: Fingerprint,
    reference: tuple[ArchSpec, float | None],
    fit: int = FIT,
) -> LatencyTable:
    """`table` for the device on which `networks` (label, network, ms) were measured.

    The cost model of the table splits the time of every layer into kinds of WORK. A factor for each kind is fitted on
    the first `fit` networks; the other networks are held out for the report. `reference`: the reference network of the
    table and its ms on that device; None: it is predicted.

    Raises:
        BadInput: too few networks, or too few rows for a cost model.
    """
    if fit < LEAST or len(networks) < fit:
        raise BadInput(
            f"a transfer needs at least {LEAST} measured networks to fit on (got {min(fit, len(networks))}); "
            "measure more with: mbv3 latency measure --like"
        )
    x, t = work_ms(table, [spec for _, spec, _ in networks]), np.array([ms for *_, ms in networks])
    *of, rest = _factors(x[:fit], t[:fit]).tolist()
    source = {"cpu": table.fingerprint.cpu, "runtime": table.fingerprint.runtime, "threads": table.fingerprint.threads}
    about = {k: v for k, v in (table.about or {}).items() if k not in ("kit", "benchmark")}
    factors = {k: round(f, 4) for k, f, ms in zip(WORK, of, x.T, strict=False) if ms.any()}
    factors["the rest"] = round(rest, 4)
    c = table.calibration
    moved = replace(
        table,
        fingerprint=fingerprint,
        layers={key: _scaled(row, float(table.cost_model.shares(key) @ of)) for key, row in table.layers.items()},
        model=table.model and replace(table.model, coefficients=table.model.coefficients * (np.array(of) @ WORK_OF)),
        calibration=replace(c, b=rest * c.b, c=rest * c.c, d=rest * c.d, each=tuple(rest * e for e in c.each)),
        about={**about, "transferred": {**source, "fitted_on": fit, "factors": factors}},
    )
    report: dict[str, Any] | None = None
    if len(t) > fit:
        scale = t[:fit].sum() / x[:fit].sum()
        predicted = [moved.latency_ms(spec, estimate=True) for _, spec, _ in networks[fit:]]
        report = {
            **fidelity(predicted, t[fit:]),
            "how": f"on {len(t) - fit} networks not used in the fit on {fit}",
            "noise_floor": None,
            "baselines": {"table_scaled": fidelity(scale * x[fit:].sum(axis=1), t[fit:])},
        }
    spec, ms = reference
    return replace(
        moved,
        reference={**table.reference, "ms": ms or moved.latency_ms(spec, estimate=True)},
        networks=tuple(network_time(label, spec, moved, ms, estimate=True) for label, spec, ms in networks),
        report=report,
    )


def _scaled(row: Timed, factor: float) -> Timed:
    return replace(row, ms=factor * row.ms, mean=factor * row.mean, std=factor * row.std)
