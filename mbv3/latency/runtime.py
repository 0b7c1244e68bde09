"""Runtimes behind one seam: open a layer or a network, run it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mbv3.errors import BadInput
from mbv3.graph import layer_model, layer_tflite, network_model, network_tflite, onnx_weights, tflite_weights
from mbv3.latency.fingerprint import Fingerprint, this_cpu
from mbv3.latency.sessions import OPEN, PACKAGES, Run
from mbv3.spec import ArchSpec, LayerKey

__all__ = ["MODELS", "RUNTIMES", "LiteRt", "OnnxRuntime", "Runtime", "check_runtime", "open_runtime"]


class Runtime(Protocol):
    """What times networks on this machine."""

    @property
    def fingerprint(self) -> Fingerprint: ...

    def layer(self, key: LayerKey) -> Run: ...

    def network(self, spec: ArchSpec) -> Run: ...


class Models(NamedTuple):
    """How a runtime's files are written, and where the weights in one are."""

    layer: Callable[[LayerKey], bytes]
    network: Callable[[ArchSpec], bytes]
    weights: Callable[[bytes], Iterator[tuple[int, NDArray[np.float32]]]]


MODELS = {
    "onnxruntime": Models(layer_model, network_model, onnx_weights),
    "litert": Models(layer_tflite, network_tflite, tflite_weights),
}


@dataclass(frozen=True, slots=True)
class _Here:
    """A runtime on this machine's CPU."""

    name: ClassVar[str]
    threads: int = 1

    @property
    def fingerprint(self) -> Fingerprint:
        return this_cpu(self.name, version(PACKAGES[self.name]), self.threads)

    def layer(self, key: LayerKey) -> Run:
        return OPEN[self.name](MODELS[self.name].layer(key), self.threads)

    def network(self, spec: ArchSpec) -> Run:
        return OPEN[self.name](MODELS[self.name].network(spec), self.threads)


class OnnxRuntime(_Here):
    """ONNX Runtime on this machine's CPU."""

    __slots__ = ()
    name = "onnxruntime"


class LiteRt(_Here):
    """LiteRT, what TFLite is called now, on this machine's CPU."""

    __slots__ = ()
    name = "litert"


RUNTIMES: dict[str, type[OnnxRuntime | LiteRt]] = {kind.name: kind for kind in (OnnxRuntime, LiteRt)}


def check_runtime(name: str) -> None:
    """Raises: BadInput where there is no runtime of that name."""
    if name not in RUNTIMES:
        raise BadInput(f"--runtime must be one of {', '.join(RUNTIMES)} (got {name!r})")


def open_runtime(name: str, threads: int) -> Runtime:
    """The runtime `name` with `threads` threads. Raises: BadInput."""
    check_runtime(name)
    if name == "litert" and find_spec("ai_edge_litert") is None:
        raise BadInput("--runtime litert: LiteRT is not installed; pip install 'mbv3-search[litert]'")
    cores = os.cpu_count() or 1
    if not 1 <= threads <= cores:
        raise BadInput(f"--threads must be from 1 to {cores}, this machine's cores (got {threads})")
    return RUNTIMES[name](threads)
