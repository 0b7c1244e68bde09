"""Weights that no network can answer with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["unusable"]

_LEAST_VARIANCE = -1e-6  # rounding may bring a variance below zero by this much

_ENDS = {
    torch.float16: "; it is stored as fp16, which ends at 65504",
    torch.float64: "; it is stored as fp64, and networks are run in fp32, which ends at 3.4e38",
}


def unusable(state: Mapping[str, Tensor]) -> list[str]:
    """A line for every tensor that holds NaN or Inf, or a variance below zero, by its name in `state`; one where all
    kernels hold zeros only."""
    found = []
    kernels = [v for v in state.values() if v.dim() > 1 and v.is_floating_point()]
    if kernels and not any(bool(v.any()) for v in kernels):
        found.append(f"all of its {len(kernels)} kernels hold zeros only")
    for name, value in state.items():
        if not value.is_floating_point():
            continue
        nan, inf = int(value.isnan().sum()), int(value.float().isinf().sum())
        if nan or inf:
            kinds = " and ".join(f"{n} {kind}" for n, kind in ((nan, "NaN"), (inf, "Inf")) if n)
            why = _ENDS.get(value.dtype, "") if inf else ""
            found.append(f"{name} is not finite: {kinds} of {value.numel()} values{why}")
        elif name.endswith("running_var") and value.numel() and float(value.min()) < _LEAST_VARIANCE:
            found.append(f"{name} has a variance of {float(value.min()):g}")
    return found
