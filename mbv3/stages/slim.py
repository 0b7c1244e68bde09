"""Uniform slimming: every width by one factor until the target is met, filters of largest L1 norm kept."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from mbv3.nn import cut_state
from mbv3.spec import LEAST_CHANNELS, ArchSpec, Site, among, channels, cut, sites

__all__ = ["cut_by_l1", "narrower", "slimmed"]

SHARES = tuple(n / 100 for n in range(100, 3, -1))


def narrower(spec: ArchSpec, share: float, some: Collection[Site] | None = None) -> ArchSpec:
    """`spec` with `share` of the channels, in multiples of 8, at every site that NetAdapt may cut or `some`."""
    for site in (s for s in sites(spec) if among(s, some)):
        now = channels(spec, site)
        wanted = max(LEAST_CHANNELS, 8 * round(share * now / 8))
        for after in range(min(wanted, now - 1), LEAST_CHANNELS - 1, -1) if wanted < now else ():
            smaller = cut(spec, site, after)
            if smaller is not None:  # a row cannot say every count
                spec = smaller
                break
    return spec


def slimmed(
    spec: ArchSpec, latency: Callable[[Sequence[ArchSpec]], Sequence[float]], target_ms: float,
    some: Collection[Site] | None = None,
) -> ArchSpec | None:  # fmt: skip
    """The widest uniform slimming of `spec`, at all sites or `some`, that takes at most `target_ms`; None where the
    narrowest is slower."""
    low, high = 0, len(SHARES) - 1  # the answer lies between these
    if latency([narrower(spec, SHARES[high], some)])[0] > target_ms:
        return None
    while low < high:
        middle = (low + high) // 2
        if latency([narrower(spec, SHARES[middle], some)])[0] <= target_ms:
            high = middle
        else:
            low = middle + 1
    return narrower(spec, SHARES[low], some)


def cut_by_l1(state: Mapping[str, Tensor], before: ArchSpec, after: ArchSpec) -> dict[str, Tensor]:
    """`cut_state` by the L1 norm of filters (Li 2017, arXiv:1608.08710)."""
    # the sum of squares of signed roots is the sum of absolute values
    rooted = {k: v.sign() * v.abs().sqrt() if _filters(k, v) else v for k, v in state.items()}
    return {k: v * v.abs() if _filters(k, v) else v for k, v in cut_state(rooted, before, after).items()}


def _filters(name: str, value: Tensor) -> bool:
    return name.endswith(".weight") and value.dim() > 1 and value.dtype == torch.float32
