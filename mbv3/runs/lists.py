"""Options that are lists: several targets, several devices and their weights."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

from mbv3.errors import BadInput, plain

__all__ = ["check_devices", "check_targets", "numbers", "split_devices", "targets"]


def numbers(text: str, flag: str) -> tuple[float, ...]:
    """Positive numbers with commas between. Raises: BadInput."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(math.isfinite(n) and n > 0 for n in found):
        raise BadInput(f"{flag} must be numbers above 0 with commas between, such as 0.7,0.3 (got {plain(text)})")
    return found


def split_devices(device: str) -> tuple[str, ...]:
    """The devices that an option names; a file may have a comma in its name."""
    return (device,) if "," not in device or Path(device).exists() else tuple(device.split(","))


def check_devices(devices: tuple[str, ...], weights: str | None, data: str | None) -> None:
    """Raises: BadInput where several devices cannot be searched for together."""
    if weights is not None:
        n = len(numbers(weights, "--device-weights"))
        if n != len(devices) or n == 1:
            rule = (
                "belongs to several tables, --device A.csv,B.csv" if len(devices) == 1 else "needs one for each device"
            )
            raise BadInput(f"--device-weights {rule} (got {plain(weights)} for {len(devices)} device(s))")
    if len(devices) == 1:
        return
    whole = ",".join(devices)
    wrong = [d for d in devices if d in ("", "this-cpu") or d.startswith(("ssh://", "adb:"))]
    if wrong:
        raise BadInput(
            f"--device {whole}: several devices are tables as files, or names of phones (got {plain(wrong[0])!r} among "
            "them); measure each table first: mbv3 latency build --out FILE"
        )
    double = [d for i, d in enumerate(devices) if d in devices[:i]]
    if double:
        raise BadInput(f"--device {whole}: {plain(double[0])} is named twice")
    if data is not None:
        raise BadInput(f"--device {whole}: several devices are searched for without --data; leave it out (got {data})")


def targets(text: str) -> float | tuple[float, ...]:
    """`--target-ms`: a number, or several with commas between. Raises: ValueError."""
    parts = text.split(",")
    found = []
    for part in parts:
        try:
            found.append(float(part))
        except ValueError:
            raise ValueError(f"invalid float value: {part!r}") from None
    return found[0] if len(found) == 1 else tuple(found)


def check_targets(several: tuple[float, ...]) -> None:
    """Raises: BadInput where several targets do not rise."""
    text = ",".join(f"{t:g}" for t in several)
    for before, after in pairwise(several):
        if not after > before:
            why = "is there twice" if after == before else f"comes after {before:g}"
            raise BadInput(
                f"--target-ms {text}: several targets must rise, each once ({after:g} {why}); "
                f"give {','.join(f'{t:g}' for t in sorted(set(several)))}"
            )
