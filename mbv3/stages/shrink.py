"""The shrinking stage: trained weights in, a network within the target and its fine-tuned weights out."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mbv3.errors import BadInput, Unreachable
from mbv3.events import Event, Note, StageStart
from mbv3.netadapt import Choice, Menu, Scored, Scores, Start, menus, refined, site_scores, solve
from mbv3.nn import cut_state
from mbv3.spec import ArchSpec, Site, all_sites, among, channels, smallest
from mbv3.stages.adapt import Adapted, adapt
from mbv3.stages.adapt_tune import Deployed, train_start, with_classes
from mbv3.stages.budget import Budget
from mbv3.stages.curve import TakenUp
from mbv3.stages.engines import Joint, Single
from mbv3.stages.images import Images
from mbv3.stages.keep import Keep, Memory
from mbv3.stages.shrink_trace import ShrinkTrace
from mbv3.stages.shrink_tune import STAGE, Tuner, adopted, scored_images
from mbv3.tables import Latency, Whole
from mbv3.training import Answers

__all__ = ["shrink"]

A_ROUND = 0.5  # of its time at least that a round leaves, by default
BETWEEN = 0.1  # of the steps after each round but the last: one long fine-tuning is worth more than short ones
LEAST = 0.25  # of its channels that a site keeps in a round, unless the target asks for less
UNSURE = 0.05  # of an estimated time; a target that is nearer to the least is tried
NEAR = 0.6  # of the target: where the smallest network takes more, it is asked whether cuts lead there
AIM, SLACK = 0.995, 0.01  # of the target: where cuts aim where it is measured, and what may be left of it
TRIES = 5  # networks measured whole before the last fine-tuning
UNTIMED_STEPS, UNTIMED_START = 400, 200
JOINT = Joint()
HEAD_FIRST = 0.2  # of the steps of a start with a new head


def shrink(
    spec: ArchSpec,
    latency: Latency,
    images: Images,
    target_ms: float,
    *,
    weights: Mapping[str, Tensor] | None = None,
    teacher: nn.Module | None = None,
    steps: int | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    keep: Keep | None = None,
    some: Collection[Site] | None = None,
    engine: Joint | Single = JOINT,
    taken: TakenUp | None = None,
    measured_s: float = math.inf,
) -> Generator[Event, None, Adapted]:
    """Cut channels of `spec` by `engine` until it takes at most `target_ms`, and fine-tune it. It has trained
    `weights`; without any it is trained first.

    Weights whose head has other classes than the images get a new head, which is learned first. `teacher`: a network
    of the same classes whose answers are learned too, by default the uncut one. `steps`: of fine-tuning in all, of
    single cuts T of a proposal; by default what `budget` allows on this machine. `some`: the sites that may be cut, by
    default all. PRESETS has `engine` and `steps` by name. Where a device is at hand, the network is measured whole
    before its last fine-tuning, and channels are given back where more than 1 % of the target is left; by joint cuts no
    more than `measured_s` seconds are spent on that once it is within. `taken`: cuts
    for another target that are gone on with; `weights` are not needed then. A resumed call goes on from what `keep`
    has. The networks on the way are kept with their weights (`passed_in`).

    Raises:
        BadInput: weights of another network.
        Unreachable: no cut leads to the target; nothing was trained.
        Diverged: a fine-tuning is not finite.
    """
    if isinstance(engine, Single):
        if images.work.task != "classify":
            raise BadInput("engine: single cuts are judged on photos with a class each; give Joint()")
        return (
            yield from adapt(
                spec, latency, images, target_ms, weights=weights, teacher=teacher, steps=steps, delta=engine.delta,
                rank=engine.rank, halve=engine.halve, mend=engine.mend, processes=engine.processes, budget=budget,
                seed=seed, keep=keep, some=some, taken=taken,
            )
        )  # fmt: skip
    budget, keep = budget or Budget(60.0, timed=latency.device is not None), keep or Memory()
    run = _Run(latency, images, target_ms, teacher, budget, seed, keep, engine, some, taken, measured_s)
    return (yield from run.whole(spec, weights, steps))


@dataclass
class _Run:
    """The values that every part of the stage needs."""

    latency: Latency
    images: Images
    target_ms: float
    teacher: nn.Module | None
    budget: Budget
    seed: int
    keep: Keep
    by: Joint
    some: Collection[Site] | None
    taken: TakenUp | None
    measured_s: float

    def __post_init__(self) -> None:
        self.rounds = self.by.rounds or 1
        self.deployed = Deployed(self.latency, self.images.work.outputs)
        self.tuner = Tuner(self.images, self.seed, self.teacher)
        self.trace = ShrinkTrace(self.keep, self.deployed)

    @property
    def aim(self) -> float:
        return self.target_ms * (AIM if self.latency.device is not None else 1.0)

    def whole(
        self, spec: ArchSpec, weights: Mapping[str, Tensor] | None, by_hand: int | None
    ) -> Generator[Event, None, Adapted]:
        start, now, cut = yield from self._begin(spec, weights)
        if self.teacher is None and self.images.work.taught:
            self.tuner.teacher = self.tuner.net(start.spec, start.state)
        first, first_ms = self.trace.begun
        self.rounds = self.keep.value("netadapt_rounds", lambda: self.by.rounds or usual_rounds(first_ms, self.aim))
        steps = self._steps(now, by_hand)
        yield StageStart(
            STAGE,
            f"joint cuts: {first_ms:.3f} -> {self.target_ms:g} ms in {self.rounds} rounds, "
            f"{sum(among(s, self.some) for s in all_sites(start.spec))} sites, {steps} steps of fine-tuning in all",
        )
        verdict: Whole | None = None
        for i in range(now.step - first + (not cut), self.rounds + 1):
            if not cut:
                limit = self.aim * (first_ms / self.aim) ** (1 - i / self.rounds)
                before = now
                now, verdict = yield from self._cut(before, limit, last=i == self.rounds)
                now = replace(now, step=first + i)
                self.trace.cut(start, before, now)
            now = yield from self._tuned(now, steps, last=i == self.rounds)
            self.tuner.forget(self.keep)  # first: what is left of this round would be taken for the next one's
            self.trace.tuned(start, now)
            cut = False
            yield Note(
                STAGE,
                f"round {i} of {self.rounds}: {now.scored.latency_ms:.3f} ms, {now.scored.accuracy:.1f} % held out",
            )
        if verdict is None:
            verdict = self.deployed.verdict(now.spec, self.target_ms)
        reached = (verdict.ms if verdict else now.scored.latency_ms) <= self.target_ms
        return Adapted(
            self.deployed.spec(now.spec), self.deployed.state(now.spec, now.state, self.seed), now.scored.latency_ms,
            verdict, now.scored.accuracy, reached, self.latency.correction,
        )  # fmt: skip

    def _begin(
        self, spec: ArchSpec, weights: Mapping[str, Tensor] | None
    ) -> Generator[Event, None, tuple[Start, Start, bool]]:
        """(the uncut network, the one to go on with, whether it was cut and not yet fine-tuned)."""
        found = self.trace.restore()
        if found is not None:
            _, now, cut = found
            yield Note(STAGE, f"going on in round {now.step + (not cut)}, {now.scored.latency_ms:.3f} ms")
            return found
        if self.taken is not None:
            self.latency.correction = self.taken.correction
            self._check_reach(self.taken.now.spec)
            return self.trace.take_up(self.taken)
        spec = with_classes(spec, self.images.work.outputs)
        self._check_reach(spec)
        start = yield from self._start(spec, weights)
        self.trace.seed(start)
        return start, start, False

    def _check_reach(self, spec: ArchSpec) -> None:
        """Raises: Unreachable: cut as far as it can be, `spec` takes more than the target."""
        where = [s for s in all_sites(spec) if among(s, self.some)]
        rough = self._rough()
        now, least = rough([spec, smallest(spec, where)])
        if NEAR * self.aim < least <= self.aim:  # not every cut of one site goes with every one of another
            alike = {s: 1 / np.arange(1.0, channels(spec, s) + 1) for s in where}  # the next is worth less
            least = solve(spec, menus(spec, alike, least=0.0, allowed=self.by.allowed), rough, self.aim).latency_ms
        if least > (1 + UNSURE * (self.latency.device is not None)) * self.aim:
            raise Unreachable(
                f"a target of {self.target_ms:g} ms cannot be met: {spec.name} takes {now:.3g} ms and, cut to 8 "
                f"channels wherever it may be cut, still {least:.3g} ms",
                least,
                now,
            )

    def _start(self, spec: ArchSpec, weights: Mapping[str, Tensor] | None) -> Generator[Event, None, Start]:
        """The uncut network with its score and time; a new head is learned first."""
        if weights is None:
            weights = yield from train_start(spec, None, self.images, None, self.budget, self.seed, self.keep)
        state, new = adopted(spec, weights, self.seed)
        if new:
            steps = self.keep.value(
                "start_steps",
                lambda: self.budget.amount(
                    None, UNTIMED_START,
                    lambda: max(20.0, self.budget.seconds("start") / self.tuner.step_seconds(spec, state)),
                ),
            )  # fmt: skip
            yield StageStart(STAGE, f"the weights have another head: it is learned on your images, {steps} steps")
            state = yield from self.tuner.tune(spec, state, self.tuner.recipe(spec, steps, HEAD_FIRST), self.keep)
            self.tuner.forget(self.keep)
        score = self.tuner.score(spec, state)
        whole = self.deployed.measure(spec, 4)
        if whole is not None:
            self.latency.correct(self.deployed.spec(spec), whole.ms)
        ms = self.deployed([spec])[0]
        yield Note(STAGE, f"uncut: {ms:.3f} ms, {score.score:.1f} % of {len(score)} held-out images")
        return Start(0, spec, state, scored(ms, score))

    def _steps(self, start: Start, by_hand: int | None) -> int:
        def measured() -> float:
            # networks are cut on the way: a step takes about half of what it takes at first
            every = self.budget.seconds("netadapt") / (0.7 * self.tuner.step_seconds(start.spec, start.state))
            return max(20.0, every - self.rounds * scored_images(self.images) / self.tuner.recipe(start.spec, 1).batch)

        return self.keep.value("netadapt_steps", lambda: self.budget.amount(by_hand, UNTIMED_STEPS, measured))

    def _cut(self, now: Start, limit: float, last: bool) -> Generator[Event, None, tuple[Start, Whole | None]]:
        """The network after a round's cuts, batch norms recalibrated; in the last round within the target as measured,
        with channels given back where there is room."""
        scores = self.tuner.channels(now.spec, now.state, self.by.importance)
        if self.by.worth == "explained":
            every = self.tuner.explained(now.spec, now.state, scores)
        else:
            every = site_scores(now.spec, scores)
        mine = {s: v for s, v in every.items() if among(s, self.some)}
        for least in (LEAST, 0.0):
            table, choice = self._chosen(now, mine, scores, limit, least)
            if choice.latency_ms <= limit:
                break
        verdict: Whole | None = None
        if last and self.latency.device is not None:
            choice, verdict = yield from self._fitted(now.spec, table, choice)
        state = cut_state(now.state, now.spec, choice.spec, scores)
        state = self.tuner.recalibrated(choice.spec, state)
        ms = self.deployed([choice.spec])[0]
        cuts = sum(channels(now.spec, s) > n for s, n in choice.counts.items())
        yield Note(STAGE, f"cut at {cuts} sites: {now.scored.latency_ms:.3f} -> {ms:.3f} ms")
        return replace(now, spec=choice.spec, state=state, scored=replace(now.scored, latency_ms=ms)), verdict

    def _chosen(
        self, now: Start, mine: Mapping[Site, NDArray[np.float64]], scores: Scores, limit: float, least: float
    ) -> tuple[list[Menu], Choice]:
        """The menus, and the choice within `limit`."""
        table = menus(now.spec, mine, least=least, allowed=self.by.allowed)
        if self.by.worth == "losses":
            table = self.tuner.losses(now.spec, now.state, scores, table)
        return table, self._solved(now.spec, table, limit)

    def _rough(self) -> Deployed:
        """Times without a measurement."""
        return self.deployed if self.latency.device is None else Deployed(self.latency.rough(), self.deployed.classes)

    def _solved(self, spec: ArchSpec, table: Sequence[Menu], limit: float) -> Choice:
        if self.latency.device is None:
            return solve(spec, table, self.deployed, limit)
        return refined(spec, table, self._rough(), self.deployed, limit)

    def _fitted(
        self, spec: ArchSpec, table: Sequence[Menu], choice: Choice
    ) -> Generator[Event, None, tuple[Choice, Whole]]:
        """The choice whose measured time, two standard errors above it, is within the target and nearest to it; after
        `measured_s` the first that is within."""
        kept: tuple[Choice, Whole] | None = None
        began = time.monotonic()
        for i in range(TRIES):
            whole = self.deployed.verdict(choice.spec, self.target_ms)
            assert whole is not None
            yield Note(STAGE, f"measured whole it takes {whole.ms:.3f} +- {whole.error_ms:.3f} ms")
            within = whole.most_ms <= self.target_ms
            if within and (kept is None or whole.ms > kept[1].ms):
                kept = choice, whole
            if within and whole.most_ms >= (1 - SLACK) * self.target_ms:
                break
            if kept is not None and time.monotonic() - began >= self.measured_s:
                break
            self.latency.correct(self.deployed.spec(choice.spec), whole.ms)
            limit = self.target_ms - 2 * whole.error_ms - (0 if kept else 0.002 * i * self.target_ms)
            last, choice = choice, self._solved(spec, table, limit)
            if choice.spec == last.spec:
                break
        else:
            whole = self.deployed.verdict(choice.spec, self.target_ms)
            assert whole is not None
            if kept is None or (kept[1].ms < whole.ms and whole.most_ms <= self.target_ms):
                kept = choice, whole
        choice, whole = kept or (choice, whole)
        self.latency.correct(self.deployed.spec(choice.spec), whole.ms)
        return choice, whole

    def _tuned(self, now: Start, steps: int, last: bool) -> Generator[Event, None, Start]:
        between = int(BETWEEN * steps)
        share = steps - (self.rounds - 1) * between if last else between
        recipe = replace(self.tuner.recipe(now.spec, share), seed=self.seed * 1009 + now.step)
        state = yield from self.tuner.tune(now.spec, now.state, recipe, self.keep)
        score = self.tuner.score(now.spec, state)
        return replace(now, state=state, scored=scored(now.scored.latency_ms, score))


def scored(ms: float, answers: Answers) -> Scored:
    """What a network takes and answers, as NetAdapt has it."""
    return Scored(ms, answers.score, float(answers.loss.mean()))


def usual_rounds(now_ms: float, target_ms: float) -> int:
    """Scores hold near the network that they are of, and every round takes steps from the last, long fine-tuning: a
    round halves the time at most."""
    return max(1, round(math.log(max(now_ms / target_ms, 1.0)) / -math.log(A_ROUND)))
