"""The RNN controller: one-layer LSTM of 100 units, one softmax a decision (Tan 2019; Zoph 2018, arXiv:1707.07012)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["Controller", "advantages"]


def advantages(rewards: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rewards (n,) less the mean of the others of the batch, at unit size and within three of it: their sum is 0 before
    that bound. Rewards of one space differ by a few percent; at unit size PPO's clip means the same in every space."""
    if len(rewards) < 2:
        return np.zeros(len(rewards))
    centred = (rewards - rewards.mean()) * len(rewards) / (len(rewards) - 1)
    size = float(np.sqrt(np.mean(centred**2)))
    scaled: NDArray[np.float64] = np.clip(centred / (size + 1e-12), -3, 3)
    return scaled if size > 1e-9 else np.zeros(len(rewards))


class Controller(nn.Module):
    """A policy over genomes with PPO updates.

    One LSTM of `units`, uniform initialisation in [-0.1, 0.1], Adam, PPO (appendix of Zoph 2018). Departures, as with
    the values there a search under a limit stood still: a baseline without lag, the mean of the other genomes of the
    batch, in place of a moving average; `lr` 2e-3, which rises over the first `warmup` updates, in place of 3.5e-4; an
    `entropy` weight that falls from 1e-2 to nothing over `updates`, in place of 1e-5 throughout.
    """

    def __init__(
        self,
        sizes: tuple[int, ...],
        seed: int,
        *,
        units: int = 100,
        lr: float = 2e-3,
        clip: float = 0.2,
        epochs: int = 4,
        entropy: float = 1e-2,
        warmup: int = 10,
        updates: int = 200,
    ) -> None:
        super().__init__()
        self.sizes = sizes
        self.lr, self.clip, self.epochs, self.entropy = lr, clip, epochs, entropy
        self.warmup, self.updates = min(warmup, max(1, updates // 4)), updates
        self.updated = 0
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

    def evaluate(self, genomes: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability (n,) and entropy (n,) of genomes (n, decisions) under the policy."""
        offsets = torch.tensor(self.offsets)
        tokens = torch.cat([torch.zeros(len(genomes), 1, dtype=torch.long), genomes[:, :-1] + offsets[:-1] + 1], 1)
        hidden, _ = self.lstm(self.embedding(tokens))
        logits = self.heads(hidden)  # (n, decisions, all columns)
        own = logits.gather(2, self.columns.expand(len(genomes), -1, -1)) + self.mask
        log_p = torch.log_softmax(own, 2)
        chosen = log_p.gather(2, genomes[:, :, None]).squeeze(2).sum(1)
        entropy = -(log_p.exp() * log_p.clamp(min=-60)).sum(2).sum(1)
        return chosen, entropy

    def update(self, genomes: NDArray[np.int64], rewards: NDArray[np.float64]) -> None:
        """PPO on one batch of finite rewards (Schulman 2017, arXiv:1707.06347)."""
        if len(rewards) == 0:
            return
        self.updated += 1
        advantage = torch.from_numpy(advantages(rewards)).float()
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * min(1.0, self.updated / self.warmup)
        weight = self.entropy * max(0.0, 1 - self.updated / self.updates)
        taken = torch.from_numpy(genomes)
        with torch.no_grad():
            old = self.evaluate(taken)[0]
        for _ in range(self.epochs):
            log_p, entropy = self.evaluate(taken)
            ratio = torch.exp(log_p - old)
            clipped = ratio.clamp(1 - self.clip, 1 + self.clip)
            loss = -torch.min(ratio * advantage, clipped * advantage).mean() - weight * entropy.mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            # departure: clipped, as one bad batch must not end the policy
            nn.utils.clip_grad_norm_(self.parameters(), 1.0)
            self.optimizer.step()
