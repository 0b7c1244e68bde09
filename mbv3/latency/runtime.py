"""Runtimes behind one seam: open a layer or a network, run it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mbv3.errors import BadInput
from mbv3.graph import layer_model, network_model
from mbv3.latency.fingerprint import Fingerprint, this_cpu
from mbv3.spec import ArchSpec, LayerKey

__all__ = ["OnnxRuntime", "Run", "Runtime", "open_runtime"]

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


def open_runtime(name: str, threads: int) -> Runtime:
    """The runtime `name` with `threads` threads. Raises: BadInput."""
    if name != "onnxruntime":
        raise BadInput(f"--runtime must be onnxruntime (got {name!r})")
    import os

    cores = os.cpu_count() or 1
    if not 1 <= threads <= cores:
        raise BadInput(f"--threads must be from 1 to {cores}, this machine's cores (got {threads})")
    return OnnxRuntime(threads)
