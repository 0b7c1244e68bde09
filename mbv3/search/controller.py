"""The RNN controller: one-layer LSTM of 100 units, one softmax a decision (Tan 2019; Zoph 2018, arXiv:1707.07012)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["Controller"]


class Controller(nn.Module):
    """A policy over genomes that is fitted to every trial.

    One LSTM of `units`, uniform initialisation in [-0.1, 0.1], Adam (appendix of Zoph 2018). Departure: policy
    gradients (REINFORCE, PPO) use a trial once; here `update` fits the log-probabilities of all trials to their
    advantages over `temperature`. That is the policy of the largest reward plus entropy, by the log-variance loss
    (Richter 2020, arXiv:2010.10436; for replayed trials Nachum 2017, arXiv:1702.08892). Its gradient on fresh draws is
    the policy gradient against a baseline without lag, the mean of the other genomes. With PPO a search took three
    times as many trials. An update takes `steps` steps of rate `lr`, each on `minibatch` trials.
    """

    def __init__(
        self,
        sizes: tuple[int, ...],
        seed: int,
        *,
        units: int = 100,
        lr: float = 3e-3,
        temperature: float = 0.15,
        steps: int = 10,
        minibatch: int = 64,
    ) -> None:
        super().__init__()
        self.sizes = sizes
        self.temperature, self.steps, self.minibatch = temperature, steps, minibatch
        self.embedding = nn.Embedding(1 + sum(sizes), units)  # 0 starts the sequence
        self.lstm = nn.LSTM(units, units, batch_first=True)
        self.heads = nn.Linear(units, sum(sizes))  # one softmax a decision: each reads its own columns
        self.offsets = [sum(sizes[:i]) for i in range(len(sizes))]
        generator = torch.Generator().manual_seed(seed)
        for p in self.parameters():
            nn.init.uniform_(p, -0.1, 0.1, generator=generator)
        width = max(sizes)
        columns = torch.zeros(len(sizes), width, dtype=torch.long)
        mask = torch.full((len(sizes), width), -torch.inf)
        for i, n in enumerate(sizes):
            columns[i, :n] = torch.arange(n) + self.offsets[i]
            mask[i, :n] = 0.0
        self.columns, self.mask = columns, mask
        self.optimizer = torch.optim.Adam(self.parameters(), lr=lr)

    @torch.no_grad()
    def sample(self, rng: np.random.Generator, n: int, *, temperature: float = 1.0) -> NDArray[np.int64]:
        """`n` genomes, (n, decisions). A higher `temperature` is nearer to uniform."""
        draws = rng.random((n, len(self.sizes)))
        token = torch.zeros(n, 1, dtype=torch.long)
        state: tuple[Tensor, Tensor] | None = None
        out = np.zeros((n, len(self.sizes)), dtype=np.int64)
        for i, size in enumerate(self.sizes):
            hidden, state = self.lstm(self.embedding(token), state)
            start = self.offsets[i]
            logits = nn.functional.linear(
                hidden[:, 0], self.heads.weight[start : start + size], self.heads.bias[start : start + size]
            )
            share = np.cumsum(torch.softmax(logits.double() / temperature, 1).numpy(), axis=1)
            out[:, i] = np.minimum((draws[:, i : i + 1] > share).sum(1), size - 1)
            token = torch.from_numpy(out[:, i : i + 1]) + start + 1
        return out

    def log_p(self, genomes: Tensor) -> Tensor:
        """Log-probability (n,) of genomes (n, decisions) under the policy."""
        offsets = torch.tensor(self.offsets)
        tokens = torch.cat([torch.zeros(len(genomes), 1, dtype=torch.long), genomes[:, :-1] + offsets[:-1] + 1], 1)
        hidden, _ = self.lstm(self.embedding(tokens))
        logits = self.heads(hidden)  # (n, decisions, all columns)
        own = logits.gather(2, self.columns.expand(len(genomes), -1, -1)) + self.mask
        chosen: Tensor = torch.log_softmax(own, 2).gather(2, genomes[:, :, None]).squeeze(2).sum(1)
        return chosen

    def update(self, genomes: NDArray[np.int64], advantages: NDArray[np.float64], rng: np.random.Generator) -> None:
        """Fit the policy to genomes (n, decisions) and their advantages (n,), finite and of unit size."""
        if len(advantages) < 2:  # one says nothing about another
            return
        taken, wanted = torch.from_numpy(genomes), torch.from_numpy(advantages).float()
        for _ in range(self.steps):
            some = torch.from_numpy(rng.permutation(len(advantages))[: self.minibatch])
            off = self.temperature * self.log_p(taken[some]) - wanted[some]
            loss = (off - off.mean()).square().mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            # departure: clipped, as one bad batch must not end the policy
            nn.utils.clip_grad_norm_(self.parameters(), 1.0)
            self.optimizer.step()
