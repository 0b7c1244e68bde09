"""Scores of many networks at once with shared weights: layers that networks have in common are computed once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mbv3.space import Genome
from mbv3.spec import Layer, lower
from mbv3.supernet.model import Norms, Supernet, run_row

__all__ = ["ManyAnswers", "many_answers"]


@dataclass(frozen=True, eq=False)
class ManyAnswers:
    """`loss`: cross-entropy, `right`: whether the answer is; both (networks, images)."""

    loss: NDArray[np.float32]
    right: NDArray[np.bool_]


def many_answers(
    supernet: Supernet, genomes: Sequence[Genome], batches: Iterable[tuple[Tensor, Tensor]], norms: Norms = "batch"
) -> ManyAnswers:
    """The answers of every network on batches of (images (B, 3, H, W), labels (B,)).

    `norms`: batch norms take the statistics of each batch, which needs no labels (`batch`: recalibrated on the very
    images), or those that the training left (`running`). Networks that begin alike share what their first layers give:
    of NAS-Bench-Macro half of the work is left, of all its networks a fifth.
    """
    chains = [_chain(supernet, g) for g in genomes]
    loss, right = [], []
    with torch.inference_mode(), _still(supernet, norms):
        for x, y in batches:
            logits = torch.empty(len(chains), len(x), supernet.largest.head.classes)
            for at, out in _walk(supernet, chains, list(range(len(chains))), 0, x, norms):
                logits[at] = out.float()
            flat = logits.flatten(0, 1)
            each = nn.functional.cross_entropy(flat, y.repeat(len(chains)), reduction="none")
            loss.append(each.view(len(chains), -1).numpy())
            right.append((logits.argmax(2) == y).numpy())
    return ManyAnswers(np.concatenate(loss, 1), np.concatenate(right, 1))


# of each row what lends its weights, a row of the supernet or one of the next two, and what it is
_Chain = list[tuple[int, Layer]]
_STEM, _TAIL = -2, -1


def _chain(supernet: Supernet, genome: Genome) -> _Chain:
    layers = {layer.path: layer for layer in lower(supernet.space.spec(genome))}
    rows = [(donor, layers[f"rows[{i}]"]) for i, donor in enumerate(supernet.rows_of(genome))]
    return [(_STEM, layers["stem"]), *rows, *([(_TAIL, layers["tail"])] if "tail" in layers else [])]


def _walk(
    supernet: Supernet, chains: Sequence[_Chain], mine: Sequence[int], depth: int, x: Tensor, norms: Norms
) -> Iterator[tuple[int, Tensor]]:
    """(number, logits) of the networks `mine`, whose first `depth` rows are the same and gave `x`."""
    groups: dict[Any, list[int]] = {}
    for i in mine:
        if len(chains[i]) == depth:
            yield i, supernet.answer(x)
        else:
            donor, layer = chains[i][depth]
            groups.setdefault((donor, layer.key), []).append(i)
    for group in groups.values():
        donor, layer = chains[group[0]][depth]
        net = supernet.net
        module = net.stem if donor == _STEM else net.tail if donor == _TAIL else net.rows[donor]
        yield from _walk(supernet, chains, group, depth + 1, run_row(module, layer, x, norms), norms)


@contextmanager
def _still(supernet: Supernet, norms: Norms) -> Iterator[None]:
    """The head answers as in training, or not, without dropout, and remembers nothing."""
    head = supernet.net.head
    before = [(m, m.training, getattr(m, "momentum", None)) for m in head.modules()]
    for m in head.modules():
        m.training = norms == "batch" and isinstance(m, nn.BatchNorm2d)
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = 0.0
    try:
        yield
    finally:
        for m, training, momentum in before:
            m.training = training
            if isinstance(m, nn.BatchNorm2d):
                m.momentum = momentum
