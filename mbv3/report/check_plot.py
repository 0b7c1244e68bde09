"""`mbv3 latency check --plot`: predicted against measured networks, and the errors beside those of the baselines."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["check_plot"]

_DOTS = (
    ("madds", "line through MAdds", "#b9b9b9", "^"),
    ("plain_sum", "plain sum of layers", "#e08214", "x"),
    ("table", "table", "#2166ac", "o"),
)


def check_plot(report: Mapping[str, Any], title: str, kind: str = "png", caveat: str | None = None) -> bytes:
    """A figure of the trust report of `mbv3 latency check`, as a PNG, SVG or PDF file (`kind`).

    `report["networks"]` are {"measured_ms", "predicted_ms", "plain_sum_ms", "madds_ms"} of every network.
    `caveat` stands under the title: why the table is not of this device.
    """
    nets = report["networks"]
    measured = [n["measured_ms"] for n in nets]
    with mpl.rc_context({"font.size": 9, "svg.hashsalt": "mbv3", "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9.6, 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        predicted = [n["predicted_ms"] for n in nets]
        low, high = 0.95 * min(measured + predicted), 1.05 * max(measured + predicted)
        left.fill_between(
            [low, high], [0.95 * low, 0.95 * high], [1.05 * low, 1.05 * high], color="#2166ac", alpha=0.12
        )
        left.plot([low, high], [low, high], color="#777777", linewidth=0.8)
        left.scatter(measured, predicted, s=16, color="#2166ac", zorder=3)
        left.set(xlim=(low, high), ylim=(low, high), xlabel="measured, ms", ylabel="predicted, ms", aspect="equal")
        left.set_title(f"{len(nets)} held-out networks; the band is ±5 %")
        for name, label, color, marker in _DOTS:
            figures = report if name == "table" else report["baselines"][name]
            key = "predicted_ms" if name == "table" else f"{name}_ms"
            errors = [100 * (n[key] / n["measured_ms"] - 1) for n in nets]
            right.scatter(
                measured, errors, s=16, color=color, marker=marker, label=f"{label}: RMSPE {figures['rmspe']:.1f} %"
            )
        right.axhspan(-5, 5, color="#2166ac", alpha=0.12, linewidth=0)
        right.axhline(0, color="#777777", linewidth=0.8)
        right.set(xlabel="measured, ms", ylabel="error of the prediction, %")
        floor = f", noise floor {report['noise_floor']:.1f} %" if report.get("noise_floor") is not None else ""
        right.set_title(f"within ±5 %: {report['within_5']:g} %, Spearman {report['spearman']}{floor}")
        figure.legend(loc="outside lower center", ncols=3, fontsize=8)
        figure.suptitle("\n".join([title, *textwrap.wrap(caveat or "", 120)]))
        out = BytesIO()
        figure.savefig(out, format=kind, dpi=120)
    return out.getvalue()
