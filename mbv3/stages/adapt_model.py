"""NetAdapt where accuracy is a closed form: no images, no weights, seconds a start."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from torch import Tensor

from mbv3.accuracy import PAPER, imagenet
from mbv3.errors import BadInput
from mbv3.events import Event, Note, Progress, StageStart
from mbv3.netadapt import Candidate, Proposal, Scored, Start, Step, netadapt
from mbv3.space import Limits
from mbv3.spec import ArchSpec, Site, among, channels, cut, dump_spec, sites
from mbv3.stages.adapt import Adapted
from mbv3.stages.adapt_trace import COLUMNS, seed_row, step_rows
from mbv3.stages.adapt_tune import STAGE, Deployed
from mbv3.stages.curve import curve_file
from mbv3.stages.keep import Keep, Memory
from mbv3.tables import AIM, Latency, Whole

__all__ = ["adapt_predicted"]

SLACK = 0.015  # of the target, by the upper bound of a time: what is left beyond it is given back as channels
TRIES = 5  # to come nearer to the target once a network is within, each with a verdict of its own
WIDER = (8, 16)  # channels more that a site is tried with
MEASURED_S = 20.0  # after this no further start is adapted on the device, and missing rows are estimated
MOST_STEPS = 60
FEW = 3  # best results to which channels are given back where nothing is timed
MODEL_DELTA = 0.02  # of the start's ms a step: no noise of a fine-tuning has to be outweighed, so steps may be large


@dataclass(frozen=True)
class _Walk:
    """From a start to a network: the steps with the score before each, and where it stands."""

    start: Start
    steps: tuple[tuple[Step, Scored], ...]
    now: Start
    verdict: Whole | None = None
    correction: float = 1.0

    def after(self, step: Step) -> _Walk:
        return replace(self, steps=(*self.steps, (step, self.now.scored)), now=step.after)

    @property
    def ms(self) -> float:
        return self.verdict.ms if self.verdict else self.now.scored.latency_ms


def adapt_predicted(
    starts: Sequence[ArchSpec],
    latency: Latency,
    target_ms: float,
    *,
    delta: float | None = None,
    recipe: str = PAPER,
    limits: Limits | None = None,
    keep: Keep | None = None,
    some: Collection[Site] | None = None,
) -> Generator[Event, None, Adapted]:
    """Shrink every network of `starts` until it takes at most `target_ms`, by the ImageNet model's loss of accuracy per
    ms (Howard 2019, section 4.2, arXiv:1905.02244; Yang 2018, arXiv:1804.03230), and return the most accurate result.

    All starts are adapted on the rows of the table, layers without one estimated. Where a device is at hand the best of
    them are adapted again with missing rows measured, the result is timed whole, and channels are given back where more
    than SLACK of the target is left. `delta`: the least cut of a step as a share of the start's ms. Starts
    within `limits` stay so: cuts only lower what a network has, and channels are given back within them.
    `some`: the sites that may be cut, by default all.

    Raises:
        BadInput: no start, or a start that the ImageNet model cannot score.
    """
    if not starts:
        raise BadInput("NetAdapt needs at least one network to start from")
    keep = keep or Memory()
    judge = _Predicted(recipe, limits or Limits(), some)
    least = MODEL_DELTA if delta is None else delta
    timed = latency.device is not None
    yield StageStart(STAGE, f"NetAdapt from {len(starts)} network(s) to {target_ms:g} ms, by predicted accuracy")
    rough = Deployed(latency.rough(1.0), starts[0].head.classes)
    aim = target_ms * (AIM if timed else 1.0)
    walks: list[_Walk] = []
    began = time.monotonic()
    for i, spec in enumerate(starts):
        walks.append(_shrunk(_begin(spec, rough, judge), rough, judge, aim, least))
        spent = time.monotonic() - began
        text = f"start {i + 1}: {walks[-1].now.scored.accuracy:.2f} % at {walks[-1].now.scored.latency_ms:.3f} ms"
        yield Progress(STAGE, i + 1, len(starts), text, spent / (i + 1) * (len(starts) - i - 1))
    ranked = sorted(range(len(walks)), key=lambda i: _rank(walks[i], aim))
    if timed:
        best = yield from _on_device(starts, ranked, walks, latency, judge, target_ms, least)
    else:
        for i in ranked[:FEW]:
            walks[i] = _wider(walks[i], rough, judge, aim)
        best = min(ranked[:FEW], key=lambda i: _rank(walks[i], aim))
    walk = walks[best]
    latency.correction = walk.correction
    deployed = Deployed(latency, starts[best].head.classes)
    _record(keep, walk, deployed)
    found, scored = walk.now.spec, walk.now.scored
    estimate = imagenet(found, recipe=recipe)
    yield Note(STAGE, f"from start {best + 1} of {len(starts)}: {estimate} predicted, {walk.ms:.3f} ms")
    reached = walk.ms <= target_ms
    return Adapted(
        deployed.spec(found), None, scored.latency_ms, walk.verdict, scored.accuracy, reached, walk.correction,
        estimate, best, found,
    )  # fmt: skip


def _rank(walk: _Walk, most_ms: float) -> tuple[bool, float, float]:
    """Smaller is better: within the limit, then the more accurate, then the faster."""
    within = walk.ms <= most_ms
    return (not within, -walk.now.scored.accuracy if within else walk.ms, walk.ms)


class _Predicted:
    """What `netadapt` asks for in place of fine-tuning: the predicted accuracy, and no weights."""

    def __init__(self, recipe: str, limits: Limits, some: Collection[Site] | None) -> None:
        self.recipe, self.limits, self.some = recipe, limits, some

    def top1(self, spec: ArchSpec) -> float:
        return imagenet(spec, recipe=self.recipe).value

    def __call__(
        self, spec: ArchSpec, state: dict[str, Tensor], step: int, proposal: int
    ) -> tuple[dict[str, Tensor], float, float]:
        return {}, self.top1(spec), 0.0


def _begin(spec: ArchSpec, deployed: Deployed, judge: _Predicted) -> _Walk:
    start = Start(0, spec, {}, Scored(deployed([spec])[0], judge.top1(spec), 0.0))
    return _Walk(start, (), start)


def _shrunk(walk: _Walk, deployed: Deployed, judge: _Predicted, aim: float, delta: float) -> _Walk:
    """`walk` after NetAdapt's steps down to `aim` ms."""
    least = delta * walk.start.scored.latency_ms
    while True:
        fine = deployed.latency.fine
        steps = netadapt(walk.now, aim, least, deployed, judge, fine=fine, some=judge.some)
        for step in islice((s for s in steps if s.chosen is not None), MOST_STEPS):
            walk = walk.after(step)
            if deployed.latency.fine != fine:  # rows are estimated from now on: only multiples of 8 can be trusted
                break
        else:
            return walk


