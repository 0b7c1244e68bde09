"""`--init` and `--teacher-weights`: our weights, or those of torchvision, timm, mmpretrain and mmsegmentation, whose
names are put into ours. Nothing that a file contains is executed."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mbv3.errors import BadInput
from mbv3.export import FRAMEWORKS, Names
from mbv3.spec import ArchSpec, Classify, with_head
from mbv3.training import read_weights

__all__ = ["initial_weights"]

PICKLED = (".pth", ".pt", ".bin")
CLASSIFIERS = ("torchvision", "timm", "mmpretrain")


def initial_weights(path: Path, spec: ArchSpec) -> tuple[dict[str, Tensor], str]:
    """(weights under our names, whose names they had); names that no table knows stay as they are.

    Raises:
        BadInput: the file cannot be read, or holds more than tensors.
    """
    state = _unpickled(path) if path.suffix.lower() in PICKLED else read_weights(path)
    state = {k.removeprefix("module."): v for k, v in state.items()}  # of DistributedDataParallel
    if "stem.conv.weight" in state:
        return state, "mbv3"
    forms = [(name, f.names(spec)) for name, f in FRAMEWORKS.items() if not any(f.faults(spec))]
    # a classifier's weights begin a segmentation network or a detector, too; a features layer moves timm's names
    plain = [spec]
    if not isinstance(spec.head, Classify):
        plain = [with_head(spec, Classify(features=n, classes=2)) for n in (8, 0)]
    forms += [(name, FRAMEWORKS[name].names(p)) for name in CLASSIFIERS for p in plain]
    return max((_renamed(state, name, names) for name, names in forms), key=lambda found: found[2])[:2]


def _renamed(state: Mapping[str, Tensor], framework: str, names: Names) -> tuple[dict[str, Tensor], str, int]:
    """`state` under our names where `names` has them, the framework, and how many; without most of them, as it is."""
    ours = {theirs: module for module, theirs in names.modules}
    renamed: dict[str, Tensor] = {}
    known = 0
    for name, value in state.items():
        module, _, leaf = name.rpartition(".")
        if module not in ours:
            renamed[f"head.({name})"] = value  # of a head that is not ours
            continue
        known += 1
        renamed[f"{ours[module]}.{leaf}"] = value.flatten(1) if module in names.as_conv and leaf == "weight" else value
    return (renamed, framework, known) if known > len(state) / 2 else (dict(state), "", known)


def _unpickled(path: Path) -> dict[str, Tensor]:
    """Tensors of a file of torch.save, by the reader that refuses everything else in a pickle."""
    if not path.exists():
        raise BadInput(f"{path}: no such weights file")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, ValueError, EOFError, KeyError) as e:
        why = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise BadInput(
            f"{path}: holds more than tensors, or is none of torch's files ({why}); convert it to safetensors where "
            "you trust it"
        ) from None
    for key in ("state_dict", "model", "model_ema"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise BadInput(f"{path}: holds no state dict (names with tensors)")
    return {str(k): v for k, v in content.items()}
