"""The figure of `latency check --plot`."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import pytest

from mbv3.latency import fidelity
from mbv3.report import check_plot

MEASURED = [3.0, 5.0, 8.0, 13.0]
NETS = [
    {"network": str(i), "measured_ms": m, "predicted_ms": 1.02 * m, "plain_sum_ms": 0.9 * m, "madds_ms": 7.0}
    for i, m in enumerate(MEASURED)
]


def report(**more: Any) -> dict[str, Any]:
    baselines = {k: fidelity([n[f"{k}_ms"] for n in NETS], MEASURED) for k in ("plain_sum", "madds")}
    return {**fidelity([n["predicted_ms"] for n in NETS], MEASURED), "baselines": baselines, "networks": NETS, **more}


def test_the_figure_says_what_the_report_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mpl.rcParams, "svg.fonttype", "none")  # letters as letters
    svg = check_plot(report(noise_floor=0.8), "Fake 9000", "svg").decode()
    for words in (
        "Fake 9000", "4 held-out networks; the band is ±5 %", "table: RMSPE 2.0 %",
        "plain sum of layers: RMSPE 10.0 %", "within ±5 %: 100 %, Spearman 1.0, noise floor 0.8 %",
    ):  # fmt: skip
        assert words in svg
    assert "forced" not in svg
    forced = check_plot(report(), "Fake 9000", "svg", "forced: the table t.csv was measured elsewhere").decode()
    assert "Fake 9000" in forced and "forced: the table t.csv was measured elsewhere" in forced
    assert "noise floor" not in check_plot(report(noise_floor=None), "Fake 9000", "svg").decode()


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_every_kind(kind: str) -> None:
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[kind]
    assert check_plot(report(), "a table", kind).startswith(start)
