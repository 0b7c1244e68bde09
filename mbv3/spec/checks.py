"""Invariants of values by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from mbv3.errors import Fault, shown
from mbv3.spec.heads import FCN, FLAGS, LISTS, LRASPP, NUMBERS, REALS, WORDS, DeepLabV3Plus, Dense, SSDLite
from mbv3.spec.values import real, whole

__all__ = ["check_head"]


def _each(path: str, value: object, low: int, high: int, most: int) -> Iterator[Fault]:
    if type(value) is not tuple or len(value) > most:
        yield Fault(path, f"must be a list of at most {most} numbers", shown(value))
        return
    for i, v in enumerate(value):
        yield from whole(f"{path}[{i}]", v, low, high)


def check_head(path: str, head: Dense) -> Iterator[Fault]:
    """Every broken invariant of a head by itself."""
    for f in fields(head):
        value, at = getattr(head, f.name), f"{path}.{f.name}"
        if f.name in NUMBERS:
            yield from whole(at, value, *NUMBERS[f.name])
        elif f.name in REALS:
            yield from real(at, value, *REALS[f.name])
        elif f.name in LISTS:
            yield from _each(at, value, *LISTS[f.name])
        elif f.name in WORDS and value not in WORDS[f.name]:
            yield Fault(at, f"must be one of {', '.join(WORDS[f.name])}", shown(value))
        elif f.name in FLAGS and type(value) is not bool:
            yield Fault(at, "must be true or false", shown(value))
    yield from _sizes(path, head)
    aux = getattr(head, "aux", None)
    if isinstance(aux, FCN):
        yield from check_head(f"{path}.aux", aux)
        if aux.aux is not None:
            yield Fault(f"{path}.aux.aux", "an auxiliary head has none of its own", cure="leave it out")
    elif aux is not None:
        yield Fault(f"{path}.aux", "must be an FCN head", shown(aux))


def _sizes(path: str, head: Dense) -> Iterator[Fault]:
    """Lists of a head whose lengths depend on each other."""
    if isinstance(head, LRASPP):
        if len(head.pool) not in (0, 4):
            rule = "must be a window's height and width and its stride down and across, or empty for the whole map"
            yield Fault(f"{path}.pool", rule, shown(list(head.pool)))
        wanted = len(head.branches) or 1
        if len(head.low) != wanted:
            rule = "takes one tap a branch" if head.branches else "takes one tap where there are no branches"
            yield Fault(f"{path}.low", rule, f"{len(head.low)} taps, {len(head.branches)} branches")
    elif isinstance(head, DeepLabV3Plus) and len(head.low) != 1:
        yield Fault(f"{path}.low", "takes one tap", f"{len(head.low)}")
    elif isinstance(head, SSDLite):
        if not head.maps:
            yield Fault(f"{path}.maps", "takes at least one tap", "none")
        if head.classes == 1:
            rule = "counts the background of a detector, so it must be at least 2"
            yield Fault(f"{path}.classes", rule, "1", "give one more than there are kinds of object")
        levels = len(head.maps) + len(head.extras)
        if len(head.anchors) != levels:
            rule = "must give a number for each of maps and extras"
            yield Fault(f"{path}.anchors", rule, f"{len(head.anchors)} numbers for {levels} maps")
    for name in ("scales", "rates"):
        if getattr(head, name, None) == ():
            yield Fault(f"{path}.{name}", "must have at least one entry", "none")
