"""Figure 4: how well the latency table predicts whole networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import pandas as pd
from matplotlib.axes import Axes

from mbv3.report.html import Html, fixed, section, table, tag, why
from mbv3.report.run_files import Errors, RunFiles, number
from mbv3.report.svg import BLUE, GREEN, MUTED, draw

__all__ = ["FidelityInfo", "Metrics", "Timed", "fidelity_info", "metrics", "render"]

_NAMES = {"plain_sum": "plain sum of layers", "madds": "line through MAdds", "one_scale": "sum, one scale"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """A network timed whole, beside its prediction."""

    role: str  # calibration or check
    key: str
    measured_ms: float
    predicted_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics(Errors):
    """The errors of one way to predict, by its name."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityInfo:
    """What figure 4 shows."""

    networks: tuple[Timed, ...]
    layers: int
    rows: tuple[Metrics, ...]  # the table first, then its baselines
    noise_floor: float | None  # percent
    how: str  # which networks the rows are of


def metrics(name: str, networks: Sequence[Timed]) -> Metrics:
    """Root mean square percentage error, mean error, shares within 5 and 10 %, rank correlation."""
    if not networks:
        return Metrics(name=name)
    errors = [100 * (t.predicted_ms / t.measured_ms - 1) for t in networks]
    n = len(errors)
    ranks = pd.DataFrame({"m": [t.measured_ms for t in networks], "p": [t.predicted_ms for t in networks]}).rank()
    varied = n > 1 and ranks["m"].nunique() > 1 and ranks["p"].nunique() > 1
    return Metrics(
        name=name,
        n=n,
        rmspe=math.sqrt(sum(e * e for e in errors) / n),
        bias=sum(errors) / n,
        within_5=100 * sum(abs(e) <= 5 for e in errors) / n,
        within_10=100 * sum(abs(e) <= 10 for e in errors) / n,
        spearman=float(ranks["m"].corr(ranks["p"])) if varied else None,
    )


def _reported(name: str, errors: Errors, n: int | None) -> Metrics:
    values = {f.name: getattr(errors, f.name) for f in fields(Errors)}
    return Metrics(name=name, **{**values, "n": n if errors.n is None else errors.n})


def fidelity_info(files: RunFiles) -> FidelityInfo | None:
    """Figure 4's numbers, or None without a table."""
    if files.table is None:
        return None
    networks, layers = [], 0
    for row in files.table.rows.to_dict("records"):
        layers += row["kind"] == "layer"
        ms, predicted = number(row["ms"]), number(row["predicted"])
        if row["kind"] != "network" or ms is None or predicted is None or ms <= 0:
            continue
        role, _, key = row["key"].rpartition(":")
        role = "check" if role == "check" else "calibration"
        networks.append(Timed(role=role, key=key, measured_ms=ms, predicted_ms=predicted))
    trust = files.table.trust
    checked = [t for t in networks if t.role == "check"]
    computed = metrics("table", checked)
    first = _reported("table", trust, computed.n) if trust.rmspe is not None else computed
    baselines = [_reported(_NAMES.get(k, k), errors, first.n) for k, errors in trust.baselines.items()]
    return FidelityInfo(
        networks=tuple(networks),
        layers=layers,
        rows=(*([first] if first.rmspe is not None else []), *baselines),
        noise_floor=trust.noise_floor,
        how="the check networks" if first is computed else trust.how,
    )


def _paint(ax: Axes, info: FidelityInfo) -> None:
    times = [v for t in info.networks for v in (t.measured_ms, t.predicted_ms)]
    pad = 0.04 * (max(times) - min(times)) or 0.04 * max(times)
    low, high = max(0.0, min(times) - pad), max(times) + pad
    ax.fill_between([low, high], [0.95 * low, 0.95 * high], [1.05 * low, 1.05 * high], color=GREEN, alpha=0.16, lw=0)
    ax.plot([low, high], [low, high], color=MUTED, linewidth=1.0)
    for role, fill, edge in (("calibration", "none", MUTED), ("check", BLUE, BLUE)):
        some = [t for t in info.networks if t.role == role]
        if some:
            ax.scatter(
                [t.measured_ms for t in some],
                [t.predicted_ms for t in some],
                s=20,
                facecolors=fill,
                edgecolors=edge,
                linewidths=0.9,
                zorder=3,
                label=role,
            )
    ax.set_xlim(low, high)
    ax.set_ylim(low, high)
    ax.set_aspect("equal")
    ax.set_xlabel("measured, ms")
    ax.set_ylabel("predicted, ms")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="upper left")


def render(info: FidelityInfo | None, fault: str) -> Html:
    """The section, or why there is none."""
    title = "4. The latency table"
    if info is None:
        return section("table", title, why(fault))
    checked = sum(t.role == "check" for t in info.networks)
    parts: list[Html] = []
    if info.networks:
        figure = draw(
            *(
                "table",
                "Predicted against measured latency of whole networks",
                lambda axes: _paint(axes[0], info),
            ),
            size=(3.9, 3.6),
        )
        text = f"{info.layers:,} layers were timed alone, {len(info.networks)} networks whole: "
        text += f"{len(info.networks) - checked} for calibration, {checked} for the check. The band is ±5 %."
        parts.append(tag("figure", figure, tag("figcaption", text)))
    else:
        held = f"{info.layers:,} layers" if info.layers else "no layers, only a cost model"
        parts.append(why(f"The table holds {held} and no network timed whole, so there is nothing to compare."))
    if info.rows:
        parts.append(
            table(
                ["prediction", "#n", "#RMSPE", "#bias", "#within ±5 %", "#within ±10 %", "#Spearman"],
                [
                    [
                        *(
                            m.name,
                            fixed(m.n, 0),
                            _percent(m.rmspe, 2),
                            _percent(m.bias, 2, sign=True),
                        ),
                        *(_percent(m.within_5, 0), _percent(m.within_10, 0), fixed(m.spearman, 3)),
                    ]
                    for m in info.rows
                ],
            )
        )
        if info.how:
            parts.append(tag("p", f"Errors are of {info.how}."))
    else:
        parts.append(why("The table was not checked on held-out networks."))
    if info.noise_floor is not None:
        text = f"Noise floor of the networks' own timings: {_percent(info.noise_floor, 2)}."
        parts.append(tag("p", text + " A smaller error cannot be distinguished from noise."))
    return section("table", title, *parts)


def _percent(value: float | None, digits: int, *, sign: bool = False) -> str:
    return fixed(value, digits, sign=sign, unit="\N{NO-BREAK SPACE}%")