def _wider(walk: _Walk, deployed: Deployed, judge: _Predicted, most_ms: float) -> _Walk:
    """`walk` after channels were given back one site at a time, each to the count that brings most accuracy per ms,
    while the predicted time stays within `most_ms`."""
    for _ in range(MOST_STEPS):
        now = walk.now
        asked: list[Proposal] = []
        for site in (s for s in sites(now.spec, "width") if among(s, judge.some)):
            before = channels(now.spec, site)
            counts = [before // 8 * 8 + more for more in WIDER]
            wider = [(c, spec) for c in counts if (spec := cut(now.spec, site, c)) is not None]
            wider = [(c, spec) for c, spec in wider if judge.limits.hold(deployed.spec(spec))]
            asked += [Proposal(site, before, c, spec, 0.0) for c, spec in wider]
        times = deployed([p.spec for p in asked])
        # times are noisy, and more channels never cost less
        timed = [replace(p, latency_ms=max(t, now.scored.latency_ms)) for p, t in zip(asked, times, strict=True)]
        fits = [p for p in timed if p.latency_ms <= most_ms]
        candidates = []
        for p in fits:
            scored = Scored(p.latency_ms, judge.top1(p.spec), 0.0)
            more_ms = max(p.latency_ms - now.scored.latency_ms, 1e-3 * most_ms)
            candidates.append(Candidate(p, scored, (scored.accuracy - now.scored.accuracy) / more_ms))
        if not candidates or max(c.ratio for c in candidates) <= 0:
            return walk
        best = max(range(len(candidates)), key=lambda i: candidates[i].ratio)
        after = Start(now.step + 1, candidates[best].proposal.spec, {}, candidates[best].scored)
        walk = walk.after(Step(tuple(candidates), len(candidates), best, after))
    return walk


# ---- on the device -------------------------------------------------------------------------------------------------


def _on_device(
    starts: Sequence[ArchSpec],
    ranked: Sequence[int],
    walks: list[_Walk],
    latency: Latency,
    judge: _Predicted,
    target_ms: float,
    delta: float,
) -> Generator[Event, None, int]:
    """Adapt the best starts with rows measured on demand, and their results whole; the index of the best. `walks` then
    holds what was measured."""
    began = time.monotonic()
    latency.until = began + MEASURED_S
    done: list[int] = []
    for i in ranked:
        if done and time.monotonic() - began + (time.monotonic() - began) / len(done) > MEASURED_S:
            break
        latency.correction = 1.0
        deployed = Deployed(latency, starts[i].head.classes)
        walk = yield from _verified(_begin(starts[i], deployed, judge), deployed, judge, target_ms, delta)
        walks[i] = replace(walk, correction=latency.correction)
        done.append(i)
        yield Note(STAGE, f"start {i + 1}, measured: {walk.now.scored.accuracy:.2f} % at {walk.ms:.3f} ms")
    latency.until = math.inf
    return min(done, key=lambda i: _rank(walks[i], target_ms))


def _verified(
    walk: _Walk, deployed: Deployed, judge: _Predicted, target_ms: float, delta: float
) -> Generator[Event, None, _Walk]:
    """NetAdapt with whole-network corrections, until the measured time and two standard errors are within the target
    and no more than SLACK of it is left."""
    aim = AIM * target_ms
    first = deployed.measure(walk.now.spec, 4)
    assert first is not None
    start = deployed.corrected(walk.now, first)
    walk = _Walk(start, (), start)
    good: _Walk | None = None
    tries = 0
    while True:
        walk = _shrunk(walk, deployed, judge, aim, delta)
        if walk.now.scored.latency_ms <= aim and good is None:
            walk = _wider(walk, deployed, judge, aim)
        verdict = deployed.verdict(walk.now.spec, target_ms)
        assert verdict is not None
        walk = replace(walk, verdict=verdict)
        within = verdict.most_ms <= target_ms
        if within and (good is None or walk.now.scored.accuracy > good.now.scored.accuracy):
            good = walk
        full = within and verdict.most_ms >= (1 - SLACK) * target_ms
        least = not within and walk.now.scored.latency_ms > aim  # nothing is left to cut
        if full or least or (good is not None and tries == TRIES):
            return good or walk
        tries += good is not None
        corrected = replace(walk, now=deployed.corrected(walk.now, verdict))
        if within:
            wider = _wider(corrected, deployed, judge, aim)
            if wider.now.step == walk.now.step:
                return good or walk
            yield Note(STAGE, f"{verdict.ms:.3f} ms leaves room: channels are given back")
            walk = wider
        else:
            off = f"{verdict.ms:.3f} +- {verdict.error_ms:.3f} ms"
            yield Note(STAGE, f"measured whole it takes {off}, not surely within {target_ms:g}: NetAdapt goes on")
            walk = corrected
            aim = min(aim, 0.999 * verdict.ms)


def _record(keep: Keep, walk: _Walk, deployed: Deployed) -> None:
    """netadapt.csv with every proposal of the winner, and the networks that it passed."""
    rows = [seed_row(walk.start.scored)]
    for step, before in walk.steps:
        rows += step_rows(step, before)
    keep.write_rows("netadapt.csv", COLUMNS, [{**row, "loss": ""} for row in rows])
    for passed in (walk.start, *(step.after for step, _ in walk.steps)):
        keep.text(curve_file(passed), dump_spec(deployed.spec(passed.spec)))
