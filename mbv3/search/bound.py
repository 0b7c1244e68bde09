"""How good a network of a space can be at most, where its accuracy and its costs are closed forms.

The accuracy is a concave function of sums along the chain of blocks, and a cost is such a sum. A tangent is above the
accuracy everywhere. With a price for each limit, the network that is best under a tangent less its priced costs is
found by dynamic programming, so their sum is an upper bound for every network within the limits (Lagrangean
relaxation). A linear programme over the tangents and networks met so far proposes the next tangents and prices (column
generation; Dantzig 1960); a branch and bound over the genes makes the bound smaller until time is up.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from mbv3.space import Chain, Genome, joined

__all__ = ["upper_bound"]

Array = NDArray[np.float64]
Masks = tuple[NDArray[np.bool_], ...]  # of each block, (states, choices): what is left
Path = tuple[int, ...]  # the index of choices of each block
NOTHING = 1e-7  # of the worth: a millionth of a point and less
ROUNDS, MORE = 200, 25  # linear programmes for the whole space, and for a part of it
DEAR = 1e3  # price of a limit, as a worth for all that it allows: no accuracy is worth more


@dataclass(slots=True, eq=False)
class _Problem:
    """Maximise `worth(sums)` where every cost is at most 1; both are numbers of one chain, the costs last. `tangents`
    are (slope, height at 0), each above the worth everywhere."""

    chain: Chain
    values: int
    worth: Callable[[Array], Array]
    slopes: Callable[[Array], Array]
    tangents: list[tuple[Array, float]] = field(default_factory=list)

    def touch(self, sums: Array) -> None:
        """One more tangent, at `sums`."""
        slope = self.slopes(sums)
        self.tangents.append((slope, float(self.worth(sums[None])[0]) - float(slope @ sums)))

    def numbers(self, path: Path) -> Array:
        """The chain's numbers of one network."""
        state, total = 0, self.chain.constant.copy()
        for own, part, nexts in zip(path, self.chain.parts, self.chain.nexts, strict=True):
            total += part[state, own]
            state = int(nexts[state, own])
        return np.asarray(total + self.chain.ends[state])

    def best(self, weights: Array, masks: Masks) -> tuple[float, Path, tuple[Array, ...]]:
        """(the largest weighted sum of a network that `masks` leave, that network, the largest sum through every
        choice of every block) by dynamic programming in both directions; -inf where nothing is left."""
        chain = self.chain
        gains = [np.where(m, p @ weights, -np.inf) for p, m in zip(chain.parts, masks, strict=True)]
        rest = [chain.ends @ weights]  # from a state to the end
        for gain, nexts in zip(reversed(gains), reversed(chain.nexts), strict=True):
            rest.append((gain + rest[-1][nexts]).max(axis=1))
        rest.reverse()
        before, through, path, state = np.array([float(chain.constant @ weights)]), [], [], 0
        for gain, nexts, after in zip(gains, chain.nexts, rest[1:], strict=True):
            through.append(before[:, None] + gain + after[nexts])
            path.append(int(np.argmax(gain[state] + after[nexts[state]])))
            state = int(nexts[state, path[-1]])
            reached = np.full(len(after), -np.inf)
            np.maximum.at(reached, nexts.ravel(), (before[:, None] + gain).ravel())
            before = reached
        return float(chain.constant @ weights + rest[0][0]), tuple(path), tuple(through)

    def left(self, path: Path, masks: Masks) -> bool:
        """Whether `masks` leave this network."""
        state = 0
        for own, mask, nexts in zip(path, masks, self.chain.nexts, strict=True):
            if not mask[state, own]:
                return False
            state = int(nexts[state, own])
        return True


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """A part of the space: `bound` is above the worth of all its networks within the limits. `columns`: networks of it,
    with their `shares` in the last linear programme."""

    bound: float
    masks: Masks
    columns: tuple[Path, ...]
    shares: Array


def _programme(p: _Problem, numbers: Array) -> tuple[Array, Array, Array]:
    """Mix the networks with `numbers` for the largest worth under all tangents: (share of each network, weight of each
    tangent, price of each limit). Beyond a limit a mixture pays DEAR."""
    n, (slopes, heights) = len(numbers), (np.array([t[0] for t in p.tangents]), np.array([t[1] for t in p.tangents]))
    costs = numbers[:, p.values :].T
    m = len(costs)
    above = np.concatenate(
        [-slopes @ numbers[:, : p.values].T, np.ones((len(slopes), 1)), np.zeros((len(slopes), m))], 1
    )
    within = np.concatenate([costs, np.zeros((m, 1)), -np.eye(m)], 1)
    done = linprog(
        np.concatenate([np.zeros(n), [-1.0], np.full(m, DEAR)]),
        A_ub=np.concatenate([above, within]), b_ub=np.concatenate([heights, np.ones(m)]),
        A_eq=np.concatenate([np.ones(n), np.zeros(1 + m)])[None], b_eq=[1.0],
        bounds=[(0, None)] * n + [(None, None)] + [(0, None)] * m, method="highs",
    )  # fmt: skip
    if done.x is None:
        return np.eye(n)[0], np.eye(len(slopes))[0], np.zeros(m)
    paid = np.maximum(-done.ineqlin.marginals, 0.0)
    tangents = paid[: len(slopes)]
    total = tangents.sum()
    return done.x[:n], tangents / total if total > 0 else np.eye(len(slopes))[0], paid[len(slopes) :]


