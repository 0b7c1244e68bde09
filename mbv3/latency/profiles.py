"""Phones known by published measurements only: cost models fitted by scripts/fit_phone_profiles.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from typing import Any

import numpy as np

from mbv3.latency.costmodel import FEATURES, CostModel
from mbv3.latency.fingerprint import Fingerprint
from mbv3.latency.table import LatencyTable
from mbv3.spec import load_spec, parse_yaml

__all__ = ["load_profile", "profile_names"]

PROFILES = ("pixel-1", "note-10")
REFERENCE = "mobilenet_v3_large"


def profile_names() -> tuple[str, ...]:
    """Devices that `load_profile` knows."""
    return PROFILES


def load_profile(name: str) -> LatencyTable:
    """The profile `name` as a table without rows: every time from it is estimated.

    `about` holds its sources and errors: of `blocks`, held out by channel pair, and of published `networks`.
    """
    text = (resources.files("mbv3.latency") / "profiles" / f"{name}.yaml").read_text("utf-8")
    profile: Mapping[str, Any] = parse_yaml(text, f"{name}.yaml")
    coefficients = np.array([profile["coefficients"][f] for f in FEATURES])
    device = Fingerprint(vector="", cores=1, kernel="", governor="", **profile["device"])
    about = {
        "profile": name, "width": 1.0, "resolution": 224,
        **{k: profile[k] for k in ("source", "blocks", "networks")},
    }  # fmt: skip
    reference = {"spec": REFERENCE, "width": 1.0, "resolution": [224, 224], "classes": 1000, "ms": 1.0}
    table = LatencyTable(
        device, reference, {}, about=about, model=CostModel(coefficients, float(profile["blocks"]["rmspe"]))
    )
    ms = table.latency_ms(load_spec(REFERENCE), estimate=True)
    return replace(table, reference={**reference, "ms": ms})
