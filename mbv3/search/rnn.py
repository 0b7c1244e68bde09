"""The RNN controller as a sampler (Tan 2019, arXiv:1807.11626)."""

from __future__ import annotations

from typing import Any

import numpy as np

from mbv3.search.aim import Aim, Genomes
from mbv3.search.controller import Controller
from mbv3.search.proposer import Proposer, Rewards
from mbv3.space import SearchSpace

__all__ = ["RnnSampler"]

_HEAT = 0.5  # added to the temperature of the policy by each attempt that found nothing new


class RnnSampler(Proposer):
    """Batches from one policy, a PPO update after each. `batch`: by default a fortieth of the trials, 5 to 20 (Zoph
    2018, arXiv:1707.07012, takes 20). `controller`: arguments of Controller."""

    def __init__(self, space: SearchSpace, seed: int, *, batch: int | None = None, **controller: Any) -> None:
        super().__init__(space, seed)
        self._batch, self._options = batch, controller

    def open(self, aim: Aim) -> None:
        super().open(aim)
        self.size = self._batch or min(20, max(5, aim.trials // 40))
        updates = max(1, aim.trials // self.size)
        self.controller = Controller(self.sizes, self.seed, **{"updates": updates, **self._options})

    def batch(self, start: int) -> int:
        return self.size

    def propose(self, rng: np.random.Generator, start: int, n: int, attempt: int) -> Genomes:
        if not len(self.rewards):  # departure: the policy is uniform still, and networks near the target teach more
            return self.first(rng, n)
        return self.controller.sample(rng, 4 * n, temperature=1 + _HEAT * attempt)

    def learn(self, genomes: Genomes, rewards: Rewards) -> None:
        self.controller.update(genomes, rewards)
