"""Figure 1: accuracy against latency of every trial."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes

from mbv3.report.html import Html, clip, fixed, ms_text, section, table, tag, why
from mbv3.report.run_files import RunFiles, number
from mbv3.report.svg import BLUE, GREEN, INK, MUTED, ORANGE, draw, label_lines

__all__ = ["Mark", "Point", "TrialsInfo", "pareto", "render", "trials_info"]

DRAWN = 2000  # more circles than this only make the file large
LISTED = 60
_SHAPES = "s^vPXh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A finished trial."""

    number: int
    genome: str
    latency_ms: float
    accuracy: float
    reward: float | None = None
    estimated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A network beside the trials: seed, result or reference. A line where its accuracy is unknown."""

    name: str
    ms: float
    accuracy: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialsInfo:
    """What figure 1 shows."""

    points: tuple[Point, ...]
    front: tuple[Point, ...]
    failed: int
    unscored: int
    target_ms: float | None
    seed: Mark | None
    final: Mark | None
    final_measured: bool
    references: tuple[Mark, ...]
    axis: str

    @property
    def drawn(self) -> tuple[Point, ...]:
        """Every point; of more than DRAWN an evenly spaced part."""
        if len(self.points) <= DRAWN:
            return self.points
        return tuple(self.points[i * len(self.points) // DRAWN] for i in range(DRAWN))


def pareto(points: Iterable[Point]) -> tuple[Point, ...]:
    """The Pareto front: points that no other point beats in latency and accuracy, by rising latency."""
    front: list[Point] = []
    for p in sorted(points, key=lambda p: (p.latency_ms, -p.accuracy, p.number)):
        if not front or p.accuracy > front[-1].accuracy:
            front.append(p)
    return tuple(front)


def is_true(value: object) -> bool:
    """A flag as a CSV writes it."""
    return str(value).strip().lower() in ("1", "1.0", "true", "yes")


def _points(frame: pd.DataFrame) -> tuple[Point, ...]:
    found = []
    for row in frame.to_dict("records"):
        ms, accuracy = number(row["latency_ms"]), number(row["accuracy"])
        if row["state"].strip().lower() != "complete" or ms is None or accuracy is None:
            continue
        index = number(row["number"])
        found.append(
            Point(
                number=-1 if index is None else int(index),
                genome=row["genome"],
                latency_ms=ms,
                accuracy=accuracy,
                reward=number(row["reward"]),
                estimated=is_true(row["estimated"]),
            )
        )
    return tuple(found)


def trials_info(files: RunFiles) -> TrialsInfo | None:
    """Figure 1's numbers, or None when there are no trials."""
    if files.trials is None:
        return None
    r = files.record
    points = _points(files.trials)
    states = files.trials["state"].str.strip().str.lower()
    final_ms = r.predicted_ms if r.measured_ms is None else r.measured_ms
    about = ", ".join(p for p in (r.accuracy.unit, r.accuracy.kind) if p) if r.accuracy is not None else ""
    known = r.accuracy.value if r.accuracy is not None else None
    # the model scores trials and result alike; shared weights score the trials by their loss
    found = r.accuracy is not None and r.accuracy.error is not None and r.accuracy.kind != "supernet"
    seed_accuracy = next((p.accuracy for p in points if p.number == r.seed_trial), None) if found else known
    return TrialsInfo(
        points=points,
        front=pareto(points),
        failed=int((states == "failed").sum()),
        unscored=int((states == "complete").sum()) - len(points),
        target_ms=number(r.target_ms),
        # with images NetAdapt scores its cuts on another scale than the trials: the result has no accuracy on this axis
        seed=None if r.seed_ms is None else Mark(name="seed", ms=r.seed_ms, accuracy=seed_accuracy),
        final=None if final_ms is None else Mark(name="result", ms=final_ms, accuracy=known if found else None),
        final_measured=r.measured_ms is not None,
        references=tuple(Mark(name=b.name or "reference", ms=b.ms, accuracy=b.accuracy) for b in r.references),
        axis=f"accuracy ({about})" if about else "accuracy",
    )


