"""The published networks, shipped as YAML, each with an optional `@width`."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib import resources
from pathlib import Path

from mbv3.errors import BadInput, shown
from mbv3.spec.arch import ArchSpec
from mbv3.spec.scaling import TailRule, WidthRule, scale_spec
from mbv3.spec.yamlio import parse_spec, read_spec

__all__ = ["RULES", "load_spec", "reference_names", "width_rules"]

# How each family scales its width (torchvision's published models).
RULES: dict[str, tuple[WidthRule, TailRule]] = {
    "mobilenet_v3_large": ("table", "ratio"),
    "mobilenet_v3_small": ("table", "ratio"),
    "mobilenet_v2": ("ratio", "fixed-below-1"),
    "mnasnet_a1": ("ratio", "fixed"),
    "mnasnet_b1": ("ratio", "fixed"),
}


def reference_names() -> tuple[str, ...]:
    """Names that `load_spec` knows without a file."""
    return tuple(RULES)


def width_rules(name: str) -> tuple[WidthRule, TailRule]:
    """The width rule of a named network, MobileNetV3's for any other."""
    return RULES.get(name.partition("@")[0], ("table", "ratio"))


def load_spec(name_or_path: str | Path) -> ArchSpec:
    """A network by name (`mobilenet_v3_large`, `mobilenet_v2@0.75`) or from a YAML file.

    Raises:
        BadInput: neither a known name nor a readable file, or a bad width.
        DocumentError: the file breaks its rules.
    """
    text = str(name_or_path)
    name, at, width_text = text.partition("@")
    if name not in RULES:
        path = Path(name_or_path)
        # os.path.exists answers False for names that Path.exists() raises on (too long, a NUL byte)
        if text and (path.suffix in (".yaml", ".yml") or os.path.exists(path)):
            return read_spec(path)
        raise BadInput(f"{shown(text)} is neither a YAML file nor one of the networks {', '.join(RULES)}")
    try:
        width = float(width_text) if at else 1.0
    except ValueError:
        width = -1.0
    if not 0.05 <= width <= 8:
        raise BadInput(f"{name}@: the width after @ must be a number from 0.05 to 8 (got {shown(width_text)})")
    source = f"{name}.yaml"
    spec = parse_spec((resources.files("mbv3.spec") / "networks" / source).read_text("utf-8"), source)
    exp_rule, tail_rule = RULES[name]
    scaled = scale_spec(spec, width, exp_rule=exp_rule, tail_rule=tail_rule)
    return scaled if width == 1.0 else replace(scaled, name=f"{name}@{width:g}")
