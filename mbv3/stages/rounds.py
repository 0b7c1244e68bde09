"""Rounds of short trainings that drop networks, the last training of what is left, and what they leave behind."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from mbv3.data import ImageSet
from mbv3.events import Event, Note, StageStart
from mbv3.spec import pixels
from mbv3.stages.contenders import Contender
from mbv3.stages.keep import Keep
from mbv3.stages.tune import Answers, Tuned, answers, better_by, lower_by, on_device

__all__ = [
    "Alike", "Learn", "Ledger", "Outcome", "Pair", "Weights", "better_half", "by_loss", "decided", "longer",
    "one_round", "reported", "winner",
]  # fmt: skip

STAGE = "candidates"
COLUMNS = ("round", "network", "resolution", "ms", "steps", "top1", "loss", "stays")

Weights = Mapping[str, Tensor] | None
Pair = tuple[Contender, Tuned]


class Learn(Protocol):
    """Trains a contender from weights for so many steps; what is kept under `name` is not trained again."""

    def __call__(self, name: str, c: Contender, state: Weights, steps: int, /) -> Generator[Event, None, Tuned]: ...


@dataclass(frozen=True, eq=False)
class Alike:
    """A network that was trained beside others: as it was then, and its answers on report images."""

    contender: Contender
    tuned: Tuned
    reported: Answers


@dataclass(frozen=True, eq=False)
class Outcome:
    """`found`: what is delivered, after its last training, with its answers on the report images; `steps` in all.
    `alike`: what was compared, the winner first. `doubt`: what to say where a baseline is delivered; else nothing."""

    found: Contender
    tuned: Tuned
    reported: Answers
    alike: tuple[Alike, ...]
    doubt: str
    steps: int


@dataclass
class Ledger:
    """The CSV file `name` of every network of every round; rows of other parts stand before its own."""

    keep: Keep
    name: str
    rows: list[dict[str, object]] = field(default_factory=list)

    def record(self, number: str, tuned: Sequence[Pair], stay: Sequence[Contender]) -> None:
        for c, t in tuned:
            self.rows.append(
                {
                    "round": number, "network": c.name, "resolution": pixels(c.spec.resolution), "ms": f"{c.ms:.5f}",
                    "steps": t.steps, "top1": f"{t.chosen_on.top1:.3f}", "loss": f"{t.chosen_on.loss.mean():.5f}",
                    "stays": int(any(c is s for s in stay)),
                }
            )  # fmt: skip
        self.keep.write_rows(self.name, COLUMNS, self.rows)


def by_loss(tuned: Sequence[Pair]) -> list[Contender]:
    """The contenders, that of the lowest mean loss on the choosing images first."""
    return [c for c, _ in sorted(tuned, key=lambda pair: float(pair[1].chosen_on.loss.mean()))]


def better_half(tuned: Sequence[Pair]) -> list[Contender]:
    """What stays after a round of successive halving (Jamieson 2016, arXiv:1502.07943): the half of lower loss on the
    choosing images, and the next one where it is not above the last of these by more than the paired standard error."""
    answers_of = {c.name: t.chosen_on for c, t in tuned}
    order = by_loss(tuned)
    half = max(1, len(order) // 2)
    if half < len(order):
        gap, error = lower_by(answers_of[order[half - 1].name], answers_of[order[half].name])
        half += gap <= error
    return order[:half]


def one_round(
    number: int | str, work: Sequence[tuple[Contender, int]], states: dict[str, Weights], learn: Learn, title: str,
    stage: str = STAGE,
) -> Generator[Event, None, list[Pair]]:  # fmt: skip
    """Every contender trained for its steps from its weights in `states`, which become those after it."""
    yield StageStart(stage, title)
    tuned: list[Pair] = []
    for c, steps in work:
        t = yield from learn(f"{c.name}-{number}", c, states[c.name], steps)
        yield Note(stage, f"{c.called}: {t.chosen_on.top1:.1f} %, loss {t.chosen_on.loss.mean():.3f}")
        tuned.append((c, t))
        states[c.name] = t.state
    return tuned


def winner(tuned: Sequence[Pair]) -> tuple[Pair, str]:
    """The best on the choosing images, and what to say where that is a baseline."""
    best = max(tuned, key=lambda pair: (pair[1].chosen_on.top1, -pair[1].chosen_on.loss.mean()))
    found = next((pair for pair in tuned if pair[0].own), None)
    if best[0].own or found is None:
        return best, ""
    by, error = better_by(best[1].chosen_on, found[1].chosen_on)
    return best, (
        f"{best[0].called} is better than the network that was cut by {by:.1f} +- {error:.1f} points on the choosing "
        "images, trained alike: it is what is delivered"
    )


def decided(rounds: Sequence[Sequence[Pair]]) -> tuple[Pair, str]:
    """What wins after `rounds`, and what to say where that is a baseline: of the last round the network of lowest loss
    on the choosing images, but one of ours only where no baseline's loss is within a paired standard error of its."""
    last = sorted(rounds[-1], key=lambda pair: float(pair[1].chosen_on.loss.mean()))
    best = last[0]
    plain = next((pair for pair in last if not pair[0].own), None)
    if best[0].own and plain is not None:
        gap, error = lower_by(best[1].chosen_on, plain[1].chosen_on)
        best = best if gap > error else plain
    if best[0].own:
        return best, ""
    met = [(mine, other) for r in rounds for mine in r for other in r if mine[0].own and other[0].name == best[0].name]
    if not met:
        return best, ""
    mine, other = met[-1]
    gap, error = lower_by(mine[1].chosen_on, other[1].chosen_on)
    by, points = better_by(mine[1].chosen_on, other[1].chosen_on)
    return best, (
        f"{mine[0].called} does not beat {best[0].called} beyond the error: trained alike, its top-1 on "
        f"{len(mine[1].chosen_on.right)} choosing images differs by {by:+.1f} +- {points:.1f} points and its loss by "
        f"{-gap:+.3f} +- {error:.3f}; what is delivered is {best[0].called}"
    )


def longer(
    c: Contender, t: Tuned, steps: int, learn: Learn, forecast_s: float | None = None
) -> Generator[Event, None, Tuned]:
    """The winner trained for the rest of the time; as it was where that loses accuracy beyond the error."""
    if not steps:
        return t
    yield StageStart("training", f"{steps} steps more of {c.called}", forecast_s)
    after = yield from learn(f"{c.name}-last", c, t.state, steps)
    by, error = better_by(after.chosen_on, t.chosen_on)
    if by < -error:
        yield Note("training", f"the longer training changed {by:.1f} +- {error:.1f} points: the shorter one stays")
        return t
    yield Note("training", f"{after.chosen_on.top1:.1f} % of the choosing images after it")
    return after


def reported(tuned: Tuned, report: ImageSet) -> Answers:
    """The answers of a trained network on report images."""
    return answers(on_device(tuned.spec, tuned.state), report, tuned.spec.resolution)
