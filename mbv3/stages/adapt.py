"""The NetAdapt stage: start weights, steps with whole-network corrections, and the verdict."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Generator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace

from torch import Tensor, nn

from mbv3.accuracy import Estimate
from mbv3.events import Event, Note, Progress, StageStart
from mbv3.netadapt import Inherit, Lost, Scored, Start, Step, TuneMany, netadapt_paired
from mbv3.nn import build
from mbv3.spec import ArchSpec, Site, among, sites
from mbv3.stages.adapt_pace import Plan, keep_pace, planned
from mbv3.stages.adapt_trace import Trace
from mbv3.stages.adapt_tune import HELD_OUT, STAGE, Deployed, FineTune, Read, train_start, with_classes
from mbv3.stages.adapt_workers import workers
from mbv3.stages.budget import Budget
from mbv3.stages.curve import TakenUp
from mbv3.stages.engines import Rank
from mbv3.stages.images import Images, rescore, subset
from mbv3.stages.keep import Keep, Memory
from mbv3.tables import AIM, Latency, Whole

__all__ = ["Adapted", "adapt"]

CHECK = 0.04  # of the seed's ms cut: the network is measured whole, as predictions drift from it by a few percent


@dataclass(frozen=True)
class Adapted:
    """What NetAdapt left: the network, its weights (None where nothing was trained), predicted ms, the verdict (None
    without a device), accuracy in percent at the size of the images. `reached`: it is within the target."""

    spec: ArchSpec
    state: dict[str, Tensor] | None
    predicted_ms: float
    verdict: Whole | None
    accuracy: float
    reached: bool
    correction: float  # of predictions near this network, measured over predicted
    estimate: Estimate | None = None  # of its ImageNet accuracy, where that decided
    start: int = 0  # index of the network that it came from
    classifier: ArchSpec | None = None  # that the estimate is of, before the head that is deployed

    @property
    def ms(self) -> float:
        """Measured where it was measured, else predicted."""
        return self.verdict.ms if self.verdict else self.predicted_ms


def adapt(
    spec: ArchSpec,
    latency: Latency,
    images: Images,
    target_ms: float,
    *,
    weights: Mapping[str, Tensor] | None = None,
    teacher: nn.Module | None = None,
    steps: int | None = None,
    delta: float | None = None,
    rank: Rank = "explained",
    halve: bool = True,
    mend: bool = True,
    budget: Budget | None = None,
    seed: int = 0,
    keep: Keep | None = None,
    some: Collection[Site] | None = None,
    processes: int = 0,
    taken: TakenUp | None = None,
) -> Generator[Event, None, Adapted]:
    """Shrink `spec` until it takes at most `target_ms`; time the result whole; go on while it is over (Howard 2019,
    section 4.2, arXiv:1905.02244; Yang 2018, arXiv:1804.03230).

    `weights`: what the network starts from, random ones by default; they are trained on `images` first. `steps`: T,
    fine-tuning steps of a proposal, `delta`: the least cut of a step as a share of the start's ms; by default both are
    what `budget` allows on this machine. `rank`, `halve`, `mend`: as in `Single`.
    `teacher`: a network of the same classes whose answers are learned too. `some`: the sites that may be cut, by
    default all. `processes`: that fine-tune proposals, of one thread each, by default this one alone. `taken`: steps
    for another target that are gone on with.
    """
    budget = budget or Budget(60.0, timed=latency.device is not None)
    keep = keep or Memory()
    deployed = Deployed(latency, images.work.outputs)
    trace = Trace(keep, deployed)
    start = trace.restore()
    if start is None and taken is not None:
        start = trace.take_up(taken)
    elif start is None:
        start = yield from _first(spec, weights, deployed, images, steps, budget, seed, keep)
        trace.seed(start)
    else:
        yield Note(STAGE, f"going on after step {start.step}, {start.scored.latency_ms:.3f} ms")
    explains = rank == "explained" and not processes
    plan = planned(start, target_ms, images, steps, delta, budget, seed, keep, some, one=explains)
    yield StageStart(
        STAGE,
        f"NetAdapt: {start.scored.latency_ms:.3f} -> {target_ms:g} ms, at least "
        f"{plan.pace.delta * trace.seed_ms:.3f} ms a step, T = {plan.pace.steps} steps a proposal, "
        f"{sum(among(s, some) for s in sites(start.spec))} proposals a step",
        plan.forecast_s,
    )
    tuner = FineTune(images, plan.pace.steps, seed, teacher)
    with workers(tuner, processes) if processes else nullcontext() as many:
        read = Read(images)
        inherit, lost = read.mended if mend else None, read.lost if explains else None
        last, verdict = yield from _shrink(start, target_ms, plan, trace, tuner, halve, some, many, inherit, lost)
    reached = (verdict.ms if verdict else last.scored.latency_ms) <= target_ms
    found = deployed.spec(last.spec)
    state = deployed.state(last.spec, last.state, seed)
    return Adapted(found, state, last.scored.latency_ms, verdict, last.scored.accuracy, reached, latency.correction)


def _first(
    spec: ArchSpec,
    weights: Mapping[str, Tensor] | None,
    deployed: Deployed,
    images: Images,
    by_hand: int | None,
    budget: Budget,
    seed: int,
    keep: Keep,
) -> Generator[Event, None, Start]:
    """The network that the first step departs from: trained, scored and, where a device is at hand, measured."""
    spec = with_classes(spec, images.work.outputs)
    state = yield from train_start(spec, weights, images, by_hand, budget, seed, keep)
    net = build(spec, 0)
    net.load_state_dict(state)
    score = rescore(net, images, subset(images.held_out, HELD_OUT), 2)
    state = {k: v.detach().clone() for k, v in net.state_dict().items()}
    start = Start(0, spec, state, Scored(math.nan, score.score, float(score.loss.mean())))
    measured = deployed.measure(spec, 4)
    if measured is not None:
        predicted = deployed([spec])[0]
        start = deployed.corrected(start, measured)
        yield Note(
            STAGE,
            f"the seed takes {measured.ms:.3f} ms measured whole ({predicted:.3f} predicted); predictions are "
            f"scaled by {deployed.latency.correction:.3f} from here",
        )
    return replace(start, scored=replace(start.scored, latency_ms=deployed([spec])[0]))


def _shrink(
    start: Start,
    target_ms: float,
    plan: Plan,
    trace: Trace,
    tuner: FineTune,
    halve: bool,
    some: Collection[Site] | None,
    many: TuneMany | None,
    inherit: Inherit | None,
    lost: Lost | None,
) -> Generator[Event, None, tuple[Start, Whole | None]]:
    """NetAdapt's steps, with measurements of the whole network on the way and at the end; (last network, verdict)."""
    deployed, latency, seed_ms = trace.deployed, trace.latency, trace.seed_ms
    pace = plan.pace
    began = time.monotonic()
    first_gap = max(start.scored.latency_ms - target_ms, 0.0)
    given = (plan.given_s or 0.0) * first_gap / max(seed_ms - target_ms, 1e-9)  # a resume's share
    aim = target_ms * (AIM if latency.device is not None else 1.0)
    checked = seed_ms
    while True:
        due = False
        steps = netadapt_paired(
            start, aim, pace.delta * seed_ms, deployed, tuner, lambda: tuner.steps, fine=latency.fine, halve=halve,
            some=some, many=many, inherit=inherit, lost=lost,
        )  # fmt: skip
        for step in steps:
            if step.chosen is None:
                yield _progress(step, start, first_gap, aim, began)
                continue
            trace.step(step, start.scored)
            start = step.after
            c = step.candidates[step.chosen]
            yield Note(
                STAGE,
                f"step {start.step}: {c.proposal.site.kind} {c.proposal.site} {c.proposal.before} -> "
                f"{c.proposal.after}, {start.scored.latency_ms:.3f} ms, {start.scored.accuracy:.1f} %",
            )
            due = latency.device is not None and aim < start.scored.latency_ms < checked - CHECK * seed_ms
            if due:
                break
        if due:
            whole = deployed.measure(start.spec, 4)
            assert whole is not None
            before, checked = start.scored.latency_ms, whole.ms
            start = deployed.corrected(start, whole)
            yield Note(STAGE, f"measured whole it takes {checked:.3f} ms ({before:.3f} predicted)")
            if plan.given_s is None:
                continue
            # no less than the measurement can tell, or its error would be taken for slowness
            done = max(first_gap - (checked - target_ms), 2 * whole.error_ms) / first_gap
            spent = time.monotonic() - began
            now = keep_pace(plan, pace, max(given - spent, 0.0) / max(spent / done * (1 - done), 1e-9))
            if now != pace:
                pace = now
                tuner.steps = pace.steps
                yield Note(
                    STAGE,
                    f"to keep to the time: T = {pace.steps}, at least {pace.delta * seed_ms:.3f} ms a step from here",
                )
            continue
        verdict = deployed.verdict(start.spec, target_ms)
        if verdict is None or verdict.most_ms <= target_ms or start.scored.latency_ms > aim:
            return start, verdict
        start = deployed.corrected(start, verdict)
        aim = min(aim, 0.999 * verdict.ms)  # at least one step more
        off = f"{verdict.ms:.3f} +- {verdict.error_ms:.3f} ms"
        yield Note(STAGE, f"measured whole it takes {off}, not surely within {target_ms:g}: NetAdapt goes on")


def _progress(step: Step, start: Start, first_gap: float, aim: float, began: float) -> Progress:
    """Progress by milliseconds saved, with the time that the rest should take."""
    gap = max(start.scored.latency_ms - aim, 1e-9)
    share = 1 - gap / max(first_gap, 1e-9)
    within = len(step.candidates) / max(step.total, 1)
    done = min(max(share, 0.0), 1.0)
    spent = time.monotonic() - began
    left = spent / done * (1 - done) if done > 0.1 else None
    text = f"step {start.step + 1}, proposal {len(step.candidates)} of {step.total}, {start.scored.latency_ms:.2f} ms"
    return Progress(STAGE, round(done * 100 + within, 1), 100, text, left)
