"""The networks that were trained and scored under one protocol, side by side."""

from __future__ import annotations

from dataclasses import dataclass

from mbv3.record import Compared
from mbv3.report.html import Html, count_text, fixed, html, ms_text, section, table
from mbv3.report.run_files import RunFiles

__all__ = ["ComparisonInfo", "comparison_info", "render"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonInfo:
    """The compared networks, the found one first."""

    rows: tuple[Compared, ...]


def comparison_info(files: RunFiles) -> ComparisonInfo | None:
    """The comparison's numbers, or None where nothing was compared."""
    return ComparisonInfo(rows=files.record.comparison) if files.record.comparison else None


def render(info: ComparisonInfo | None) -> Html:
    """The section; nothing where nothing was compared."""
    if info is None:
        return html("")
    head = ["network", "#ms", "#parameters", "#MAdds", "#top-1, %", "#± standard error", "#images"]
    rows = [
        [r.name, ms_text(r.ms), count_text(r.params), count_text(r.madds), fixed(r.top1, 2), fixed(r.sigma, 2),
         fixed(r.n, 0)]
        for r in info.rows
    ]  # fmt: skip
    return section("comparison", "Trained and scored alike", table(head, rows))
