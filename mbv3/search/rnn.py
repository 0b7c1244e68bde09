"""The RNN controller as a sampler (Tan 2019, arXiv:1807.11626)."""

from __future__ import annotations

from typing import Any

import numpy as np

from mbv3.search.aim import Aim, Genomes
from mbv3.search.controller import Controller
from mbv3.search.proposer import Proposer, Rewards
from mbv3.space import SearchSpace

__all__ = ["RnnSampler"]

_BATCH = 4  # trials of the first batches
_HEAT = 0.5  # added to the temperature of the draws by each attempt that found nothing new
_MOST = 256  # trials that the policy is fitted to: all up to here, then the best and the latest


class RnnSampler(Proposer):
    """Batches from one policy, which is fitted to all trials after each. `controller`: arguments of Controller."""

    def __init__(self, space: SearchSpace, seed: int, **controller: Any) -> None:
        super().__init__(space, seed)
        self._options = controller

    def open(self, aim: Aim) -> None:
        super().open(aim)
        self.controller = Controller(self.sizes, self.seed, **self._options)

    def batch(self, start: int) -> int:
        """Four at first; where there are many trials each one teaches little."""
        return max(_BATCH, start // 10)

    def propose(self, rng: np.random.Generator, start: int, n: int, attempt: int) -> Genomes:
        if not len(self.rewards):  # departure: the policy is uniform still, and networks near the target teach more
            return self.first(rng, n)
        # half of the draws go where there is a limit, and half of the rest
        return self.slower(self.controller.sample(rng, 8 * n, temperature=1 + _HEAT * attempt))

    def learn(self, genomes: Genomes, rewards: Rewards) -> None:
        n = len(self.rewards)
        self.controller.update(*self.instructive(n, _MOST), np.random.default_rng((self.seed, n, 1)))
