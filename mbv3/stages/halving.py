"""Successive halving of networks that learn from scratch, in rounds of equal seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mbv3.events import Event
from mbv3.spec import ArchSpec
from mbv3.stages.budget import Budget
from mbv3.stages.contenders import Contender
from mbv3.stages.images import Images, subset
from mbv3.stages.keep import Keep
from mbv3.stages.rounds import Ledger, Pair, Weights, better_half, one_round
from mbv3.stages.tune import Tuned, on_device, scratch_fit, scratch_step_seconds, scratch_unit, trained
from mbv3.training import Fit, usual_epochs

__all__ = ["FIRST", "LEAST", "PROBED", "Halving", "most_steps", "scratch_steps", "steps_in_time", "trainings"]

LEAST = 20  # steps of a first round, half of them where batches are smaller: after fewer a network answers by chance
SETTLED = 4  # batches over which batch norms are taken before a round is judged
CHOSEN_ON = 1000  # choosing images that judge a round
PROBED = 32  # images of a batch that tells the seconds of a step
ANSWERED, ANSWERS = 48, 3  # images that tell the seconds of an answer, and how often
UNTIMED = 3  # times the epochs of a fine-tuning, of a delivered network where nothing is timed
MOST_EPOCHS = 600  # of a delivered network: after ten times the usual passes from scratch little is left to learn
FIRST = 40  # the delivered network learns so many times the steps of a first round, where nothing is timed


def trainings(networks: int) -> int:
    """Trainings of a first round's length in both rounds: the second is twice as long, and has half of the networks
    with the one that has to be beaten."""
    return networks + 2 * _second(networks) if networks > 1 else 0


def _second(networks: int) -> int:
    """Networks of the second round."""
    return min(networks, networks // 2 + 1)


def scratch_steps(images: Images, epochs: float | None) -> int:
    """Steps of so many passes over the training images; None: as many as their number asks for."""
    recipe = scratch_unit(images, images.size, 1)
    return max(1, round((UNTIMED * usual_epochs(len(images.train)) if epochs is None else epochs) * recipe.epoch_steps))


def most_steps(images: Images) -> int:
    """Steps after which a training from scratch ends, though there is time."""
    return scratch_steps(images, MOST_EPOCHS)


def _share(given_s: float, scored_s: Sequence[float]) -> float:
    """Seconds of a training of a first round, of those that are given to both rounds; a score after a training of
    each network takes `scored_s`."""
    n = len(scored_s)
    return (given_s - (n + _second(n)) * sum(scored_s) / n) / trainings(n)


@dataclass
class Halving:
    """Two rounds over contenders by the recipe of a training from scratch. Every network has the same seconds, for that
    is what a user gives it: at equal milliseconds one may learn twice as many steps in them as another. The second
    round goes on from the weights of the first under a schedule of its own, and tells the trend.

    `part`: of the budget; where it is too short to compare two networks it is stretched, `stretch` times at most.
    `steps`: of each network in the first round, by hand. `csv`: the file of the rounds."""

    images: Images
    csv: str
    budget: Budget
    part: str
    steps: int | None
    seed: int
    keep: Keep
    stage: str
    stretch: float = 1.0

    def __post_init__(self) -> None:
        self.few = replace(self.images, held_out=subset(self.images.held_out, CHOSEN_ON))
        self.ledger = Ledger(self.keep, self.csv, self.images.work.main_metric)
        self.states: dict[str, Weights] = {}
        self.given_s = self.budget.seconds(self.part) if self.budget.timed else 0.0  # to both rounds
        self.enough: float | None = None  # minutes of a whole run in which two networks could be compared

    def run(self, contenders: Sequence[Contender]) -> Generator[Event, None, list[list[Pair]]]:
        """The rounds, each with its networks as they were after it; none where the time allows of no first round. The
        first of `contenders`, which has to be beaten, stays for both."""
        first = self._first(contenders)
        left = [c for c in contenders if c.name in first]
        if len(left) < 2:
            return []
        self.states = {c.name: None for c in left}
        rounds: list[list[Pair]] = []
        for number in (1, 2):
            work = [(c, first[c.name] * number) for c in left]
            span = sorted({steps for _, steps in work})
            text = f"{span[0]} steps" if len(span) == 1 else f"{span[0]} to {span[-1]} steps, the same seconds"
            title = f"round {number}: {len(left)} networks, {text} each"
            rounds.append((yield from one_round(number, work, self.states, self._short, title, self.stage)))
            left = list(dict.fromkeys([contenders[0], *better_half(rounds[-1])]))
            self.ledger.record(str(number), rounds[-1], left)
        return rounds

    def learn(self, name: str, c: Contender, state: Weights, steps: int) -> Generator[Event, None, Tuned]:
        """A training as `mbv3 train` has it, judged by the same choosing images as the rounds. Steps, also those of
        what it returns, are of the recipe's own batch, though a short training takes smaller ones."""
        return self._trained(name, c, state, steps, scratch_fit(self.images, c.spec.resolution, steps, seed=self.seed))

    def _short(self, name: str, c: Contender, state: Weights, steps: int) -> Generator[Event, None, Tuned]:
        recipe = scratch_fit(self.images, c.spec.resolution, steps, seed=self.seed)
        return self._trained(name, c, state, steps, replace(recipe, recalibrate=min(recipe.recalibrate, SETTLED)))

    def _trained(
        self, name: str, c: Contender, state: Weights, steps: int, recipe: Fit
    ) -> Generator[Event, None, Tuned]:
        tuned = yield from trained(name, c.spec, state, self.few, recipe, keep=self.keep)
        return replace(tuned, steps=steps)

    def _least(self) -> int:
        """Steps that a first round has at least."""
        size = self.images.size
        short, unit = scratch_fit(self.images, size, LEAST), scratch_unit(self.images, size, LEAST)
        return LEAST // 2 if short.batch < unit.batch else LEAST

    def horizon(self, networks: int) -> float:
        """How many times the steps of a first round of so many networks the delivered one learns, by the shares."""
        if self.steps is not None or not self.budget.timed:
            return FIRST
        return self.budget.seconds("training") / self.given_s * trainings(networks)

    def _first(self, contenders: Sequence[Contender]) -> dict[str, int]:
        """Steps of each network in the first round; none where they would be too few for each of two."""
        if self.steps is not None:
            return {c.name: self.steps for c in contenders}
        if not self.budget.timed:
            return {c.name: max(self._least(), scratch_steps(self.images, None) // FIRST) for c in contenders}

        def decide() -> tuple[tuple[str, int], ...]:
            given, each, scored = self.budget.seconds(self.part), list[float](), list[float]()
            least_steps = self._least()
            for c in contenders:
                each.append(scratch_step_seconds(c.spec, self.images, PROBED))
                scored.append(self._scored_s(c.spec))
                n = len(each)
                if n > 1 and _share(given, scored) < least_steps * sorted(each)[n // 2]:
                    break  # no more of them are timed, either: that takes seconds too
            else:
                n = len(each) + 1
            networks = n - 1
            if networks < 2:
                if len(each) < 2:
                    return ()
                least = least_steps * trainings(2) * max(each) + given - trainings(2) * _share(given, scored[:2])
                if least > self.stretch * given:
                    self.enough = self.budget.minutes * least / given / self.stretch
                    return ()
                given, networks = least, 2
                self.given_s = given
            share = _share(given, scored[:networks])
            pairs = list(zip(contenders[:networks], each[:networks], strict=True))
            return tuple((c.name, max(least_steps, round(share / s))) for c, s in pairs)

        steps = {name: int(n) for name, n in self.keep.value(f"{self.part}_steps", decide)}
        self.given_s = self.keep.value(f"{self.part}_seconds", lambda: self.given_s)
        return steps

    def answer_seconds(self, spec: ArchSpec) -> float:
        """Seconds in which `spec` answers an image and is scored on it, on this machine."""
        net, some = on_device(spec, None), subset(self.images.held_out, ANSWERED)
        at = [time.monotonic()]
        for _ in range(ANSWERS):
            self.images.work.answers(net, some, spec.resolution)
            at.append(time.monotonic())
        return float(np.median(np.diff(at[1:]))) / len(some)  # the first time chooses kernels

    def _scored_s(self, spec: ArchSpec) -> float:
        """Seconds after a training of a round: its batch norms are settled, and the choosing images are answered."""
        batch = scratch_fit(self.images, spec.resolution, LEAST).batch
        settling = min(SETTLED * max(64, batch) // batch * batch, len(self.images.train))
        return self.answer_seconds(spec) * (settling + len(self.few.held_out))


def steps_in_time(images: Images, budget: Budget, steps: int | None = None) -> Callable[[ArchSpec], float] | None:
    """Training steps that a network learns for at least where it is delivered: `steps` by hand, else what this machine
    does in its part of the time; None where nothing is timed."""
    if steps is not None:
        return lambda spec: steps
    if not budget.timed:
        return None
    return lambda spec: budget.seconds("training") / scratch_step_seconds(spec, images, PROBED)
