"""Runtimes behind one seam: open a layer or a network, run it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Protocol

import numpy as np

from mbv3.errors import BadInput
from mbv3.graph import layer_model, layer_tflite, network_model, network_tflite
from mbv3.latency.fingerprint import Fingerprint, this_cpu
from mbv3.spec import ArchSpec, LayerKey

__all__ = ["RUNTIMES", "LiteRt", "OnnxRuntime", "Run", "Runtime", "open_runtime"]

Run = Callable[[], None]  # one inference at batch 1


class Runtime(Protocol):
    """What times networks on this machine."""

    @property
    def fingerprint(self) -> Fingerprint: ...

    def layer(self, key: LayerKey) -> Run: ...

    def network(self, spec: ArchSpec) -> Run: ...


@dataclass(frozen=True, slots=True)
class OnnxRuntime:
    """ONNX Runtime's CPU provider, all graph optimisations on."""

    threads: int = 1

    @property
    def fingerprint(self) -> Fingerprint:
        import onnxruntime

        return this_cpu("onnxruntime", onnxruntime.__version__, self.threads)

    def _open(self, model: bytes) -> Run:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        x, y = session.get_inputs()[0], session.get_outputs()[0]
        data = np.random.default_rng(0).standard_normal(x.shape, dtype=np.float32)
        # inputs and outputs stay in place: allocating them anew would be timed as page faults
        binding = session.io_binding()
        binding.bind_ortvalue_input(x.name, onnxruntime.OrtValue.ortvalue_from_numpy(data))
        out = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(y.shape, dtype=np.float32))
        binding.bind_ortvalue_output(y.name, out)

        def run() -> None:
            session.run_with_iobinding(binding)

        return run

    def layer(self, key: LayerKey) -> Run:
        return self._open(layer_model(key))

    def network(self, spec: ArchSpec) -> Run:
        return self._open(network_model(spec))


@dataclass(frozen=True, slots=True)
class LiteRt:
    """LiteRT's interpreter, what TFLite is called now, with XNNPACK."""

    threads: int = 1

    @property
    def fingerprint(self) -> Fingerprint:
        return this_cpu("litert", version("ai-edge-litert"), self.threads)

    def _open(self, model: bytes) -> Run:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_content=model, num_threads=self.threads)
        interpreter.allocate_tensors()
        x = interpreter.get_input_details()[0]
        data = np.random.default_rng(0).standard_normal(x["shape"], dtype=np.float32)
        interpreter.set_tensor(x["index"], data)
        return interpreter.invoke  # type: ignore[no-any-return]

    def layer(self, key: LayerKey) -> Run:
        return self._open(layer_tflite(key))

    def network(self, spec: ArchSpec) -> Run:
        return self._open(network_tflite(spec))


RUNTIMES: dict[str, type[OnnxRuntime | LiteRt]] = {"onnxruntime": OnnxRuntime, "litert": LiteRt}


def open_runtime(name: str, threads: int) -> Runtime:
    """The runtime `name` with `threads` threads. Raises: BadInput."""
    if name not in RUNTIMES:
        raise BadInput(f"--runtime must be one of {', '.join(RUNTIMES)} (got {name!r})")
    if name == "litert" and find_spec("ai_edge_litert") is None:
        raise BadInput("--runtime litert: LiteRT is not installed; pip install 'mbv3-search[litert]'")
    cores = os.cpu_count() or 1
    if not 1 <= threads <= cores:
        raise BadInput(f"--threads must be from 1 to {cores}, this machine's cores (got {threads})")
    return RUNTIMES[name](threads)
