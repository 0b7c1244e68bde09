"""From public weights and a user's photos to a network within a target: resolution and channels together, most
candidates dropped early, and what anyone could take instead trained alike."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from mbv3.errors import Unreachable
from mbv3.events import Event, Note, StageStart
from mbv3.spec import ArchSpec, Site, pixels
from mbv3.stages.budget import Budget
from mbv3.stages.contenders import (
    Contender,
    baseline_l1,
    baseline_lower,
    cut_contender,
    cut_rounds,
    kept_contender,
    start_itself,
)
from mbv3.stages.familiar import fine_tuned_by
from mbv3.stages.images import Images
from mbv3.stages.keep import Keep, Memory
from mbv3.stages.road_pace import Effort, Pace
from mbv3.stages.rounds import Alike, Ledger, Outcome, Weights, by_loss, longer, one_round, reported, told, winner
from mbv3.stages.sizes import Sizes
from mbv3.stages.tune import Tuned, taught_by, tune
from mbv3.tables import Latency
from mbv3.training import ImageData

__all__ = ["road"]

STAGE = "candidates"


def road(
    sizes: Sizes,
    state: Mapping[str, Tensor],
    latency: Latency,
    images: Images,
    report: ImageData,
    target_ms: float,
    *,
    subnets: Sequence[Contender] = (),
    effort: Effort | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    keep: Keep | None = None,
    some: Collection[Site] | None = None,
) -> Generator[Event, None, Outcome]:
    """The best network within `target_ms` that `sizes.start` with weights `state` leads to.

    The start is fine-tuned on `images.train` and cut to the target at every size of `sizes.cut`; half of these
    candidates are dropped after each of a few short trainings, by their loss on `images.held_out`. The one that is
    left, the start at the lower resolution and its uniform slimming then learn for the same steps, with the uncut start
    as their teacher. The best of them on `images.held_out` is trained for the rest of the time. `effort`: steps by
    hand. `some`: the sites that may be cut, by default all. `subnets`: networks within the target that have weights
    already, those of a supernet: nothing is cut, they are the candidates, and what of them is not the search's own is a
    baseline.
    """
    budget, keep, began = budget or Budget(60.0), keep or Memory(), time.monotonic()
    images = yield from fine_tuned_by(images, sizes.start, state, keep)
    rounds = [0 if subnets else cut_rounds(target_ms, ms) for ms in latency(sizes.cut)] if sizes.cut else []
    pace = Pace(sizes, images, budget, keep, effort, rounds, began)
    every, sizes = sizes, sizes if subnets else pace.candidates(measured=latency.device is not None)
    if len(sizes.cut) < len(every.cut):
        yield Note(STAGE, f"the minutes allow cuts at {_sides(sizes.cut)} px alone, of {_sides(every.cut)} px")
    steps, cut_steps, first = pace.early()
    at = f"{pixels(sizes.start.resolution)} px"
    yield StageStart("start", f"fine-tuning {sizes.start.name} at {at} on the photos, {steps} steps")
    # as kept: a finished start may be another run's, which had other minutes
    tuning = tune("start", sizes.start, state, images, steps, new_head=True, seed=seed, keep=keep, as_kept=True)
    start = yield from tuning
    yield Note("start", f"uncut: {told(start.chosen_on, images.work)}")

    plain = yield from _baselines(every, start, latency, target_ms, keep, some, slim=not subnets)
    plain += [c for c in subnets if not c.own]
    cuts = [c for c in subnets if c.own]
    measured_s = budget.seconds("cuts-measured") / max(len(sizes.cut), 1) if budget.timed else math.inf
    for spec in sizes.cut if not subnets else ():
        yield StageStart(STAGE, f"cutting {spec.name} at {pixels(spec.resolution)} px to {target_ms:g} ms")
        made = partial(cut_contender, spec, start, latency, images, target_ms, cut_steps, seed, keep, some, measured_s)
        c = yield from kept_contender(keep, f"cut-{pixels(spec.resolution)}", "cut", made)
        cuts += [c] if c is not None else []
    if not cuts and not plain:
        raise Unreachable(
            f"no cut, no lower input and no uniform slimming of {sizes.start.name} leads to {target_ms:g} ms; give a "
            "larger target", target_ms, latency([sizes.start])[0],
        )  # fmt: skip
    if not cuts:
        yield Note(STAGE, "nothing was cut: the start meets the target, or no cut leads to it")

    teacher = taught_by(start.spec, start.state, images.train) if images.work.taught else None
    learn = _Learn(images, teacher, seed, keep)
    ledger = Ledger(keep, "candidates.csv", images.work.main_metric)
    cuts, states = yield from _halved(cuts, plain, first, 0 if subnets else cut_steps, learn, ledger)
    alike = pace.alike([c.spec for c in [*cuts, *plain]])
    yield StageStart("training", f"{len(cuts) + len(plain)} networks, {alike} steps each, alike")
    tuned = []
    for c in [*cuts, *plain]:
        tuned.append((c, (yield from learn(f"{c.name}-alike", c, states[c.name], alike))))
        yield Note("training", f"{c.called}: {told(tuned[-1][1].chosen_on, images.work)}")
    (c, t), doubt = winner(tuned)
    ledger.record("alike", tuned, [c])
    if doubt:
        yield Note("training", doubt, warning=True)
    last = yield from longer(c, t, pace.last(c.spec), learn)
    ledger.record("last", [(c, last)], [c])
    yield StageStart("scoring", f"{len(report)} images to report on")
    order = sorted(tuned, key=lambda pair: pair[0] is not c)
    rivals = tuple(Alike(r, one, reported(one, report, images.work)) for r, one in order)
    answered, learned = rivals[0].reported, t.steps
    if last is not t:
        answered, learned = reported(last, report, images.work), t.steps + last.steps
    return Outcome(c, last, answered, rivals, doubt, learned)


def _sides(specs: Sequence[ArchSpec]) -> str:
    return ", ".join(str(pixels(s.resolution)) for s in specs)


@dataclass(frozen=True)
class _Learn:
    """Fine-tuning with what every training of the comparison shares."""

    images: Images
    teacher: Tensor | None
    seed: int
    keep: Keep

    def __call__(
        self, name: str, c: Contender, state: Mapping[str, Tensor] | None, steps: int
    ) -> Generator[Event, None, Tuned]:
        return tune(
            name, c.spec, state, self.images, steps, teacher=self.teacher, cut=c.kind != "lower", seed=self.seed,
            keep=self.keep,
        )  # fmt: skip


def _baselines(
    sizes: Sizes,
    start: Tuned,
    latency: Latency,
    target_ms: float,
    keep: Keep,
    some: Collection[Site] | None,
    slim: bool = True,
) -> Generator[Event, None, list[Contender]]:
    """What anyone could take: a lower resolution, uniform slimming, the start itself where that meets the target."""
    lower = yield from kept_contender(
        keep, "lower", "lower", lambda: baseline_lower(sizes, start.state, latency, target_ms)
    )
    itself = yield from kept_contender(
        keep, "start-itself", "lower", lambda: start_itself(sizes, start.state, latency, target_ms, lower)
    )
    l1 = None
    if slim and sizes.cut and itself is None:
        whole = next((s for s in sizes.cut if s == sizes.start), sizes.cut[-1])
        slimming = partial(baseline_l1, whole, start.state, latency, target_ms, some)
        l1 = yield from kept_contender(keep, "l1", "l1", slimming)
    return [c for c in (lower, itself, l1) if c is not None]


def _halved(
    cuts: Sequence[Contender], plain: Sequence[Contender], steps: int, cut_steps: int, learn: _Learn, ledger: Ledger
) -> Generator[Event, None, tuple[list[Contender], dict[str, Weights]]]:
    """Successive halving of `cuts` to one, by their loss on the choosing images; `plain` learns as long as that one,
    its steps while it was cut included. Returns what is left, and the weights of everything by name."""
    left, number, before = list(cuts), 1, cut_steps if cuts else 0
    states: dict[str, Weights] = {c.name: c.state for c in [*cuts, *plain]}
    while len(left) > 1:
        work = [(c, steps + (0 if c.own else before)) for c in [*left, *plain]]
        tuned = yield from one_round(number, work, states, learn, f"{len(left)} candidates, {steps} steps each")
        left = by_loss([pair for pair in tuned if pair[0].own])[: len(left) // 2]
        ledger.record(str(number), tuned, [*left, *plain])
        steps, number, before = 2 * steps, number + 1, 0
    return left, states
