"""The page of a run with several targets: accuracy over ms, a row a target, the networks beside each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes

from mbv3.record import FrontRecord, SearchRecord, load_as, peek
from mbv3.report.document import document, write_document
from mbv3.report.html import Html, count_text, fixed, ms_text, section, table, tag, why
from mbv3.report.svg import MUTED, ORANGE, draw

__all__ = ["FrontInfo", "front_info", "front_page", "write_front"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontInfo:
    """The runs of a front with their folders, fastest target first."""

    command: str
    runs: tuple[tuple[str, SearchRecord], ...]


def front_info(folder: Path) -> FrontInfo:
    """The records of a front's run directory; a run that cannot be read counts as one without figures. Raises:
    BadInput."""
    record = load_as(folder, FrontRecord)
    return FrontInfo(command=record.command, runs=tuple((name, peek(folder / name)[0]) for name in record.folders))


def _at(r: SearchRecord) -> float | None:
    return r.predicted_ms if r.measured_ms is None else r.measured_ms


def _points(info: FrontInfo) -> list[tuple[float, float, float]]:
    """(ms, accuracy, its error) of what was found."""
    found = []
    for _, r in info.runs:
        at, a = _at(r), r.accuracy
        if at is not None and a is not None and a.value is not None:
            found.append((at, a.value, a.error or 0.0))
    return found


def _paint(ax: Axes, info: FrontInfo) -> None:
    points = _points(info)
    ms, top1, errors = zip(*points, strict=True)
    ax.errorbar(ms, top1, yerr=errors, color=ORANGE, marker="*", markersize=11, capsize=3, label="found")
    beside = [(b.ms, b.accuracy) for _, r in info.runs for b in r.baselines if b.accuracy is not None]
    if beside:
        ax.scatter([m for m, _ in beside], [a for _, a in beside], s=22, color=MUTED, zorder=3, label="beside")
    ax.set_xscale("log")
    ax.set_xlabel("latency, ms")
    ax.set_ylabel("predicted ImageNet top-1, %")
    ax.legend(loc="lower right")


def _rows(info: FrontInfo) -> list[Sequence[object]]:
    rows: list[Sequence[object]] = []
    for name, r in info.runs:
        a, best = r.accuracy, max(r.baselines, key=lambda b: b.accuracy or 0.0, default=None)
        gap = None if r.bound is None else max(r.bound.most - r.bound.found, 0.0)
        rows.append(
            [f"{r.target_ms:g}", r.status, ms_text(_at(r)), fixed(None if a is None else a.value, 2),
             fixed(None if a is None else a.error, 2),
             "" if best is None else f"{best.name}: {fixed(best.accuracy, 2)}", fixed(gap, 2), count_text(r.params),
             count_text(r.madds), tag("a", name, href=f"{name}/report.html")]
        )  # fmt: skip
    return rows


def front_page(info: FrontInfo) -> Html:
    """The HTML text. Equal input gives equal text."""
    targets = ", ".join(f"{r.target_ms:g}" for _, r in info.runs)
    head = ["#target, ms", "status", "#ms", "#predicted ImageNet top-1, %", "#± standard error", "best beside",
            "#points better at most", "#parameters", "#MAdds", "run"]  # fmt: skip
    picture = (
        tag("figure", draw("front", "Accuracy over latency of what was found", lambda axes: _paint(axes[0], info)))
        if _points(info) else why("No target was reached, so there is nothing to draw.")
    )  # fmt: skip
    body = tag(
        "main",
        tag("header", tag("h1", f"mbv3 search: {targets} ms"), tag("p", tag("code", info.command))),
        section("front", "The front", picture, table(head, _rows(info))),
    )
    return document(f"mbv3 search: {targets} ms", body)


def write_front(folder: Path) -> Path:
    """Write `report.html` into the run directory of several targets and return its path.

    Raises:
        BadInput: it is not such a run directory, or the file cannot be written.
    """
    return write_document(folder, front_page(front_info(folder)))
