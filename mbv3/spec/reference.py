"""The reference networks by name and width, from the YAML files beside this module, and the family built on them."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib import resources
from pathlib import Path

from mbv3.errors import BadInput, shown
from mbv3.spec.arch import ArchSpec
from mbv3.spec.family import FAMILY
from mbv3.spec.scaling import RULES, TailRule, WidthRule, scale_spec
from mbv3.spec.yamlio import parse_spec, read_spec

__all__ = ["is_name", "load_spec", "network_names", "reference_names", "width_rules"]

# MobileNetV3 as TensorFlow and timm scale it
TENSORFLOW = {f"{name}_tensorflow": name for name in RULES if name.startswith("mobilenet_v3")}


def reference_names() -> tuple[str, ...]:
    """The classifiers as their papers have them, a YAML file each."""
    return tuple(RULES)


def network_names() -> tuple[str, ...]:
    """Every name that `load_spec` knows without a file."""
    return (*RULES, *TENSORFLOW, *FAMILY)


def width_rules(name: str) -> tuple[WidthRule, TailRule]:
    """The width rule of a named network, MobileNetV3's for any other."""
    return RULES.get(name.partition("@")[0], ("table", "ratio"))


def is_name(text: str) -> bool:
    """Whether `load_spec` takes `text` for the name of a network, not for a file."""
    return text.partition("@")[0] in network_names()


def load_spec(name_or_path: str | Path) -> ArchSpec:
    """A network by name (`mobilenet_v3_large`, `mobilenet_v2@0.75`) or from a YAML file.

    Raises:
        BadInput: neither a known name nor a readable file, or a bad width.
        DocumentError: the file breaks its rules.
    """
    text = str(name_or_path)
    name, at, width_text = text.partition("@")
    if not is_name(text):
        path = Path(name_or_path)
        # os.path.exists answers False for names that Path.exists() raises on (too long, a NUL byte)
        if text and (path.suffix in (".yaml", ".yml") or os.path.exists(path)):
            return read_spec(path)
        known = ", ".join(network_names())
        raise BadInput(f"{shown(text)} is neither a YAML file nor one of the networks {known}")
    try:
        width = float(width_text) if at else 1.0
    except ValueError:
        width = -1.0
    if not 0.05 <= width <= 8:
        raise BadInput(f"{name}@: the width after @ must be a number from 0.05 to 8 (got {shown(width_text)})")
    if name in FAMILY:
        spec = FAMILY[name](_read, width)
    else:
        rules: tuple[WidthRule, TailRule] = ("rounded-ratio", "tensorflow")
        exp_rule, tail_rule = rules if name in TENSORFLOW else RULES[name]
        spec = scale_spec(_read(TENSORFLOW.get(name, name)), width, exp_rule=exp_rule, tail_rule=tail_rule)
    return replace(spec, name=name if width == 1.0 else f"{name}@{width:g}")


def _read(name: str) -> ArchSpec:
    """A reference network as its file has it."""
    source = f"{name}.yaml"
    return parse_spec((resources.files("mbv3.spec") / "networks" / source).read_text("utf-8"), source)
