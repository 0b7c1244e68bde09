"""Runtimes behind one seam: open a layer or a network, run it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mbv3.errors import BadInput
from mbv3.graph import (
    layer_model,
    layer_tflite,
    network_model,
    network_tflite,
    onnx_weights,
    quantized,
    tflite_weights,
)
from mbv3.latency.fingerprint import Fingerprint
from mbv3.latency.sessions import KINDS, Run
from mbv3.spec import ArchSpec, LayerKey

__all__ = ["MODELS", "RUNTIMES", "Here", "Runtime", "check_runtime", "open_runtime"]


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


@lru_cache(4096)  # quantizing takes a tenth of a second, and every pass opens them anew
def _int8_layer(key: LayerKey) -> bytes:
    return quantized(layer_model(key))


@lru_cache(256)  # of a check, whose parts open all networks anew
def _int8_network(spec: ArchSpec) -> bytes:
    return quantized(network_model(spec))


def _none(model: bytes) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """int8 weights are a quarter as large, and their scales belong to them: they travel as they are."""
    return iter(())


MODELS = {
    "onnxruntime": Models(layer_model, network_model, onnx_weights),
    "onnxruntime-int8": Models(_int8_layer, _int8_network, _none),
    "litert": Models(layer_tflite, network_tflite, tflite_weights),
}


@dataclass(frozen=True, slots=True)
class Here:
    """A runtime of RUNTIMES on this machine's CPU."""

    name: str
    threads: int = 1

    @property
    def fingerprint(self) -> Fingerprint:
        return KINDS[self.name].fingerprint(self.threads)

    def layer(self, key: LayerKey) -> Run:
        return KINDS[self.name].open(MODELS[self.name].layer(key), self.threads)

    def network(self, spec: ArchSpec) -> Run:
        return KINDS[self.name].open(MODELS[self.name].network(spec), self.threads)


RUNTIMES = tuple(MODELS)


def check_runtime(name: str) -> None:
    """Raises: BadInput where there is no runtime of that name."""
    if name == "litert-int8":
        raise BadInput(
            "--runtime litert-int8: LiteRT files are written in fp32 only, as no quantizer comes with its package; "
            "int8 is timed by onnxruntime-int8"
        )
    if name not in RUNTIMES:
        raise BadInput(f"--runtime must be one of {', '.join(RUNTIMES)} (got {name!r})")


def open_runtime(name: str, threads: int) -> Runtime:
    """The runtime `name` with `threads` threads. Raises: BadInput."""
    check_runtime(name)
    if KINDS[name].runtime == "litert" and find_spec("ai_edge_litert") is None:
        raise BadInput("--runtime litert: LiteRT is not installed; pip install 'mbv3-search[litert]'")
    cores = os.cpu_count() or 1
    if not 1 <= threads <= cores:
        raise BadInput(f"--threads must be from 1 to {cores}, this machine's cores (got {threads})")
    return Here(name, threads)
