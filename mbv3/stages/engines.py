"""The two ways of shrinking a network, as values, and the presets of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from mbv3.netadapt import Importance
from mbv3.spec import Site

__all__ = ["PRESETS", "Joint", "Rank", "Single", "Worth"]

# of a site's channels: what they add to what its readers compute, the sum of their scores, or the loss without the
# other channels by trial
Worth = Literal["explained", "scores", "losses"]
Rank = Literal["explained", "loss"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """All sites at once in a few rounds, by the channels' scores and the latency (HALP, Shen 2022, arXiv:2110.10811).

    `importance`: what a channel's score is. `worth`: of a site by what the layers that read it cannot compute any more
    (`explained`), by the sum of the kept scores as in HALP (`scores`), or by trial cuts of every site, which take
    longer (`losses`).
    `rounds`: of cuts, by default one for every halving of the time. `allowed`: the channel counts that a site may have,
    by default multiples of 8.
    """

    importance: Importance = "taylor"
    worth: Worth = "explained"
    rounds: int | None = None
    allowed: Callable[[Site], Sequence[int]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Single:
    """A site at a time, as the paper does (Howard 2019, section 4.2, arXiv:1905.02244), each kept by its L2 norm.

    `delta`: the least cut of a step as a share of the start's ms, by default what the time allows. `rank`: proposals by
    what the layers that read a cut cannot compute any more (`explained`), so that only the chosen one is fine-tuned; or
    by the loss after fine-tuning each, beside the uncut network (`loss`). `halve`: the steps of all proposals are then
    spent by successive halving; else each gets T. `mend`: layers that read what is cut make up for it before the
    fine-tuning (He 2017, arXiv:1707.06168). `processes`: that fine-tune proposals, of one thread each, by default this
    one alone; with some the loss ranks.
    """

    delta: float | None = None
    rank: Rank = "explained"
    halve: bool = True
    mend: bool = True
    processes: int = 0


# `shrink`'s arguments by name; the paper's T, delta, filters by L2 norm and single cuts
PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "fast": {"engine": Joint()},
        "thorough": {"engine": Joint(worth="losses")},
        "paper": {"engine": Single(delta=0.01, rank="loss", halve=False, mend=False), "steps": 10_000},
    }
)
