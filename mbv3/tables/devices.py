"""The devices that are known without a measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mbv3.latency import Fingerprint, load_profile, open_runtime, profile_names

__all__ = ["KnownDevices", "Profile", "known_devices"]


@dataclass(frozen=True, slots=True)
class Profile:
    """A phone known by published measurements; errors in percent."""

    name: str
    fingerprint: Fingerprint
    sources: tuple[str, ...]
    blocks: Mapping[str, float]  # errors on blocks held out by channel pair: rmspe, within_10, spearman, n
    networks: tuple[Mapping[str, Any], ...]  # published whole networks: network, published_ms, predicted_ms, error


@dataclass(frozen=True, slots=True)
class KnownDevices:
    """This machine, and the phones with a profile."""

    here: Fingerprint
    profiles: tuple[Profile, ...]


def known_devices() -> KnownDevices:
    """This machine, and every profile with its sources and errors."""
    return KnownDevices(open_runtime("onnxruntime", 1).fingerprint, tuple(map(_profile, profile_names())))


def _profile(name: str) -> Profile:
    table = load_profile(name)
    about = dict(table.about or {})
    return Profile(name, table.fingerprint, tuple(about["source"]), about["blocks"], tuple(about["networks"]))
