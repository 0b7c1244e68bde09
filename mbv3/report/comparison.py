"""The networks beside the found one: trained and scored under one protocol, or with predicted accuracies."""

from __future__ import annotations

from dataclasses import dataclass

from mbv3.record import Baseline, Compared
from mbv3.report.html import Html, count_text, fixed, html, ms_text, section, table, why
from mbv3.report.run_files import RunFiles

__all__ = ["ComparisonInfo", "comparison_info", "render"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonInfo:
    """The compared networks, the found one first, by `metric`; and the baselines with predicted accuracies."""

    rows: tuple[Compared, ...]
    baselines: tuple[Baseline, ...] = ()
    metric: str = "top-1"


def comparison_info(files: RunFiles) -> ComparisonInfo | None:
    """The comparison's numbers, or None where nothing was compared."""
    r = files.record
    if not r.comparison and not r.baselines:
        return None
    beside = r.baselines
    ms = r.predicted_ms if r.measured_ms is None else r.measured_ms
    if beside and ms is not None and r.accuracy is not None:
        found = Baseline(name="found", ms=ms, accuracy=r.accuracy.value, error=r.accuracy.error)
        beside = (found, *beside)
    metric = "top-1" if r.accuracy is None else r.accuracy.metric
    return ComparisonInfo(rows=r.comparison, baselines=beside, metric=metric)


def render(info: ComparisonInfo | None) -> Html:
    """The section; nothing where nothing was compared."""
    if info is None:
        return html("")
    if not info.rows:
        return _beside(info)
    head = ["network", "#ms", "#parameters", "#MAdds", f"#{info.metric}, %", "#± standard error", "#images", "#steps"]
    rows = [
        [r.name, ms_text(r.ms), count_text(r.params), count_text(r.madds), fixed(r.top1, 2), fixed(r.sigma, 2),
         fixed(r.n, 0), "" if r.steps is None else fixed(r.steps, 0)]
        for r in info.rows
    ]  # fmt: skip
    several = len({r.steps for r in info.rows}) > 1
    note = [why("Half of the networks was dropped after each round: those of one round learned for the same seconds.")]
    return section("comparison", "Trained and scored alike", table(head, rows), *(note if several else ()))


def _beside(info: ComparisonInfo) -> Html:
    rows = [
        [b.name, ms_text(b.ms), fixed(b.accuracy, 2), fixed(b.error, 2),
         "" if b.below is None else f"{fixed(b.below, 2)} ± {fixed(b.below_error, 2)}",
         "" if b.published is None else f"{fixed(b.published, 2)}, {b.weights}"]
        for b in info.baselines
    ]  # fmt: skip
    head = ["network", "#ms", "#predicted ImageNet top-1, %", "#± standard error", "#points below the found one",
            "published top-1, %"]  # fmt: skip
    return section("comparison", "At the same time", table(head, rows))
