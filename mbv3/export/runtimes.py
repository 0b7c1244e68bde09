"""Files for ONNX Runtime and LiteRT, batch norm folded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mbv3.errors import BadInput
from mbv3.graph import Batch, network_model, network_tflite, opset_note, portable, quantized
from mbv3.spec import ArchSpec

__all__ = ["litert_file", "onnx_file"]

Images = Sequence[NDArray[np.float32]]


def _arrays(state: Mapping[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    return {name: value.numpy() for name, value in state.items()}


def onnx_file(
    spec: ArchSpec, state: Mapping[str, Tensor], precision: str, images: Images, batch: Batch = 1,
    opset: int | None = None, properties: Mapping[str, str] | None = None,
) -> tuple[bytes, str]:  # fmt: skip
    """`input` (N, C, H, W) to `logits`, and a line on what an older opset has otherwise; in int8 the ranges of
    activations are those on `images`. Raises: BadInput."""
    model = network_model(spec, _arrays(state))
    model = quantized(model, images) if precision == "int8" else model
    return portable(model, batch=batch, opset=opset, properties=properties), opset_note(model, opset)


def litert_file(
    spec: ArchSpec, state: Mapping[str, Tensor], precision: str, batch: Batch = 1,
    properties: Mapping[str, str] | None = None,
) -> bytes:  # fmt: skip
    """`input` (N, H, W, C) to `logits`. Raises: BadInput for int8."""
    if precision == "int8":
        raise BadInput(
            "--to litert --precision int8: LiteRT files are written in fp32 only, as no quantizer comes with its "
            "package; --to onnx has int8"
        )
    return network_tflite(spec, _arrays(state), batch=batch, properties=properties)
