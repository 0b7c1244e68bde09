"""Figure 3: what NetAdapt cut, step by step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mbv3.report.html import Html, fixed, ms_text, section, table, tag, why
from mbv3.report.run_files import RunFiles, number
from mbv3.report.svg import BLUE, GREEN, INK, MUTED, ORANGE, draw
from mbv3.report.trials import is_true

__all__ = ["Proposal", "Step", "TraceInfo", "render", "trace_info"]

DRAWN = 3000
_KINDS = (("expansion", BLUE, "o"), ("bottleneck", GREEN, "s"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """One row of netadapt.csv."""

    step: int
    kind: str
    where: str
    before: str
    after: str
    latency_ms: float | None
    delta_ms: float | None
    accuracy: float | None
    delta_accuracy: float | None
    loss: float | None
    score: float | None
    chosen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step that chose a proposal out of `compared`."""

    choice: Proposal
    compared: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceInfo:
    """What figure 3 shows."""

    seed: Proposal | None
    steps: tuple[Step, ...]
    proposals: tuple[Proposal, ...]  # of steps 1 and later
    open_steps: tuple[int, ...]  # steps with proposals and no choice
    target_ms: float | None

    @property
    def path(self) -> tuple[Proposal, ...]:
        """Seed and choices, in order."""
        return (*([self.seed] if self.seed is not None else []), *(s.choice for s in self.steps))


def trace_info(files: RunFiles) -> TraceInfo | None:
    """Figure 3's numbers, or None without netadapt.csv."""
    if files.netadapt is None:
        return None
    by_step: dict[int, list[Proposal]] = {}
    for row in files.netadapt.to_dict("records"):
        step = number(row["step"])
        if step is None:
            continue
        by_step.setdefault(int(step), []).append(
            Proposal(
                step=int(step),
                kind=row["kind"],
                where=row["where"],
                before=row["before"],
                after=row["after"],
                latency_ms=number(row["latency_ms"]),
                delta_ms=number(row["delta_ms"]),
                accuracy=number(row["accuracy"]),
                delta_accuracy=number(row["delta_accuracy"]),
                loss=number(row["loss"]),
                score=number(row["score"]),
                chosen=is_true(row["chosen"]),
            )
        )
    seed = by_step.pop(0, [None])[0]
    chosen = {step: [p for p in some if p.chosen] for step, some in by_step.items()}
    return TraceInfo(
        seed=seed,
        steps=tuple(Step(choice=chosen[s][0], compared=len(by_step[s])) for s in sorted(by_step) if chosen[s]),
        proposals=tuple(p for s in sorted(by_step) for p in by_step[s]),
        open_steps=tuple(s for s in sorted(by_step) if not chosen[s]),
        target_ms=number(files.record.target_ms),
    )


def _line(proposals: Iterable[Proposal], field: str) -> tuple[list[int], list[float]]:
    """Steps and values, where there is a value."""
    known = [(p.step, v) for p in proposals if (v := getattr(p, field)) is not None]
    return [s for s, _ in known], [v for _, v in known]


def _paint(axes: Sequence[Axes], info: TraceInfo) -> None:
    faint = info.proposals if len(info.proposals) <= DRAWN else ()
    for ax, field in zip(axes, ("latency_ms", "accuracy"), strict=True):
        x, y = _line((p for p in faint if not p.chosen), field)
        if x:
            ax.scatter(x, y, s=7, color=MUTED, alpha=0.35, linewidths=0, label="not chosen")
        ax.plot(*_line(info.path, field), color=INK, linewidth=1.0, zorder=2)
        for kind, colour, shape in (("seed", INK, "D"), *_KINDS):
            x, y = _line((p for p in info.path if p.kind == kind), field)
            if x:
                ax.scatter(x, y, s=22, color=colour, marker=shape, zorder=3, label=kind)
    if info.target_ms is not None:
        axes[0].axhline(info.target_ms, color=ORANGE, linewidth=1.0, linestyle=(0, (4, 2)), label="target")
    axes[0].set_ylabel("latency, ms")
    axes[0].tick_params(labelbottom=False)
    axes[1].set_ylabel("accuracy")
    axes[1].set_xlabel("step")
    axes[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        axes[1].legend(handles, labels, loc="upper left", bbox_to_anchor=(0, -0.32), ncols=3, borderaxespad=0)


def _cut(p: Proposal) -> list[object]:
    return [
        *(p.kind, p.where, f"{p.before} → {p.after}", ms_text(p.latency_ms), ms_text(p.delta_ms, sign=True)),
        *(fixed(p.accuracy, 2), fixed(p.delta_accuracy, 3, sign=True)),
    ]


_COLUMNS = ["kind", "where", "from → to", "#latency, ms", "#Δ ms", "#accuracy", "#Δ accuracy"]


def render(info: TraceInfo | None, fault: str) -> Html:
    """The section, or why there is none."""
    title = "3. NetAdapt"
    if info is None:
        return section("netadapt", title, why(fault))
    if not info.steps:
        at = f" at {ms_text(info.seed.latency_ms)} ms" if info.seed is not None else ""
        return section(
            "netadapt",
            title,
            why(f"netadapt.csv holds no finished step: NetAdapt left the seed as it was{at}."),
        )
    figure = draw(
        *("netadapt", "Latency and accuracy per NetAdapt step", lambda axes: _paint(axes, info)),
        size=(4.5, 4.2),
        panels=2,
    )
    first, last = info.path[0], info.path[-1]
    n = len(info.steps)
    text = f"{n} step{'' if n == 1 else 's'}, {len(info.proposals):,} proposals compared"
    if first.latency_ms is not None and last.latency_ms is not None:
        text += f"; from {ms_text(first.latency_ms)} to {ms_text(last.latency_ms)} ms"
    if len(info.proposals) > DRAWN:
        text += "; only chosen proposals are drawn"
    if info.open_steps:
        text += f"; step {', '.join(map(str, info.open_steps))} has no choice yet"
    steps = [[s.choice.step, *_cut(s.choice), fixed(s.choice.score, 4, sign=True), s.compared] for s in info.steps]
    everything = [[p.step, *_cut(p), fixed(p.loss, 3), fixed(p.score, 4, sign=True)] for p in info.proposals]
    return section(
        "netadapt",
        title,
        tag("figure", figure, tag("figcaption", text + ".")),
        table(["#step", *_COLUMNS, "#score", "#compared"], steps),
        tag(
            "details",
            tag("summary", f"All {len(info.proposals):,} proposals"),
            table(
                ["#step", *_COLUMNS, "#loss", "#score"],
                everything,
                marked=[i for i, p in enumerate(info.proposals) if p.chosen],
            ),
        ),
    )
