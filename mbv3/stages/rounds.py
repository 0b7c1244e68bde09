"""Rounds of short trainings that drop networks, the last training of what is left, and what they leave behind."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from mbv3.events import Event, Note, StageStart
from mbv3.spec import pixels
from mbv3.stages.contenders import Contender
from mbv3.stages.keep import Keep
from mbv3.stages.tune import Tuned, on_device
from mbv3.tasks import Work
from mbv3.training import Answers, ImageData

__all__ = [
    "Alike", "Learn", "Ledger", "Outcome", "Pair", "Weights", "better_half", "by_loss", "decided", "lead", "longer",
    "one_round", "reported", "told", "winner",
]  # fmt: skip

STAGE = "candidates"

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
    """The CSV file `name` of every network of every round; rows of other parts stand before its own. `metric`: the
    column of the scores."""

    keep: Keep
    name: str
    metric: str
    rows: list[dict[str, object]] = field(default_factory=list)

    def record(self, number: str, tuned: Sequence[Pair], stay: Sequence[Contender]) -> None:
        for c, t in tuned:
            self.rows.append(
                {
                    "round": number, "network": c.name, "resolution": pixels(c.spec.resolution), "ms": f"{c.ms:.5f}",
                    "steps": t.steps, self.metric: f"{t.chosen_on.score:.3f}", "loss": f"{t.chosen_on.loss.mean():.5f}",
                    "stays": int(any(c is s for s in stay)),
                }
            )  # fmt: skip
        columns = ("round", "network", "resolution", "ms", "steps", self.metric, "loss", "stays")
        self.keep.write_rows(self.name, columns, self.rows)


def told(answers: Answers, work: Work) -> str:
    """A score on the choosing images, for a reader."""
    return f"{work.metric} {answers.score:.1f} +- {answers.error:.1f} % of {len(answers)} choosing images"


def by_loss(tuned: Sequence[Pair]) -> list[Contender]:
    """The contenders, that of the lowest mean loss on the choosing images first, or of the highest score where losses
    are no common measure."""
    return [c for c, _ in sorted(tuned, key=lambda pair: pair[1].chosen_on.rank)]


def better_half(tuned: Sequence[Pair]) -> list[Contender]:
    """What stays after a round of successive halving (Jamieson 2016, arXiv:1502.07943): the half of lower loss on the
    choosing images."""
    return by_loss(tuned)[: max(1, len(tuned) // 2)]


@dataclass(frozen=True, slots=True)
class Lead:
    """By how much the loss of a network is below another's after the last round that both learned in, the standard
    error of that over common images, and what it becomes by the end at the trend of the rounds."""

    now: float
    error: float
    later: float

    @property
    def holds(self) -> bool:
        """It is beyond the error now, and nothing says that it will be lost."""
        return self.now > self.error and self.later > 0


def lead(rounds: Sequence[Sequence[Pair]], one: Contender, other: Contender, horizon: float) -> Lead:
    """The lead of `one` over `other`, and what is left of it after `horizon` times the steps of the first round. What
    learns fast is often overtaken: after 24 steps MobileNetV3-Small with two strides removed is 0.19 behind a wider one
    with one removed on CIFAR-10, after 72 steps 0.07, and after 1,000 it is three points of top-1 ahead. A lead may
    shrink and stay, too. So each loss goes on as the power of the steps that it was between two rounds, as losses do
    (Hestness 2017, arXiv:1712.00409)."""
    found = [{c.name: t.chosen_on for c, t in r} for r in rounds]
    both = [(r[one.name], r[other.name]) for r in found if one.name in r and other.name in r]
    now, error = both[-1][0].lower_by(both[-1][1])
    if len(both) == 1:
        return Lead(now, error, now)
    further = math.log(horizon / 3) / math.log(3)  # the second round triples what a network has learned
    ends = [_further(first.rank, then.rank, further) for first, then in zip(*both[-2:], strict=True)]
    return Lead(now, error, ends[1] - ends[0])


def _further(first: float, then: float, times: float) -> float:
    """A loss after so many times the step from `first` to `then` in the logarithm of the steps, as a power of the
    steps; where it is a score, in a line."""
    return then * (then / first) ** times if first > 0 and then > 0 else then + (then - first) * times


def one_round(
    number: int | str, work: Sequence[tuple[Contender, int]], states: dict[str, Weights], learn: Learn, title: str,
    stage: str = STAGE,
) -> Generator[Event, None, list[Pair]]:  # fmt: skip
    """Every contender trained for its steps from its weights in `states`, which become those after it."""
    yield StageStart(stage, title)
    tuned: list[Pair] = []
    for c, steps in work:
        t = yield from learn(f"{c.name}-{number}", c, states[c.name], steps)
        yield Note(stage, f"{c.called}: {t.chosen_on.score:.1f} %, loss {t.chosen_on.loss.mean():.3f}")
        tuned.append((c, t))
        states[c.name] = t.state
    return tuned


def winner(tuned: Sequence[Pair]) -> tuple[Pair, str]:
    """The best on the choosing images, and what to say where that is a baseline. Of networks whose scores differ by no
    more than the error the one with the lowest loss is it, which tells networks apart with less noise."""
    top = max((t.chosen_on for _, t in tuned), key=lambda answers: (answers.score, -answers.rank))

    def level(pair: Pair) -> bool:
        by, error = top.better_by(pair[1].chosen_on)
        return by <= error

    best = min(filter(level, tuned), key=lambda pair: pair[1].chosen_on.rank)
    found = next((pair for pair in tuned if pair[0].own), None)
    if best[0].own or found is None:
        return best, ""
    by, error = best[1].chosen_on.better_by(found[1].chosen_on)
    mine = "the network that was cut" if found[0].kind == "cut" else found[0].called
    by_loss_alone = by <= error and not best[1].chosen_on.by_score
    better, loss = ("is level with", ", and has a lower loss") if by_loss_alone else ("is better than", "")
    return best, (
        f"{best[0].called} {better} {mine} ({by:+.1f} +- {error:.1f} points) on the choosing images, trained "
        f"alike{loss}: it is what is delivered"
    )


def decided(rounds: Sequence[Sequence[Pair]], default: Contender, metric: str, horizon: float) -> tuple[Pair, str]:
    """What wins after `rounds`, and what to say where that is a baseline: the network of the last round with the lowest
    loss on the choosing images whose lead over `default`, what anyone would take, holds; else that one."""
    last = {c.name: (c, t) for c, t in rounds[-1]}
    order = [c for c in by_loss(rounds[-1]) if c.name != default.name]
    best = last[next((c for c in order if lead(rounds, c, default, horizon).holds), default).name]
    own = next((found for r in reversed(rounds) if (found := [pair for pair in r if pair[0].own])), [])
    mine = min(own, key=lambda pair: pair[1].chosen_on.rank, default=None)
    if best[0].own or mine is None:
        return best, ""
    ahead = lead(rounds, mine[0], best[0], horizon)
    other = last[best[0].name][1] if mine[0].name in last else {c.name: t for c, t in rounds[0]}[best[0].name]
    by, points = mine[1].chosen_on.better_by(other.chosen_on)
    loss = "" if mine[1].chosen_on.by_score else f" and its loss by {-ahead.now:+.3f} +- {ahead.error:.3f}"
    trend = ", and the trend is against it" if ahead.now > ahead.error else ""
    return best, (
        f"{mine[0].called} does not beat {best[0].called} beyond the error{trend}: trained alike, its {metric} on "
        f"{len(mine[1].chosen_on)} choosing images differs by {by:+.1f} +- {points:.1f} points{loss}; what "
        f"is delivered is {best[0].called}"
    )


def longer(
    c: Contender, t: Tuned, steps: int, learn: Learn, forecast_s: float | None = None
) -> Generator[Event, None, Tuned]:
    """The winner trained for the rest of the time; as it was where that loses accuracy beyond the error."""
    if not steps:
        return t
    yield StageStart("training", f"{steps} steps more of {c.called}", forecast_s)
    after = yield from learn(f"{c.name}-last", c, t.state, steps)
    by, error = after.chosen_on.better_by(t.chosen_on)
    if by < -error:
        yield Note("training", f"the longer training changed {by:.1f} +- {error:.1f} points: the shorter one stays")
        return t
    yield Note("training", f"{after.chosen_on.score:.1f} % of the choosing images after it")
    return after


def reported(tuned: Tuned, report: ImageData, work: Work) -> Answers:
    """The answers of a trained network on report images."""
    return work.answers(on_device(tuned.spec, tuned.state), report, tuned.spec.resolution)
