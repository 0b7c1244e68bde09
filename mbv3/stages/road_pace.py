"""How long each part of the road trains: by hand, by the number of images, or by what this machine does in the time."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from mbv3.errors import BadInput
from mbv3.spec import ArchSpec
from mbv3.stages.budget import Budget
from mbv3.stages.images import Images
from mbv3.stages.keep import Keep, Memory
from mbv3.stages.shrink_tune import scored_images
from mbv3.stages.sizes import Sizes
from mbv3.stages.tune import fit_of, scratch_step_seconds, seconds_of_step, usual_steps
from mbv3.tables import VERDICT_S

__all__ = ["Effort", "Pace", "check_minutes", "check_scratch_minutes"]

ALIKE = 0.4  # of the time that is left when the candidates are down to one; the rest belongs to what is delivered
ALIKE_MOST, LAST_MOST = 2.0, 6.0  # times the usual steps of a fine-tuning
LEAST = 10  # steps
START_LEAST = 20  # of the start
MOST_COMPARED = 3  # networks that are trained alike: what is left of the candidates, and two that anyone could take
SCRATCH_LEAST = 100  # steps of a search without weights: of shared weights, the seed, its cut, what is compared
LATE_LEAST = 0.2  # of the minutes that belong to the comparison, and to the last training, in any case
TRAINED = 0.8  # of the minutes, the rest goes to scores and measurements
SENSIBLE = 10  # times the least: a tenth of a usual fine-tuning


@dataclass(frozen=True, slots=True)
class Effort:
    """Training steps: of the start; of a candidate while it is cut; of a candidate in the first of the rounds that drop
    half of them; of each network that is compared; of the delivered one after that."""

    start: int
    cut: int
    first: int
    alike: int
    last: int

    @classmethod
    def of(cls, steps: int) -> Effort:
        """All of them in proportion to `steps` of each network that is compared."""
        part = [max(1, steps // share) for share in (2, 6, 12)]
        return cls(start=part[0], cut=max(4, part[1]), first=part[2], alike=max(1, steps), last=steps)


@dataclass
class Pace:
    """Steps as they are needed, each decided once. `effort`: all of them by hand. `rounds`: of the cut at every size,
    by default one each."""

    sizes: Sizes
    images: Images
    budget: Budget
    keep: Keep
    effort: Effort | None = None
    rounds: Sequence[int] = ()
    began: float = field(default_factory=time.monotonic)
    timed: dict[ArchSpec, float] = field(default_factory=dict)  # seconds of a step

    def candidates(self, measured: bool = True) -> Sizes:
        """The sizes without the largest of those to be cut, where the minutes do not allow all: the channels of each
        are scored, and it is `measured` whole, however few steps it has. The small ones stay, for they lose the least:
        of 42 cuts that won on Caltech-101's photos of 128 px none was above 112 px (results/road*.jsonl)."""

        def decide() -> int:
            cuts, seconds = len(self.sizes.cut), self.budget.seconds("cuts") + self.budget.seconds("cuts-measured")
            step_s = self._step_s(self.sizes.start)
            each = [VERDICT_S * measured + (LEAST + self._scored(i)) * step_s for i in range(cuts)]
            return max(1, int(np.searchsorted(np.cumsum(each), seconds, side="right")))

        if self.effort is None and self.budget.timed and len(self.sizes.cut) > 1:
            some = int(self.keep.value("candidates", decide))
            self.sizes, self.rounds = replace(self.sizes, cut=self.sizes.cut[:some]), self.rounds[:some]
        return self.sizes

    def early(self) -> tuple[int, int, int]:
        """Steps of the start, of a cut, and of the first round."""
        if self.effort is not None:
            return self.effort.start, self.effort.cut, self.effort.first

        def decide() -> tuple[int, int, int]:
            usual, share = usual_steps(self.images), self.budget.seconds
            if not self.budget.timed:
                return usual // 2, usual // 6, max(LEAST, usual // 12)
            whole, small = self._step_s(self.sizes.start), self._small_s()
            cuts = max(len(self.sizes.cut), 1)
            return (
                int(np.clip(share("start-tuned") / whole, START_LEAST, usual)),
                # the teacher answers beside it, and the network is cut on the way
                int(np.clip((share("cuts") / whole - self._all_scored()) / cuts, LEAST, usual // 2 + LEAST)),
                int(np.clip(share("candidates-halved") / trainings(cuts) / small, LEAST, usual // 3 + LEAST)),
            )

        start, cut, first = self.keep.value("early_steps", decide)
        return int(start), int(cut), int(first)

    def check(self) -> None:
        """Raises: BadInput: the minutes are too few for the fewest steps that each part takes."""
        if self.effort is not None or not self.budget.timed:
            return
        cuts = max(len(self.candidates().cut), 1)
        whole = (START_LEAST + cuts * LEAST + self._all_scored()) * self._step_s(self.sizes.start)
        small = (trainings(cuts) * LEAST + 2 * LEAST * (1 + MOST_COMPARED)) * self._small_s()
        _enough(whole + small, self.budget)

    def alike(self, networks: Sequence[ArchSpec]) -> int:
        """Steps of each of the `networks` that are compared."""
        return self._late("alike", ALIKE, ALIKE_MOST, networks)

    def last(self, network: ArchSpec) -> int:
        """Steps of the delivered network after that, from what is left of the time."""
        return self._late("last", 1.0, LAST_MOST, [network])

    def _late(self, name: Literal["alike", "last"], share: float, most: float, networks: Sequence[ArchSpec]) -> int:
        """Steps of each of `networks` in a share of the time that is left, at most so many times the usual ones."""
        if self.effort is not None:
            return self.effort.alike if name == "alike" else self.effort.last

        def decide() -> int:
            usual = usual_steps(self.images)
            if not self.budget.timed:
                return usual
            return int(np.clip(share * self._left_s() / sum(map(self._step_s, networks)), 2 * LEAST, most * usual))

        return int(self.keep.value(f"{name}_steps", decide))

    def _left_s(self) -> float:
        """Seconds that are left; a part that took more than its share leaves some to the trainings after it."""
        return max(60 * self.budget.minutes - (time.monotonic() - self.began), LATE_LEAST * 60 * self.budget.minutes)

    def _scored(self, i: int) -> float:
        """Steps of the start that take as long as what the cut at size `i` has answered beside its own steps."""
        rounds = self.rounds[i] if self.rounds else 1
        return rounds * scored_images(self.images) / fit_of(self.images, self.sizes.start, 5).batch

    def _all_scored(self) -> float:
        return sum(map(self._scored, range(len(self.sizes.cut))))

    def _small_s(self) -> float:
        """Seconds of a step of a candidate: a cut network trains hardly faster than the uncut one of its size."""
        return self._step_s([*self.sizes.cut[:1], *self.sizes.lower[-1:], self.sizes.start][0])

    def _step_s(self, spec: ArchSpec) -> float:
        """Seconds of a training step of `spec` on this machine."""
        if spec not in self.timed:
            self.timed[spec] = seconds_of_step(spec, self.images, fit_of(self.images, spec, 5))
        return self.timed[spec]


def check_minutes(sizes: Sizes, images: Images, budget: Budget) -> None:
    """Raises: BadInput: the minutes are too few to train anything on this machine."""
    Pace(sizes, images, budget, Memory()).check()


def check_scratch_minutes(spec: ArchSpec, images: Images, budget: Budget) -> None:
    """Likewise for a search without weights, whose networks train about as fast as `spec`. Raises: BadInput."""
    if budget.timed:
        step_s = scratch_step_seconds(spec, images)
        _enough(SCRATCH_LEAST * step_s, budget)


def _enough(seconds: float, budget: Budget) -> None:
    """Raises: BadInput: so many seconds of training are more than the budget has."""
    least = seconds / TRAINED / 60
    if least > budget.minutes:
        raise BadInput(
            f"--budget-minutes {budget.minutes:.3g}: too short to train anything on these images here; give at least "
            f"{math.ceil(10 * least) / 10:g}, and {math.ceil(SENSIBLE * least):g} for networks worth comparing"
        )


def trainings(cuts: int) -> int:
    """Trainings of a first round's length in all rounds: a round is twice as long as the one before, and two baselines
    learn along."""
    total, weight = 0, 1
    while cuts > 1:
        total, weight, cuts = total + weight * (cuts + 2), 2 * weight, cuts // 2
    return max(total, 1)
