"""What a site is worth: how much of what the layers that read it compute its channels explain."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbv3.netadapt.importance import Scores, by_site
from mbv3.nn import ChannelSet, Moments, channel_sets
from mbv3.spec import ArchSpec, Site, all_sites, channels

__all__ = ["explained", "lost"]


def explained(
    spec: ArchSpec, state: Mapping[str, Tensor], moments: Mapping[str, Moments], scores: Scores
) -> dict[Site, NDArray[np.float64]]:
    """Of every site, what each channel adds to the share of the variance that is explained of what its readers compute;
    the channels of highest score first, which `cut_state` keeps. A site's shares sum to 1, or to the number of layers
    of a head that it is the width of; to less where layers read other channels besides. Those are taken to stay, so
    that of branches that are cut together each is weighed as if the others were whole.

    The error of a layer's output after least squares is what filters have been chosen by (He 2017, arXiv:1707.06168;
    Luo 2017, arXiv:1707.06342). Here it weighs sites against each other. A loss after a few steps tells how much is to
    be learned again. This is what cannot be: no weights of the reader bring it back."""
    shares = {c.makers[0]: _shares(c, state, moments, scores[c.makers[0]]) for c in channel_sets(spec) if c.makers}
    return by_site(spec, shares)


def _shares(
    c: ChannelSet, state: Mapping[str, Tensor], moments: Mapping[str, Moments], scores: Tensor
) -> NDArray[np.float64]:
    """Of one set of channels; of several readers each counts by its multiply-adds."""
    order = scores.argsort(descending=True).cpu()
    total, work = torch.zeros(c.size, dtype=torch.float64), 0
    for name, start in c.readers:
        weight = state[f"{name}.weight"].cpu()
        if name in moments and moments[name].covariance.isfinite().all() and weight.isfinite().all():
            mine = weight.numel() * moments[name].places
            total += mine * moments[name].explained(weight, order + start)
            work += mine
    # none is known, as of an auxiliary head or one that is not finite: as if channels were alike and explained nothing
    if not work:
        return np.full(c.size, 1 / c.size)
    shares: NDArray[np.float64] = (total / work).numpy()
    return shares


def lost(before: ArchSpec, after: ArchSpec, shares: Mapping[Site, NDArray[np.float64]]) -> float:
    """The share that no layer can explain any more, summed over the sites of `before` that are cut; lower is better."""
    cut = [(s, channels(after, s)) for s in all_sites(before) if channels(after, s) < channels(before, s)]
    return float(sum(shares[s][n:].sum() for s, n in cut))
