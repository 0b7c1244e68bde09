"""The loop: propose, fine-tune each, keep the best, until the target is met (Yang 2018; Howard 2019, section 4.2)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from mbv3.netadapt.choose import Scored, choose, ratio
from mbv3.netadapt.proposals import Proposal, propose
from mbv3.nn import cut_state
from mbv3.spec import ArchSpec, Site

__all__ = ["Candidate", "FineTune", "Start", "Step", "netadapt", "step_proposals"]

State = dict[str, Tensor]
LONGEST = 3  # deltas


class FineTune(Protocol):
    """Short fine-tuning: (spec, inherited weights, step, proposal) to (weights, accuracy in percent, loss)."""

    def __call__(self, spec: ArchSpec, state: State, step: int, proposal: int) -> tuple[State, float, float]: ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """A proposal with its score after fine-tuning; `ratio` is dAcc / |dLatency| in points per ms."""

    proposal: Proposal
    scored: Scored
    ratio: float


@dataclass(frozen=True)
class Start:
    """A network, its weights (none where accuracy is a closed form) and score, from which a step departs."""

    step: int
    spec: ArchSpec
    state: State
    scored: Scored


@dataclass(frozen=True)
class Step:
    """A step: its candidates so far, of `total`, and the network after it. `chosen` is the index of the best candidate;
    None while candidates are still being scored."""

    candidates: tuple[Candidate, ...]
    total: int
    chosen: int | None
    after: Start


def step_proposals(
    start: Start, target_ms: float, delta_ms: float, latency: Callable[[Sequence[ArchSpec]], Sequence[float]],
    fine: int, some: Collection[Site] | None = None,
) -> list[Proposal]:  # fmt: skip
    """A step's proposals: cuts of at least `delta_ms`, or of what is left to the target."""
    now = start.scored
    # the last step need not overshoot the target; cliffs decide how near it gets
    save = min(delta_ms, now.latency_ms - target_ms)
    proposals = propose(start.spec, now.latency_ms, save, latency, fine, some)
    # departure: at a cliff a cut can be as long as many steps and fall far below the target, and one noisy accuracy
    # should not decide it; such a cut is a proposal only where there is no shorter one
    return [p for p in proposals if now.latency_ms - p.latency_ms <= LONGEST * delta_ms] or proposals


def netadapt(
    start: Start,
    target_ms: float,
    delta_ms: float,
    latency: Callable[[Sequence[ArchSpec]], Sequence[float]],
    fine_tune: FineTune,
    *,
    noise: float = 0.0,
    fine: int = 2,
    some: Collection[Site] | None = None,
) -> Iterator[Step]:
    """Shrink `start` until its latency is at most `target_ms`, by at least `delta_ms` a step (paper: 0.01 |L|).

    `some`: the sites that may be cut, by default all.
    Ends without reaching the target when no site can be cut further. Yields a Step for every scored candidate
    (`chosen` None) and for every finished step. A caller that measures the network on the way stops after a step and
    calls again from there.
    """
    while True:
        now = start.scored
        if now.latency_ms <= target_ms:
            return
        proposals = step_proposals(start, target_ms, delta_ms, latency, fine, some)
        if not proposals:
            return
        candidates: list[Candidate] = []
        states: list[State] = []
        for i, p in enumerate(proposals):
            inherited = cut_state(start.state, start.spec, p.spec) if start.state else {}
            state, accuracy, loss = fine_tune(p.spec, inherited, start.step + 1, i)
            scored = Scored(p.latency_ms, accuracy, loss)
            candidates.append(Candidate(p, scored, ratio(now, scored)))
            states.append(state)
            yield Step(tuple(candidates), len(proposals), None, start)
        try:
            best = choose(now, [c.scored for c in candidates], noise)
        except ValueError:
            return
        chosen = candidates[best]
        start = Start(start.step + 1, chosen.proposal.spec, states[best], chosen.scored)
        del states
        yield Step(tuple(candidates), len(proposals), best, start)
