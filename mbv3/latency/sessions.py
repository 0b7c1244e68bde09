"""Model files, given as bytes, opened and run. Needs numpy and the runtime only: a kit contains a copy of this file."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import ModuleType
from typing import NamedTuple

import numpy as np

from mbv3.latency.fingerprint import Fingerprint, this_cpu

__all__ = ["KINDS", "Kind", "Run", "RuntimeFault", "open_litert", "open_onnxruntime"]

Run = Callable[[], None]  # one inference at batch 1
LITERT = ("ai_edge_litert", "tflite_runtime")  # the same interpreter under its new name and its old one


class RuntimeFault(Exception):
    """A runtime that is not installed, or is and cannot be loaded. Says the cure in one line."""


def _present(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def loaded(modules: tuple[str, ...], package: str, inner: str = "") -> ModuleType:
    """The first of `modules` that is there, by whatever package it came (onnxruntime-gpu, -openvino), or a module
    `inner` in it.

    Raises:
        RuntimeFault: none is there; it cannot be loaded, with the loader's own words.
    """
    there = next((m for m in modules if _present(m)), None)
    if there is None:
        raise RuntimeFault(f"{package} is not installed; pip install {package}")
    try:
        return import_module(f"{there}.{inner}" if inner else there)
    except Exception as e:  # a wheel for another system fails in ways of its own
        raise RuntimeFault(f"{there} is installed but cannot be loaded ({_line(e)}); install a build of {package} for "
                           "this system, or use another --runtime") from None  # fmt: skip


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


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
    interpreter = loaded(LITERT, "ai-edge-litert", "interpreter").Interpreter(model_content=model, num_threads=threads)
    interpreter.allocate_tensors()
    rng = np.random.default_rng(0)
    for x in interpreter.get_input_details():
        interpreter.set_tensor(x["index"], rng.standard_normal(x["shape"], dtype=np.float32))
    return interpreter.invoke  # type: ignore[no-any-return]


class Kind(NamedTuple):
    """A runtime with a precision: how its models are opened, the package that opens them, and its modules' names."""

    open: Callable[[bytes, int], Run]
    runtime: str
    package: str
    precision: str
    modules: tuple[str, ...]

    def version(self) -> str:
        """As the module itself says it, else as its package does. Raises: RuntimeFault."""
        module = loaded(self.modules, self.package)
        found = getattr(module, "__version__", None)
        if isinstance(found, str) and found:
            return found
        for name in (self.package, module.__name__.replace("_", "-")):
            try:
                return version(name)
            except PackageNotFoundError:
                continue
        return "unknown"

    def fingerprint(self, threads: int) -> Fingerprint:
        """The fingerprint of this machine with it. Raises: RuntimeFault."""
        return this_cpu(self.runtime, self.version(), threads, self.precision)

    def try_out(self, model: bytes) -> None:
        """Open and run a model of this runtime: what loads may still not work. Raises: RuntimeFault."""
        try:
            self.open(model, 1)()
        except RuntimeFault:
            raise
        except Exception as e:
            raise RuntimeFault(f"{self.package} is installed but does not work here ({_line(e)}); install a build of "
                               "it for this system, or use another --runtime") from None  # fmt: skip


KINDS = {
    "onnxruntime": Kind(open_onnxruntime, "onnxruntime", "onnxruntime", "fp32", ("onnxruntime",)),
    "onnxruntime-int8": Kind(open_onnxruntime, "onnxruntime", "onnxruntime", "int8", ("onnxruntime",)),
    "litert": Kind(open_litert, "litert", "ai-edge-litert", "fp32", LITERT),
}