def _bounded(p: _Problem, masks: Masks, columns: Sequence[Path], known: float, rounds: int, until: float) -> _Part:
    """The relaxation of a part of the space. It ends early where its bound is not above `known`; choices through which
    no better network leads are then taken out of the masks."""
    paths = [c for c in columns if p.left(c, masks)]
    bound, shares = np.inf, np.zeros(0)
    for _ in range(rounds):
        if paths:
            numbers = np.array([p.numbers(c) for c in paths])
            shares, tangents, prices = _programme(p, numbers)
            p.touch(shares @ numbers[:, : p.values])
        else:
            tangents, prices = np.eye(len(p.tangents))[-1], np.zeros(len(p.chain.constant) - p.values)
        slope = np.tensordot(tangents, np.array([t[0] for t in p.tangents[: len(tangents)]]), 1)
        height = float(tangents @ np.array([t[1] for t in p.tangents[: len(tangents)]]))
        total, path, through = p.best(np.concatenate([slope, -prices]), masks)
        if not np.isfinite(total):
            return _Part(-np.inf, masks, (), shares)
        fixed = height + float(prices.sum())
        bound = min(bound, fixed + total)
        masks = tuple(m & (fixed + t > known) for m, t in zip(masks, through, strict=True))
        if bound <= known or time.monotonic() > until:
            break
        if path in paths and paths and fixed + total - bound <= NOTHING and _settled(p, shares, paths, bound):
            break
        if path not in paths:
            paths.append(path)
    if len(shares) < len(paths):
        shares = np.concatenate([shares, np.zeros(len(paths) - len(shares))])
    return _Part(bound, masks, tuple(paths), shares)


def _settled(p: _Problem, shares: Array, paths: Sequence[Path], bound: float) -> bool:
    """Whether the mixture is worth what the bound says: no further tangent lowers it."""
    mixed = shares @ np.array([p.numbers(c) for c in paths])
    over = float(np.maximum(mixed[p.values :] - 1.0, 0.0).sum())
    return float(p.worth(mixed[None, : p.values])[0]) - DEAR * over >= bound - NOTHING


def _branches(p: _Problem, part: _Part) -> list[Masks]:
    """The masks of `part` split by the values of the gene that its mixture is least sure of."""
    most, chosen = 0.0, None
    for b, shape in enumerate(p.chain.shapes):
        own = np.array([c[b] for c in part.columns])
        for g, values in enumerate(np.unravel_index(own, shape) if shape else ()):
            weight = np.bincount(values, part.shares, shape[g])
            if (unsure := 1.0 - float(weight.max())) > most + 1e-9:
                most, chosen = unsure, (b, g)
    if chosen is None:
        return []
    b, g = chosen
    shape = p.chain.shapes[b]
    value_of = np.unravel_index(np.arange(int(np.prod(shape))), shape)[g]
    return [tuple(m & (value_of == v) if i == b else m for i, m in enumerate(part.masks)) for v in range(shape[g])]


def upper_bound(
    sums: Chain,
    worth: Callable[[Array], Array],
    slopes: Callable[[Array], Array],
    costs: Sequence[tuple[Chain, float]],
    known: float,
    *,
    first: Sequence[Genome] = (),
    seconds: float = 2.0,
) -> float:
    """A number that the worth of no network within the limits exceeds; at least `known`, the worth of a network that is
    within them.

    `worth` of `sums` (n, m) is concave, `slopes` is its gradient at (m,). `costs`: (cost, most) of each limit, every
    cost a chain of one number. `first`: good networks within the limits. The bound holds whenever the time is up.
    """
    until = time.monotonic() + seconds
    scaled = [
        Chain(c.shapes, c.constant / most, tuple(q / most for q in c.parts), c.nexts, c.ends / most)
        for c, most in costs
    ]
    p = _Problem(joined([sums, *scaled]), len(sums.constant), worth, slopes)
    paths = list(dict.fromkeys(_path(p.chain, g) for g in first))
    masks: Masks = tuple(np.ones(n.shape, dtype=bool) for n in p.chain.nexts)
    for start in paths[:1] or [tuple(0 for _ in p.chain.shapes)]:
        p.touch(p.numbers(start)[: p.values])
    root = _bounded(p, masks, paths, known, ROUNDS, until)
    order = itertools.count()
    parts = [(-root.bound, next(order), root)]
    while parts and -parts[0][0] > known + NOTHING and time.monotonic() < until:
        part = heapq.heappop(parts)[2]
        branches = _branches(p, part)
        if not branches:  # one network, worth what the tangents say
            heapq.heappush(parts, (-part.bound, next(order), part))
            break
        for branch in branches:
            child = _bounded(p, branch, part.columns, known, MORE, until)
            if (bound := min(child.bound, part.bound)) > known:
                heapq.heappush(parts, (-bound, next(order), _Part(bound, child.masks, child.columns, child.shares)))
    return max(known, -parts[0][0] if parts else known)


def _path(chain: Chain, genome: Genome) -> Path:
    path, at = [], 0
    for shape in chain.shapes:
        own = 0
        for n in shape:
            own, at = own * n + genome[at], at + 1
        path.append(own)
    return tuple(path)
