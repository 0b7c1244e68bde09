"""Weights from elsewhere into a network: everything that does not fit is listed at once."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from mbv3.errors import BadInput
from mbv3.nn import unusable

__all__ = ["adopt"]

_MOST = 12


def _some(names: list[str]) -> str:
    return ", ".join(names[:_MOST]) + (f", and {len(names) - _MOST} more" if names[_MOST:] else "")


def adopt(net: nn.Module, state: Mapping[str, Tensor], source: str, *, new_head: bool = True) -> list[str]:
    """Load `state` into `net`; the names of the head's weights that stay as they were, because `state` has none that
    fit: another task, or other classes. Batch counters may be absent.

    Raises:
        BadInput: weights of another network: missing, extra and mis-shaped names, all listed; values that are no
            numbers.
    """
    own = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    given = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}

    def head(name: str) -> bool:
        return new_head and name.startswith(("head.", "aux."))

    wrong = [
        f"{k} {tuple(given[k].shape)}, here {tuple(own[k].shape)}"
        for k in own if k in given and given[k].shape != own[k].shape and not head(k)
    ]  # fmt: skip
    missing = [k for k in own if k not in given and not head(k)]
    extra = [k for k in given if k not in own and not head(k)]
    if missing or wrong:  # then a name that nobody knows is no other head's
        extra = [k for k in given if k not in own and (not head(k) or k.startswith("head.("))]
    if missing or extra or wrong:
        lines = [
            f"  {len(names)} {what}: {_some(names)}"
            for what, names in (("missing", missing), ("not in this network", extra), ("of another shape", wrong))
            if names
        ]
        raise BadInput("\n".join([f"{source}: weights of another network; give those of this one", *lines]))
    room = net.state_dict()
    fits = {k: v for k, v in state.items() if k in room and v.shape == room[k].shape}
    lines = [f"{k} is {v.dtype}" for k, v in fits.items() if room[k].is_floating_point() and not v.is_floating_point()]
    if lines := [*lines, *unusable(fits)]:
        more = [f"and {len(lines) - _MOST} more"] if lines[_MOST:] else []
        text = "\n".join(f"  {line}" for line in [*lines[:_MOST], *more])
        raise BadInput(f"{source}: weights that no network can answer with; take an earlier checkpoint\n{text}")
    net.load_state_dict(fits, strict=False)
    return [k for k in own if k not in fits]
