"""Runtimes behind one seam: open a layer or a network, run it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Protocol

from mbv3.errors import BadInput
from mbv3.graph import layer_model, layer_tflite, network_model, network_tflite
from mbv3.latency.fingerprint import Fingerprint, this_cpu
from mbv3.latency.sessions import PACKAGES, Run, open_litert, open_onnxruntime
from mbv3.spec import ArchSpec, LayerKey

__all__ = ["RUNTIMES", "LiteRt", "OnnxRuntime", "Runtime", "open_runtime"]


class Runtime(Protocol):
    """What times networks on this machine."""

    @property
    def fingerprint(self) -> Fingerprint: ...

    def layer(self, key: LayerKey) -> Run: ...

    def network(self, spec: ArchSpec) -> Run: ...


@dataclass(frozen=True, slots=True)
class OnnxRuntime:
    """ONNX Runtime on this machine's CPU."""

    threads: int = 1

    @property
    def fingerprint(self) -> Fingerprint:
        return this_cpu("onnxruntime", version(PACKAGES["onnxruntime"]), self.threads)

    def layer(self, key: LayerKey) -> Run:
        return open_onnxruntime(layer_model(key), self.threads)

    def network(self, spec: ArchSpec) -> Run:
        return open_onnxruntime(network_model(spec), self.threads)


@dataclass(frozen=True, slots=True)
class LiteRt:
    """LiteRT, what TFLite is called now, on this machine's CPU."""

    threads: int = 1

    @property
    def fingerprint(self) -> Fingerprint:
        return this_cpu("litert", version(PACKAGES["litert"]), self.threads)

    def layer(self, key: LayerKey) -> Run:
        return open_litert(layer_tflite(key), self.threads)

    def network(self, spec: ArchSpec) -> Run:
        return open_litert(network_tflite(spec), self.threads)


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
