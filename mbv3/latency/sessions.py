"""Model files, given as bytes, opened and run. Needs numpy and the runtime only: a kit contains a copy of this file."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import NamedTuple

import numpy as np

from mbv3.latency.fingerprint import Fingerprint, this_cpu

__all__ = ["KINDS", "Kind", "Run", "open_litert", "open_onnxruntime"]

Run = Callable[[], None]  # one inference at batch 1


def open_onnxruntime(model: bytes, threads: int) -> Run:
    """ONNX Runtime's CPU provider, all graph optimisations on."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if threads > 1:  # or its threads spin for tens of ms after a run, on the cores where the next session is timed
        options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    # inputs and outputs are allocated once: page faults of new ones would be timed too
    binding = session.io_binding()
    for x in session.get_inputs():
        data = rng.standard_normal(x.shape, dtype=np.float32)
        binding.bind_ortvalue_input(x.name, onnxruntime.OrtValue.ortvalue_from_numpy(data))
    for y in session.get_outputs():
        out = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(y.shape, dtype=np.float32))
        binding.bind_ortvalue_output(y.name, out)

    def run() -> None:
        session.run_with_iobinding(binding)

    return run


def open_litert(model: bytes, threads: int) -> Run:
    """LiteRT's interpreter with XNNPACK."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model, num_threads=threads)
    interpreter.allocate_tensors()
    rng = np.random.default_rng(0)
    for x in interpreter.get_input_details():
        interpreter.set_tensor(x["index"], rng.standard_normal(x["shape"], dtype=np.float32))
    return interpreter.invoke  # type: ignore[no-any-return]


class Kind(NamedTuple):
    """A runtime with a precision: how its models are opened, and the package for it."""

    open: Callable[[bytes, int], Run]
    runtime: str
    package: str
    precision: str

    def fingerprint(self, threads: int) -> Fingerprint:
        """The fingerprint of this machine with it. Raises: PackageNotFoundError."""
        return this_cpu(self.runtime, version(self.package), threads, self.precision)


KINDS = {
    "onnxruntime": Kind(open_onnxruntime, "onnxruntime", "onnxruntime", "fp32"),
    "onnxruntime-int8": Kind(open_onnxruntime, "onnxruntime", "onnxruntime", "int8"),
    "litert": Kind(open_litert, "litert", "ai-edge-litert", "fp32"),
}
