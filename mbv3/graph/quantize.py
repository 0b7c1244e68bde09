"""An ONNX file in int8, by ONNX Runtime's own static quantization."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

__all__ = ["quantized"]


def quantized(model: bytes, images: Sequence[NDArray[np.float32]] = ()) -> bytes:
    """`model` with int8 weights, one scale a channel, and uint8 activations, their ranges calibrated on `images`, each
    (1, C, H, W) as the network takes it; without them on one random image, which is enough to time it.

    Input and output stay float; between them ONNX Runtime runs integer kernels where it has them (QDQ format).
    """
    # slow to import, and only wanted here
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    graph = onnx.load_from_string(model).graph
    rng = np.random.default_rng(0)
    shapes = {x.name: [d.dim_value for d in x.type.tensor_type.shape.dim] for x in graph.input}
    given = [{"input": image} for image in images]
    if not given:  # a head alone has several inputs
        given = [{name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = list(given)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return self.left.pop() if self.left else None

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it advises on every file to preprocess what is written folded here
    try:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "int8.onnx"
            quantize_static(
                onnx.load_from_string(model), out, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            )  # fmt: skip
            return out.read_bytes()
    finally:
        logging.disable(before)
