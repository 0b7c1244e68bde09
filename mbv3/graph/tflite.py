"""Ops to a TFLite file with folded batch norms, written with the schema in the LiteRT package.

Tensors are (1, H, W, C). Padding is that of torch: where SAME of TFLite would pad a strided convolution at the far side
only, a PAD with zeros and a VALID convolution are used instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3.errors import BadInput
from mbv3.graph.onnx import Shape, Weights, cells, network_weights, random_weights, results
from mbv3.graph.portable import Batch
from mbv3.spec import ArchSpec, Classify, LayerKey, Op, lower, lower_key

__all__ = ["layer_tflite", "network_tflite", "tflite_weights"]

_FUSED = {"RE": "RELU", "RE6": "RELU6"}
ALIGNMENT = 16  # of the schema's buffers


def _schema() -> Any:
    try:
        from ai_edge_litert import schema_py_generated
    except ModuleNotFoundError as e:
        raise BadInput(f"LiteRT is not installed ({e}); pip install 'mbv3-search[litert]'") from None
    except Exception as e:  # a wheel for another system fails in ways of its own
        raise BadInput(f"LiteRT is installed but cannot be loaded ({e}); install a build of ai-edge-litert for this "
                       "system") from None  # fmt: skip
    return schema_py_generated


class _Writer:
    """Collects the tensors, buffers and operators of one graph."""

    def __init__(self, description: str) -> None:
        self.s = _schema()
        self.model = self.s.ModelT(version=3, description=description, operatorCodes=[], buffers=[self._buffer(None)])
        self.graph = self.s.SubGraphT(tensors=[], operators=[], name="mbv3")
        self.codes: dict[int, int] = {}
        self.batch: int | None = 1  # None: any
        self.at: dict[str, int] = {}

    def _buffer(self, data: NDArray[Any] | None) -> Any:
        s = self.s

        class Buffer(s.BufferT):  # type: ignore[misc, name-defined]
            """Packs all bytes at once and aligned; the generated class packs byte by byte."""

            def Pack(self, builder: Any) -> Any:
                vector = None
                if data is not None:
                    raw = np.ascontiguousarray(data).tobytes()
                    builder.StartVector(1, len(raw), ALIGNMENT)
                    builder.head -= len(raw)
                    builder.Bytes[builder.head : builder.head + len(raw)] = raw
                    vector = builder.EndVector()
                s.BufferStart(builder)
                if vector is not None:
                    s.BufferAddData(builder, vector)
                return s.BufferEnd(builder)

        return Buffer()

    def tensor(self, name: str, shape: tuple[int, ...], data: NDArray[Any] | None = None) -> int:
        kind = self.s.TensorType.INT32 if data is not None and data.dtype == np.int32 else self.s.TensorType.FLOAT32
        buffer = 0  # the empty buffer: a tensor that is computed
        if data is not None:
            self.model.buffers.append(self._buffer(data))
            buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(self.s.TensorT(shape=list(shape), type=kind, buffer=buffer, name=name))
        self.at[name] = len(self.graph.tensors) - 1
        return self.at[name]

    def constant(self, name: str, data: NDArray[Any]) -> int:
        return self.at[name] if name in self.at else self.tensor(name, data.shape, data)

    def operator(self, code: str, inputs: list[int], output: int, options: str | None = None, **values: Any) -> None:
        s = self.s
        builtin = getattr(s.BuiltinOperator, code)
        if builtin not in self.codes:
            self.codes[builtin] = len(self.model.operatorCodes)
            old = min(builtin, s.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES)
            self.model.operatorCodes.append(s.OperatorCodeT(deprecatedBuiltinCode=old, builtinCode=builtin, version=1))
        op = s.OperatorT(opcodeIndex=self.codes[builtin], inputs=inputs, outputs=[output])
        if options is not None:
            op.builtinOptionsType = getattr(s.BuiltinOptions, options)
            op.builtinOptions = getattr(s, f"{options}T")(**values)
        self.graph.operators.append(op)

    def about(self, properties: Mapping[str, str]) -> None:
        """Each text as a metadata entry of its name."""
        self.model.metadata = []
        for name, text in properties.items():
            self.model.buffers.append(self._buffer(np.frombuffer(text.encode(), dtype=np.uint8)))
            self.model.metadata.append(self.s.MetadataT(name=name, buffer=len(self.model.buffers) - 1))

    def finish(self, inputs: list[int], outputs: list[int]) -> bytes:
        import flatbuffers

        self.graph.inputs, self.graph.outputs = inputs, outputs
        for tensor in self.graph.tensors if self.batch != 1 else ():
            if tensor.buffer == 0:  # what is computed, and what comes in
                tensor.shape[0] = self.batch or 1
                tensor.shapeSignature = None if self.batch else [-1, *tensor.shape[1:]]
        self.model.subgraphs = [self.graph]
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self.model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


def _padding(size: int, out: int, k: int, s: int, d: int) -> tuple[int, int, bool]:
    """(zeros before, zeros after, whether SAME of TFLite is equal) for the d (k-1)/2 of torch on each side."""
    before = d * (k - 1) // 2
    whole = (out - 1) * s + d * (k - 1) + 1
    after = max(whole - size - before, 0)
    same = max(whole - size, 0)
    return before, after, (same // 2, same - same // 2) == (before, after)


class _Ops:
    """Writes ops; an activation that TFLite can fuse becomes part of the operator before it."""

    def __init__(self, w: _Writer, folded: Weights) -> None:
        self.w, self.folded = w, folded

    def padded(self, op: Op, x: int) -> tuple[int, bool]:
        """The input of a k x k op, padded where SAME would be wrong; whether SAME is right."""
        if op.far:
            return x, True
        (top, bottom, same_h), (left, right, same_w) = (
            _padding(size, out, op.k, op.s, op.dilation) for size, out in ((op.hin, op.hout), (op.win, op.wout))
        )
        if same_h and same_w:
            return x, True
        if not (top or bottom or left or right):
            return x, False
        pads = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], dtype=np.int32)
        name = f"{op.output}/pad"
        widths = self.w.tensor(f"{name}/widths", (4, 2), pads)
        y = self.w.tensor(name, (1, op.hin + top + bottom, op.win + left + right, op.cin))
        self.w.operator("PAD", [x, widths], y, "PadOptions")
        return y, False

    def write(self, op: Op, output: str, fused: str) -> None:
        w, s = self.w, self.w.s
        x = [w.at[name] for name in op.inputs]
        shape = (1, op.hout, op.wout, op.cout)
        act = getattr(s.ActivationFunctionType, fused)
        if op.kind == "conv":
            source, same = self.padded(op, x[0])
            kernel = self.folded[op.name]  # (out, in / groups, k, k)
            depthwise = op.groups == op.cin == op.cout and op.cin > 1
            if op.groups > 1 and not depthwise:
                raise BadInput(
                    f"{op.name}: TFLite has no convolution of {op.groups} groups; use depthwise or full ones"
                )
            axes = (1, 2, 3, 0) if depthwise else (0, 2, 3, 1)
            weights = w.constant(op.name, np.ascontiguousarray(kernel.transpose(axes)))
            bias = w.constant(f"{op.name}.bias", self.folded[f"{op.name}.bias"])
            more = {"depthMultiplier": 1} if depthwise else {}
            w.operator(
                "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", [source, weights, bias], w.tensor(output, shape),
                "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions",
                padding=s.Padding.SAME if same else s.Padding.VALID, strideH=op.s, strideW=op.s,
                dilationHFactor=op.dilation, dilationWFactor=op.dilation, fusedActivationFunction=act, **more,
            )  # fmt: skip
        elif op.kind == "gpool":
            axes_ = w.constant("spatial", np.array([1, 2], dtype=np.int32))
            w.operator("MEAN", [x[0], axes_], w.tensor(output, shape), "ReducerOptions", keepDims=True)
        elif op.kind == "pool":
            self.pool(op, x[0], output)
        elif op.kind == "wpool" and op.window is not None:
            kh, kw, sh, sw = op.window
            w.operator(
                "AVERAGE_POOL_2D", x, w.tensor(output, shape), "Pool2DOptions", padding=s.Padding.VALID,
                strideH=sh, strideW=sw, filterHeight=min(kh, op.hin), filterWidth=min(kw, op.win),
            )  # fmt: skip
        elif op.kind == "apool":
            self.cells(op, x[0], output)
        elif op.kind == "resize":
            size = w.constant(f"{op.hout}x{op.wout}", np.array([op.hout, op.wout], dtype=np.int32))
            w.operator(
                "RESIZE_BILINEAR", [x[0], size], w.tensor(output, shape), "ResizeBilinearOptions",
                alignCorners=op.align, halfPixelCenters=not op.align,
            )  # fmt: skip
        elif op.kind == "concat":
            w.operator("CONCATENATION", x, w.tensor(output, shape), "ConcatenationOptions", axis=3)
        elif op.kind in ("add", "mul"):
            options = {"add": "AddOptions", "mul": "MulOptions"}[op.kind]
            w.operator(op.kind.upper(), x, w.tensor(output, shape), options, fusedActivationFunction=act)
        else:
            self.activation(op, x[0], output)

    def pool(self, op: Op, x: int, output: str) -> None:
        """An average that does not count the padding; the pool of TFLite does so only for its own window positions."""
        w, s = self.w, self.w.s
        source, same = self.padded(op, x)
        shape = (1, op.hout, op.wout, op.cout)
        mean = w.tensor(output if same else f"{output}/mean", shape)
        w.operator(
            "AVERAGE_POOL_2D", [source], mean, "Pool2DOptions",
            padding=s.Padding.SAME if same else s.Padding.VALID, strideH=op.s, strideW=op.s,
            filterHeight=op.k, filterWidth=op.k,
        )  # fmt: skip
        if not same:

            def inside(size: int, out: int) -> NDArray[np.float32]:
                first = np.arange(out) * op.s - (op.k - 1) // 2
                return (np.minimum(first + op.k, size) - np.maximum(first, 0)).astype(np.float32)

            counts = inside(op.hin, op.hout)[:, None] * inside(op.win, op.wout)[None, :]
            scale = w.tensor(f"{output}/scale", (1, op.hout, op.wout, 1), (op.k**2 / counts)[None, :, :, None])
            w.operator("MUL", [mean, scale], w.tensor(output, shape), "MulOptions")

    def cells(self, op: Op, x: int, output: str) -> None:
        """Adaptive pooling, which TFLite lacks: means of slices along the height, then along the width."""
        w, c = self.w, op.cin
        for axis, size, n, wide in ((1, op.hin, op.hout, op.win), (2, op.win, op.wout, op.hout)):
            axes = w.constant(f"axis{axis}", np.array([axis], dtype=np.int32))
            parts = []
            for i, (start, end) in enumerate(cells(size, n)):
                at = f"{output}/{axis}/{i}"
                begin, extent = ([0, start, 0, 0], [1, end - start, wide, c])
                piece: tuple[int, ...] = (1, 1, wide, c)
                if axis == 2:
                    begin, extent, piece = [0, 0, start, 0], [1, wide, end - start, c], (1, wide, 1, c)
                where = [w.tensor(f"{at}/{k}", (4,), np.array(v, dtype=np.int32)) for k, v in
                         (("begin", begin), ("size", extent))]  # fmt: skip
                cut = w.tensor(f"{at}/slice", tuple(extent))
                w.operator("SLICE", [x, *where], cut, "SliceOptions")
                mean = w.tensor(f"{at}/mean", piece)
                w.operator("MEAN", [cut, axes], mean, "ReducerOptions", keepDims=True)
                parts.append(mean)
            shape = (1, op.hout, wide, c) if axis == 1 else (1, op.hout, op.wout, c)
            x = w.tensor(f"{output}/rows" if axis == 1 else output, shape)
            w.operator("CONCATENATION", parts, x, "ConcatenationOptions", axis=axis)

    def activation(self, op: Op, x: int, output: str) -> None:
        w, s = self.w, self.w.s
        shape = (1, op.hout, op.wout, op.cout)
        if op.nl == "HSIGMOID":  # relu6(x + 3) / 6; TFLite has no operator for it
            three = w.constant("three", np.array([3], dtype=np.float32))
            sixth = w.constant("sixth", np.array([1 / 6], dtype=np.float32))
            shifted = w.tensor(f"{output}/shifted", shape)
            relu6 = s.ActivationFunctionType.RELU6
            w.operator("ADD", [x, three], shifted, "AddOptions", fusedActivationFunction=relu6)
            w.operator("MUL", [shifted, sixth], w.tensor(output, shape), "MulOptions")
            return
        if op.nl == "SILU":  # TFLite has no operator for it either
            gate = w.tensor(f"{output}/gate", shape)
            w.operator("LOGISTIC", [x], gate)
            w.operator("MUL", [x, gate], w.tensor(output, shape), "MulOptions")
            return
        code, options = {
            "HS": ("HARD_SWISH", "HardSwishOptions"), "SIGMOID": ("LOGISTIC", None), "RE": ("RELU", None),
            "RE6": ("RELU6", None),
        }[op.nl]  # fmt: skip
        w.operator(code, [x], w.tensor(output, shape), options)


def _model(
    ops: list[Op], folded: Weights, inputs: Mapping[str, Shape], outputs: Sequence[str], name: str, flat: bool,
    description: str, batch: Batch = 1, properties: Mapping[str, str] | None = None,
) -> bytes:  # fmt: skip
    w = _Writer(description)
    w.batch = None if batch == "dynamic" else batch
    if batch != 1 and any(op.kind == "apool" for op in ops):
        raise BadInput(f"--to litert --batch {batch}: adaptive pools are written for one image; leave --batch out")
    writer = _Ops(w, folded)
    sources = [w.tensor(x, (1, h, wide, c)) for x, (c, h, wide) in inputs.items()]
    readers = Counter(outputs)
    for op in ops:
        readers.update(op.inputs)
    i = 0
    while i < len(ops):
        op, fused, result = ops[i], "NONE", ops[i].output
        after = ops[i + 1] if i + 1 < len(ops) else None
        alone = after is not None and after.inputs == (op.output,) and readers[op.output] == 1
        if alone and after is not None and after.kind == "act" and after.nl in _FUSED and op.kind in ("conv", "add"):
            fused, result = _FUSED[after.nl], after.output
            i += 1
        writer.write(op, result, fused)
        i += 1
    ends = [w.at[output] for output in outputs]
    if flat:
        [end], channels = ends, ops[-1].cout
        shape = w.tensor("logits/shape", (2,), np.array([1 if batch == 1 else -1, channels], dtype=np.int32))
        logits = w.tensor(name, (1, channels))
        w.operator("RESHAPE", [end, shape], logits, "ReshapeOptions", newShape=[1 if batch == 1 else -1, channels])
        ends = [logits]
    else:
        for end, result in zip(ends, results(outputs, name), strict=True):
            w.graph.tensors[end].name = result
    if properties:
        w.about(properties)
    return w.finish(sources, ends)


def layer_tflite(key: LayerKey, seed: int = 0) -> bytes:
    """One layer as a TFLite file with random weights: `input` (1, h, w, cin) to its output; further inputs and
    outputs as in `layer_model`.

    Raises:
        BadInput: LiteRT is not installed.
    """
    layer = lower_key(key)
    ops = list(layer.ops)
    inputs = dict(zip(layer.inputs, key.inputs, strict=True))
    return _model(ops, random_weights(ops, seed), inputs, layer.outputs, "output", False, str(key))


def network_tflite(
    spec: ArchSpec,
    state: Weights | None = None,
    seed: int = 0,
    *,
    batch: Batch = 1,
    properties: Mapping[str, str] | None = None,
) -> bytes:
    """A whole network as a TFLite file: `input` (1, H, W, C) to `logits`, (1, classes) for a classifier and
    (1, H, W, classes) for a segmentation head; a detector has the outputs of `network_model`.

    `state`: arrays by torch state-dict name; None: random weights from `seed`. `batch`: images at once, or "dynamic".
    `properties`: texts that the file carries as metadata, by name.

    Raises:
        BadInput: LiteRT is not installed; `state` does not fit the network; the network has no form for the batch.
    """
    layers = lower(spec)
    ops = [op for layer in layers for op in layer.ops]
    weights = network_weights(spec, state, seed)
    inputs = {"input": layers[0].in_shape}
    flat = isinstance(spec.head, Classify)
    return _model(ops, weights, inputs, layers[-1].outputs, "logits", flat, spec.name, batch, properties)


def tflite_weights(model: bytes) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(offset in the file, values) of each float tensor of a file written here."""
    schema = _schema()
    parsed = schema.Model.GetRootAs(model)
    graph = parsed.Subgraphs(0)
    tensors = [graph.Tensors(i) for i in range(graph.TensorsLength())]
    for i in sorted({t.Buffer() for t in tensors if t.Type() == schema.TensorType.FLOAT32}):
        buffer = parsed.Buffers(i)
        if not buffer.DataIsNone():
            at = buffer._tab.Vector(buffer._tab.Offset(4))
            yield at, np.frombuffer(model, dtype="<f4", count=buffer.DataLength() // 4, offset=at)
