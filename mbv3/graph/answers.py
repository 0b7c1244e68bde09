"""What the file itself answers, by the runtime that it is for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3.errors import BadInput, plain
from mbv3.graph.found import Found

__all__ = ["answers"]

Array = NDArray[np.float32]


def answers(content: bytes, found: Found, images: Sequence[Array], source: str = "this file") -> Array:
    """(images, classes) of a TFLite or ONNX file, one image after the other on one thread. `images`: (1, C, H, W) each,
    in the numbers that the file's input stands for; answers in those that its output stands for. `source` names it.

    Raises:
        BadInput: the runtime cannot run it.
    """
    run = _litert if content[4:8] == b"TFL3" else _onnx
    try:
        return np.stack([a.reshape(-1) for a in run(content, found, images)])
    except BadInput:
        raise
    except Exception as e:  # each runtime has errors of its own
        why = (str(e).strip() or type(e).__name__).splitlines()[0][:160]
        by = "LiteRT" if run is _litert else "ONNX Runtime"
        raise BadInput(f"{plain(source, 4096)}: {by} cannot run it ({why})") from None


def _entered(found: Found, image: Array) -> Array:
    """An image as the input takes it: channels where they belong, in codes where it wants them."""
    x = image.transpose(0, 2, 3, 1) if found.channels_last else image
    if found.codes is None:
        return np.ascontiguousarray(x, np.float32)
    step, zero, kind = found.codes
    ends = np.iinfo(np.dtype(kind))
    codes: Array = np.clip(np.round(x / step) + zero, ends.min, ends.max).astype(kind)
    return codes


def _onnx(content: bytes, found: Found, images: Sequence[Array]) -> list[Array]:
    import onnxruntime  # slow to import, and needed here only

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    step, zero = found.end_codes or (1.0, 0)
    made: list[Array] = []
    for x in images:
        y = np.asarray(session.run(None, {found.input: _entered(found, x)})[0], np.float32)
        made.append(np.asarray((y - zero) * step, np.float32))
    return made


def _litert(content: bytes, found: Found, images: Sequence[Array]) -> list[Array]:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    def ready(**how: Any) -> Any:
        net = Interpreter(model_content=content, num_threads=1, **how)
        first = net.get_input_details()[0]
        shape = [1, *_entered(found, images[0]).shape[1:]]
        if list(first["shape"]) != shape:
            net.resize_tensor_input(first["index"], shape)
        net.allocate_tensors()
        return net

    try:
        net = ready()
    except RuntimeError:  # XNNPACK takes fewer operators than LiteRT has
        net = ready(experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    first, last = net.get_input_details()[0], net.get_output_details()[0]
    scale, zero = last["quantization"]
    made: list[Array] = []
    for x in images:
        net.set_tensor(first["index"], _entered(found, x))
        net.invoke()
        y: Array = net.get_tensor(last["index"]).astype(np.float32)
        made.append(np.asarray((y - zero) * scale if scale else y, np.float32))
    return made
