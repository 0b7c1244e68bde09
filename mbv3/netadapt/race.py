"""A step's choice on real evidence: by what cuts lose before any step, or by the loss after some, against the uncut
network treated alike, promising ones for longer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mbv3.netadapt.choose import Scored
from mbv3.netadapt.proposals import Proposal
from mbv3.netadapt.run import Candidate, Start, Step, step_proposals
from mbv3.nn import cut_state
from mbv3.spec import ArchSpec, Site

__all__ = [
    "Inherit",
    "Job",
    "Lost",
    "Paired",
    "Tried",
    "Tune",
    "TuneMany",
    "largest",
    "netadapt_paired",
    "paired",
    "rungs",
]

State = dict[str, Tensor]
DIVERGED = 3  # proposals that are fine-tuned for the steps of all, and are not finite, before a step is given up
FASTER = 4  # times as many steps in the next rung
LAST = 2  # proposals in the last rung
EXTRA = 2  # times that two proposals within a standard error of each other get more steps


@dataclass(frozen=True)
class Tried:
    """A network after fine-tuning: its weights, and loss and correctness on every held-out image. Weights that
    are not finite leave losses of NaN."""

    state: State
    losses: NDArray[np.float64]
    right: NDArray[np.bool_]

    @property
    def accuracy(self) -> float:
        """In percent; NaN where the fine-tuning diverged."""
        return 100 * float(self.right.mean()) if np.isfinite(self.losses).all() else math.nan


class Tune(Protocol):
    """Fine-tuning: (spec, weights, step, steps) to what became of it. Equal `step` and `steps` mean equal batches."""

    def __call__(self, spec: ArchSpec, state: State, step: int, steps: int) -> Tried: ...


Job = tuple[ArchSpec, State, int, int]  # what a `Tune` takes: spec, weights, step, steps
# (the network of a step, a smaller one) to the smaller one's weights before any fine-tuning
Inherit = Callable[[Start, ArchSpec], State]
# (the network of a step, a smaller one) to what is lost for good, lower is better
Lost = Callable[[Start, ArchSpec], float]
TuneMany = Callable[[Iterable[Job]], Iterator[Tried]]  # fine-tunings that do not depend on each other, in their order


@dataclass(frozen=True, slots=True)
class Paired:
    """Loss of a proposal minus that of the uncut network, image by image, per ms saved: lower is better; and its
    standard error."""

    per_ms: float
    error: float


def paired(proposal: Tried, control: Tried, saved_ms: float) -> Paired:
    """The paired difference of two networks that had the same steps on the same batches; infinite for one that
    diverged."""
    gap = proposal.losses - control.losses
    if not np.isfinite(gap).all():
        return Paired(math.inf, 0.0)
    saved = max(saved_ms, 1e-9)
    error = float(gap.std(ddof=1)) / len(gap) ** 0.5 if len(gap) > 1 else 0.0
    return Paired(float(gap.mean()) / saved, error / saved)


def rungs(proposals: int, steps: int) -> list[tuple[int, int]]:
    """(proposals, steps) of each rung, so that all of them cost as many steps as `steps` for every proposal: all at a
    few, the best third at four times as many, the last two at sixteen (successive halving, Jamieson 2016,
    arXiv:1502.07943)."""
    if proposals <= 1 or steps == 0:
        return [(proposals, steps)]
    third = max(LAST, -(-proposals // 3))
    if proposals <= LAST:
        counts = [proposals]
    elif third == LAST:
        counts = [proposals, LAST]
    else:
        counts = [proposals, third, LAST]
    weight = sum((n + 1) * FASTER**i for i, n in enumerate(counts))  # the uncut network is in every rung
    first = max(1, round(steps * proposals / weight))
    return [(n, first * FASTER**i) for i, n in enumerate(counts)]


def netadapt_paired(
    start: Start,
    target_ms: float,
    delta_ms: float,
    latency: Callable[[Sequence[ArchSpec]], Sequence[float]],
    tune: Tune,
    steps: Callable[[], int],
    *,
    fine: int = 2,
    halve: bool = True,
    some: Collection[Site] | None = None,
    many: TuneMany | None = None,
    inherit: Inherit | None = None,
    lost: Lost | None = None,
) -> Iterator[Step]:
    """NetAdapt as `netadapt`, with the choice by paired differences to the uncut network after the same fine-tuning.

    The paper compares a proposal after T steps with its parent before them, so that what every network gains from T
    steps decides between large and small cuts. `steps`: T, asked for before every step. `halve`: spend the steps by
    `rungs`; else every proposal gets T. `some`: the sites that may be cut, by default all. A candidate's `ratio` is
    minus its difference of loss per ms. The weights of one proposal are held at a time, besides those of the best and
    of the uncut network. `many`: `tune` for the proposals of a rung, perhaps in processes. `inherit`: what a proposal
    begins with, by default the filters of largest L2 norm. `lost`: what decides in place of the loss, per ms saved; the
    steps of all proposals are then the chosen one's, and the others have no accuracy.
    """
    while True:
        if start.scored.latency_ms <= target_ms:
            return
        proposals = step_proposals(start, target_ms, delta_ms, latency, fine, some)
        if not proposals:
            return
        race = _Race(start, proposals, many or (lambda jobs: (tune(*job) for job in jobs)), inherit or largest)
        if lost is not None:
            step = race.chosen(lost, steps())
            if step is None:
                return
            start = step.after
            yield step
            continue
        plan = rungs(len(proposals), steps()) if halve else [(len(proposals), steps())]
        alive = list(range(len(proposals)))
        for n, length in plan:
            alive = race.best(alive, n)
            for _ in race.rung(alive, length):
                yield Step(race.candidates(), len(proposals), None, start)
        for _ in range(EXTRA if halve and length else 0):
            alive = race.best(alive, LAST)
            if len(alive) < LAST or not race.undecided(*alive):
                break
            length *= FASTER
            for _ in race.rung(alive, length):
                pass
        best = race.winner(alive)
        if best is None:
            return
        order, candidates = race.listed()
        chosen = candidates[order.index(best)]
        assert race.kept is not None
        state = race.kept[1].state if race.kept[0] == best else race.again(best).state
        start = Start(start.step + 1, chosen.proposal.spec, state, chosen.scored)
        yield Step(candidates, len(proposals), order.index(best), start)


def largest(begin: Start, spec: ArchSpec) -> State:
    """The filters of largest L2 norm, as the paper has it."""
    return cut_state(begin.state, begin.spec, spec)


class _Race:
    """What is known of every proposal of a step."""

    def __init__(self, start: Start, proposals: Sequence[Proposal], many: TuneMany, inherit: Inherit) -> None:
        self.start, self.proposals, self.many, self.inherit = start, proposals, many, inherit
        self.found: dict[int, Paired] = {}
        self.scored: dict[int, Scored] = {}
        self.length: dict[int, int] = {}
        self.control: tuple[int, Tried] | None = None
        self.kept: tuple[int, Tried] | None = None  # the best of the longest

    def rung(self, alive: Sequence[int], steps: int) -> Iterator[int]:
        """Fine-tune the proposals `alive`, and the uncut network where it was not, for `steps` from its weights;
        yields each of them when it is known."""
        begin = self.start
        same = self.control is not None and self.control[0] == steps
        uncut = [] if same else [(begin.spec, begin.state, begin.step + 1, steps)]
        tried = self.many(itertools.chain(uncut, (self._job(i, steps) for i in alive)))
        if uncut:
            self.control = steps, replace(next(tried), state={})
        for i, one in zip(alive, tried, strict=True):
            self._known(i, one, steps)
            yield i

    def _known(self, i: int, tried: Tried, steps: int) -> None:
        assert self.control is not None
        p = self.proposals[i]
        self.found[i] = paired(tried, self.control[1], self.start.scored.latency_ms - p.latency_ms)
        self.scored[i] = Scored(p.latency_ms, tried.accuracy, float(tried.losses.mean()))
        self.length[i] = steps
        if self.kept is None or self._rank(i) < self._rank(self.kept[0]):
            self.kept = i, tried

    def _job(self, i: int, steps: int) -> Job:
        p, begin = self.proposals[i], self.start
        return p.spec, self.inherit(begin, p.spec), begin.step + 1, steps

    def chosen(self, lost: Lost, steps: int) -> Step | None:
        """The step by what is lost per ms, the chosen proposal fine-tuned for the `steps` of all; None where the first
        DIVERGED are not finite."""
        begin, listed = self.start, self.proposals
        saved = [max(begin.scored.latency_ms - p.latency_ms, 1e-9) for p in listed]
        per_ms = [lost(begin, p.spec) / ms for p, ms in zip(listed, saved, strict=True)]
        for best in sorted(range(len(listed)), key=lambda i: (per_ms[i], i))[:DIVERGED]:
            tried = next(self.many([self._job(best, steps * len(listed))]))
            if not np.isfinite(tried.losses).all():
                continue
            scored = [Scored(p.latency_ms, math.nan, math.nan) for p in listed]
            scored[best] = Scored(listed[best].latency_ms, tried.accuracy, float(tried.losses.mean()))
            candidates = tuple(Candidate(p, s, -x) for p, s, x in zip(listed, scored, per_ms, strict=True))
            after = Start(begin.step + 1, listed[best].spec, tried.state, scored[best])
            return Step(candidates, len(listed), best, after)
        return None

    def again(self, i: int) -> Tried:
        """Proposal `i` as it was last fine-tuned."""
        return next(self.many([self._job(i, self.length[i])]))

    def _rank(self, i: int) -> tuple[int, float, int]:
        """Smaller is better: the longest fine-tuned ones first."""
        return -self.length[i], self.found[i].per_ms, i

    def best(self, alive: Sequence[int], n: int) -> list[int]:
        return sorted(alive, key=lambda i: (self.found[i].per_ms if i in self.found else 0.0, i))[:n]

    def undecided(self, a: int, b: int) -> bool:
        """Whether two proposals are within a standard error of their difference."""
        one, other = self.found[a], self.found[b]
        return abs(one.per_ms - other.per_ms) < math.hypot(one.error, other.error)

    def winner(self, alive: Sequence[int]) -> int | None:
        finite = [i for i in alive if math.isfinite(self.found[i].per_ms)]
        finite = finite or [i for i in self.found if math.isfinite(self.found[i].per_ms)]
        return min(finite, key=self._rank, default=None)

    def listed(self) -> tuple[list[int], tuple[Candidate, ...]]:
        """(indices, candidates) of the proposals that were tried, in their order."""
        order = sorted(self.found)
        return order, tuple(Candidate(self.proposals[i], self.scored[i], -self.found[i].per_ms) for i in order)

    def candidates(self) -> tuple[Candidate, ...]:
        return self.listed()[1]
