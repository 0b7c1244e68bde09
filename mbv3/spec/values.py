"""Invariants of single values."""

from __future__ import annotations

from collections.abc import Iterator

from mbv3.errors import Fault, shown

__all__ = ["real", "whole"]


def whole(path: str, value: object, low: int, high: int) -> Iterator[Fault]:
    if type(value) is not int or not low <= value <= high:
        yield Fault(path, f"must be a whole number from {low} to {high}", shown(value))


def real(path: str, value: object, low: float, high: float) -> Iterator[Fault]:
    if type(value) not in (int, float) or not low <= value <= high:  # type: ignore[operator]
        yield Fault(path, f"must be a number from {low:g} to {high:g}", shown(value))