def _paint(ax: Axes, info: TrialsInfo) -> None:
    for estimated, label in ((False, "trial"), (True, "trial, latency estimated")):
        some = [p for p in info.drawn if p.estimated is estimated]
        if some:
            ax.scatter(
                [p.latency_ms for p in some],
                [p.accuracy for p in some],
                s=13,
                facecolors="none" if estimated else BLUE,
                edgecolors=BLUE,
                linewidths=0.8 if estimated else 0.0,
                alpha=0.55,
                label=label,
            )
    if info.front:
        ax.step(
            [p.latency_ms for p in info.front],
            [p.accuracy for p in info.front],
            where="post",
            color=GREEN,
            marker="o",
            markersize=3.5,
            label="Pareto front",
        )
    named = [(info.seed, "D", INK, 34.0), (info.final, "*", ORANGE, 130.0)]
    lines = [] if info.target_ms is None else [(info.target_ms, f"target {info.target_ms:g}", ORANGE)]
    for mark, shape, colour, size in named:
        if mark is not None and mark.accuracy is not None:
            ax.scatter([mark.ms], [mark.accuracy], marker=shape, s=size, color=colour, zorder=4, label=mark.name)
        elif mark is not None:
            lines.append((mark.ms, mark.name, colour))
    for i, ref in enumerate(info.references):
        name = clip(ref.name, 24)
        if ref.accuracy is None:
            lines.append((ref.ms, name, MUTED))
            continue
        shape = _SHAPES[i % len(_SHAPES)]
        ax.scatter([ref.ms], [ref.accuracy], marker=shape, s=30, color=MUTED, zorder=3, label=name)
    ax.set_xlabel("latency, ms")
    ax.set_ylabel(info.axis)
    ax.margins(0.06)
    label_lines(ax, lines)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="upper left", bbox_to_anchor=(0, -0.17), ncols=3, borderaxespad=0, handletextpad=0.4)


def _caption(info: TrialsInfo) -> str:
    parts = [f"{len(info.points):,} scored trials, {len(info.front)} on the Pareto front"]
    if info.failed:
        parts.append(f"{info.failed:,} failed")
    if info.unscored:
        parts.append(f"{info.unscored:,} without a score are not drawn")
    estimated = sum(p.estimated for p in info.points)
    if estimated:
        parts.append(f"{estimated:,} whose latency is partly estimated (hollow)")
    if len(info.drawn) < len(info.points):
        parts.append(f"{len(info.drawn):,} of the trials are drawn")
    text = "; ".join(parts) + ". The table predicts the latencies of trials"
    if info.final is not None:
        text += f"; the latency of the result is {'measured' if info.final_measured else 'predicted'}"
    return text + "."


def render(info: TrialsInfo | None, fault: str) -> Html:
    """The section, or why there is none."""
    title = "1. Trials"
    if info is None:
        return section("trials", title, why(fault))
    if not info.points:
        return section("trials", title, why("trials.csv holds no scored trial, so there is nothing to draw."))
    figure = draw("trials", "Accuracy against latency of all trials", lambda axes: _paint(axes[0], info))
    rows = [
        [p.number, p.genome, ms_text(p.latency_ms), fixed(p.accuracy, 2), fixed(p.reward, 3)]
        for p in info.front[-LISTED:]
    ]
    cut = f", the {LISTED} slowest" if len(info.front) > LISTED else ""
    return section(
        "trials",
        title,
        tag("figure", figure, tag("figcaption", _caption(info))),
        tag(
            "details",
            tag("summary", f"The {len(info.front)} trials of the front{cut}"),
            table(["#trial", "genome", "#latency, ms", "#accuracy", "#reward"], rows),
        ),
    )
