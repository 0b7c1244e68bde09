"""From public weights and a user's photos to a network within a target: resolution and channels together, most
candidates dropped early, and what anyone could take instead trained alike."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from mbv3.data import ImageSet
from mbv3.events import Event, Note, StageStart
from mbv3.spec import pixels
from mbv3.stages.budget import Budget
from mbv3.stages.contenders import (
    Contender,
    baseline_l1,
    baseline_lower,
    cut_contender,
    kept_contender,
    start_itself,
)
from mbv3.stages.images import Images
from mbv3.stages.keep import Keep, Memory
from mbv3.stages.road_pace import Effort, Pace
from mbv3.stages.sizes import Sizes
from mbv3.stages.tune import Answers, Tuned, answers, better_by, on_device, taught_by, tune
from mbv3.tables import Latency

__all__ = ["Alike", "Road", "road"]

STAGE = "candidates"
COLUMNS = ("round", "network", "resolution", "ms", "steps", "top1", "loss", "stays")  # of candidates.csv


@dataclass(frozen=True, eq=False)
class Alike:
    """A network that was trained as long as the others: as it was then, and its answers on the report images."""

    contender: Contender
    tuned: Tuned
    reported: Answers


@dataclass(frozen=True, eq=False)
class Road:
    """`found`: what is delivered, after its last training, with its answers on the report images. `alike`: what was
    compared at equal steps, the winner first. `doubt`: what to say where a baseline is delivered; else nothing."""

    found: Contender
    tuned: Tuned
    reported: Answers
    alike: tuple[Alike, ...]
    doubt: str


def road(
    sizes: Sizes,
    state: Mapping[str, Tensor],
    latency: Latency,
    images: Images,
    report: ImageSet,
    target_ms: float,
    *,
    effort: Effort | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    keep: Keep | None = None,
) -> Generator[Event, None, Road]:
    """The best network within `target_ms` that `sizes.start` with weights `state` leads to.

    The start is fine-tuned on `images.train` and cut to the target at every size of `sizes.cut`; half of these
    candidates are dropped after each of a few short trainings, by their loss on `images.held_out`. The one that is
    left, the start at the lower resolution and its uniform slimming then learn for the same steps, with the uncut start
    as their teacher. The best of them on `images.held_out` is trained for the rest of the time. `effort`: steps by
    hand.
    """
    budget, keep = budget or Budget(60.0), keep or Memory()
    pace = Pace(sizes, images, budget, keep, effort)
    steps, cut_steps, first = pace.early()
    at = f"{pixels(sizes.start.resolution)} px"
    yield StageStart("start", f"fine-tuning {sizes.start.name} at {at} on the photos, {steps} steps")
    start = yield from tune("start", sizes.start, state, images, steps, new_head=True, seed=seed, keep=keep)
    top1, error = start.chosen_on.top1, start.chosen_on.error
    yield Note("start", f"uncut it answers {top1:.1f} +- {error:.1f} % of {len(images.held_out)} choosing images")

    plain = yield from _baselines(sizes, start, latency, target_ms, keep)
    cuts: list[Contender] = []
    for spec in sizes.cut:
        yield StageStart(STAGE, f"cutting {spec.name} at {pixels(spec.resolution)} px to {target_ms:g} ms")
        made = partial(cut_contender, spec, start, latency, images, target_ms, cut_steps, seed, keep)
        c = yield from kept_contender(keep, f"cut-{pixels(spec.resolution)}", "cut", made)
        cuts += [c] if c is not None else []
    if not cuts and plain:
        yield Note(STAGE, "nothing was cut: the start meets the target, or no cut leads to it")

    learn = _Learn(images, taught_by(start.spec, start.state, images.train), seed, keep)
    cuts, states = yield from _halved(cuts, plain, first, cut_steps, learn)
    alike, last = pace.late(len(cuts) + len(plain))
    yield StageStart("training", f"{len(cuts) + len(plain)} networks, {alike} steps each, alike")
    tuned = []
    for c in [*cuts, *plain]:
        tuned.append((c, (yield from learn(f"{c.name}-alike", c, states[c.name], alike))))
        yield Note("training", f"{_called(c)}: {tuned[-1][1].chosen_on.top1:.1f} % of the choosing images")
    (c, t), doubt = winner(tuned)
    learn.record("alike", tuned, [c])
    if doubt:
        yield Note("training", doubt, warning=True)
    longer = yield from _longer(c, t, last, learn)
    learn.record("last", [(c, longer)], [c])
    yield StageStart("scoring", f"{len(report)} images to report on")
    order = sorted(tuned, key=lambda pair: pair[0] is not c)
    rivals = tuple(Alike(r, one, _reported(one, report)) for r, one in order)
    return Road(c, longer, rivals[0].reported if longer is t else _reported(longer, report), rivals, doubt)


@dataclass
class _Learn:
    """Fine-tuning with what every training of the comparison shares; `candidates.csv` says how they did."""

    images: Images
    teacher: Tensor
    seed: int
    keep: Keep
    rows: list[dict[str, object]] = field(default_factory=list)

    def __call__(
        self, name: str, c: Contender, state: Mapping[str, Tensor], steps: int
    ) -> Generator[Event, None, Tuned]:
        return tune(
            name, c.spec, state, self.images, steps, teacher=self.teacher, cut=c.kind != "lower", seed=self.seed,
            keep=self.keep,
        )  # fmt: skip

    def record(self, number: str, tuned: Sequence[tuple[Contender, Tuned]], stay: Sequence[Contender]) -> None:
        for c, t in tuned:
            self.rows.append(
                {
                    "round": number, "network": c.name, "resolution": pixels(c.spec.resolution), "ms": f"{c.ms:.5f}",
                    "steps": t.steps, "top1": f"{t.chosen_on.top1:.3f}", "loss": f"{t.chosen_on.loss.mean():.5f}",
                    "stays": int(any(c is s for s in stay)),
                }
            )  # fmt: skip
        self.keep.write_rows("candidates.csv", COLUMNS, self.rows)


def _called(c: Contender) -> str:
    at = f"{pixels(c.spec.resolution)} px, {c.ms:.3f} ms"
    return {"cut": "cut", "lower": "the start uncut", "l1": "uniform L1 slimming"}[c.kind] + f" at {at}"


def _baselines(
    sizes: Sizes, start: Tuned, latency: Latency, target_ms: float, keep: Keep
) -> Generator[Event, None, list[Contender]]:
    """What anyone could take: a lower resolution, uniform slimming, the start itself where that meets the target."""
    lower = yield from kept_contender(
        keep, "lower", "lower", lambda: baseline_lower(sizes, start.state, latency, target_ms)
    )
    itself = yield from kept_contender(
        keep, "start-itself", "lower", lambda: start_itself(sizes, start.state, latency, target_ms, lower)
    )
    l1 = None
    if sizes.cut and itself is None:
        slim = next((s for s in sizes.cut if s == sizes.start), sizes.cut[-1])
        l1 = yield from kept_contender(keep, "l1", "l1", lambda: baseline_l1(slim, start.state, latency, target_ms))
    return [c for c in (lower, itself, l1) if c is not None]


def _halved(
    cuts: Sequence[Contender], plain: Sequence[Contender], steps: int, cut_steps: int, learn: _Learn
) -> Generator[Event, None, tuple[list[Contender], dict[str, dict[str, Tensor]]]]:
    """Successive halving (Jamieson 2016, arXiv:1502.07943) of `cuts` to one, by their loss on the choosing images;
    `plain` learns as long as that one, its steps while it was cut included. Returns what is left, and the weights of
    everything by name."""
    left, number, before = list(cuts), 1, cut_steps if cuts else 0
    states = {c.name: c.state for c in [*cuts, *plain]}
    while len(left) > 1:
        yield StageStart(STAGE, f"{len(left)} candidates, {steps} steps each")
        tuned: dict[str, Tuned] = {}
        for c in [*left, *plain]:
            more = 0 if c.kind == "cut" else before
            t = yield from learn(f"{c.name}-{number}", c, states[c.name], steps + more)
            yield Note(STAGE, f"{_called(c)}: {t.chosen_on.top1:.1f} %, loss {t.chosen_on.loss.mean():.3f}")
            tuned[c.name], states[c.name] = t, t.state
        rounds = [(c, tuned[c.name]) for c in [*left, *plain]]
        left.sort(key=lambda c: float(tuned[c.name].chosen_on.loss.mean()))
        left = left[: len(left) // 2]
        learn.record(str(number), rounds, [*left, *plain])
        steps, number, before = 2 * steps, number + 1, 0
    return left, states


def winner(tuned: Sequence[tuple[Contender, Tuned]]) -> tuple[tuple[Contender, Tuned], str]:
    """The best on the choosing images, and what to say where that is a baseline."""
    best = max(tuned, key=lambda pair: (pair[1].chosen_on.top1, -pair[1].chosen_on.loss.mean()))
    found = next((pair for pair in tuned if pair[0].kind == "cut"), None)
    if best[0].kind == "cut" or found is None:
        return best, ""
    by, error = better_by(best[1].chosen_on, found[1].chosen_on)
    return best, (
        f"{_called(best[0])} is better than the network that was cut by {by:.1f} +- {error:.1f} points on the choosing "
        "images, trained alike: it is what is delivered"
    )


def _longer(c: Contender, t: Tuned, steps: int, learn: _Learn) -> Generator[Event, None, Tuned]:
    """The winner trained for the rest of the time; as it was where that loses accuracy beyond the error."""
    if not steps:
        return t
    yield StageStart("training", f"{steps} steps more of {_called(c)}")
    longer = yield from learn(f"{c.name}-last", c, t.state, steps)
    by, error = better_by(longer.chosen_on, t.chosen_on)
    if by < -error:
        yield Note("training", f"the longer training changed {by:.1f} +- {error:.1f} points: the shorter one stays")
        return t
    yield Note("training", f"{longer.chosen_on.top1:.1f} % of the choosing images after it")
    return longer


def _reported(tuned: Tuned, report: ImageSet) -> Answers:
    return answers(on_device(tuned.spec, tuned.state), report, tuned.spec.resolution)
