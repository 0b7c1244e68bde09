"""Two targets of one start: the run that this one goes on from, and this one."""

from __future__ import annotations

from dataclasses import dataclass

from mbv3.record import Accuracy
from mbv3.report.html import Html, fixed, html, ms_text, section, table, why
from mbv3.report.run_files import RunFiles, number

__all__ = ["TakenInfo", "Target", "render", "taken_info"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A run with its target: what it delivered, as far as it had come, and its seconds."""

    run: str
    target_ms: float | None
    ms: float | None
    accuracy: Accuracy | None
    total_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenInfo:
    """Both runs, the other one first, and what was taken."""

    text: str
    targets: tuple[Target, ...]


def taken_info(files: RunFiles) -> TakenInfo | None:
    """None where the run goes on from no other."""
    r, t = files.record, files.record.taken_from
    if t is None:
        return None
    return TakenInfo(
        text=t.text,
        targets=(
            Target(run=t.run, target_ms=number(t.target_ms), ms=t.delivered_ms, accuracy=t.delivered_accuracy,
                   total_s=t.total_s),
            Target(run="this run", target_ms=number(r.target_ms), ms=r.predicted_ms if r.measured_ms is None else
                   r.measured_ms, accuracy=r.accuracy, total_s=r.total_s),
        ),
    )  # fmt: skip


def render(info: TakenInfo | None) -> Html:
    """The section; nothing where the run goes on from no other."""
    if info is None:
        return html("")
    head = ["run", "#target, ms", "#ms", "#accuracy, %", "#± standard error", "#minutes"]
    rows = [
        [t.run, ms_text(t.target_ms), ms_text(t.ms), fixed(t.accuracy.value if t.accuracy else None, 2),
         fixed(t.accuracy.error if t.accuracy else None, 2), fixed(None if t.total_s is None else t.total_s / 60, 1)]
        for t in info.targets
    ]  # fmt: skip
    return section("taken", "Another target of one start", table(head, rows), why(f"It began with {info.text}."))
